"""What calls may take and what they took: limits, cost, energy.

Limits hold exactly over all worker processes of a node. `shared` is the ground: a private piece of memory that
processes map, with a lock that the kernel releases when its holder dies. `limits` counts on it: `LimitTable.admit`
reserves for all subjects of a call or for none, `settle` replaces what was reserved by what was used. `admission` is
what an admitted call holds, `hit` the answer when a limit is reached. `docs/limits.md` says what is exact, over which
window, and what the `x-ratelimit-*` headers mean.

`cost` makes nano-USD of tokens and rates, `energy` microjoules of tokens and coefficients; both are pure, and
`docs/metering.md` says where rates and coefficients come from and how they are rounded.
"""
