"""What calls may take and what they took: limits, budgets, cost, energy.

Limits hold exactly over all worker processes of a node. `shared` is the ground: a private piece of memory that
processes map, with a lock that the kernel releases when its holder dies. `limits` counts on it: `LimitTable.admit`
reserves for all subjects of a call or for none, `settle` replaces what was reserved by what was used. `admission` is
what an admitted call holds, `hit` the answer when a limit is reached. `docs/limits.md` says what is exact, over which
window, and what the `x-ratelimit-*` headers mean.

Of budgets, `book` finds those that hold for a caller, `periods` are their windows, and `forecast` says how long they
last.

`cost` makes nano-USD of tokens and rates, `energy` microjoules of tokens and coefficients, `allocate` splits what a
meter counted over calls; all are pure, and `docs/metering.md` says where rates and coefficients come from and how they
are rounded. `words` and `report` tell them.
"""
