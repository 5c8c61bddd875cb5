"""Rate, token and concurrency limits that hold exactly over all worker processes of a node.

`shared` is the ground: a private piece of memory that processes map, with a lock that the kernel releases when
its holder dies. `limits` counts on it: `LimitTable.admit` reserves for all subjects of a call or for none,
`settle` replaces what was reserved by what was used. `admission` is what an admitted call holds, `hit` the answer
when a limit is reached. `docs/limits.md` says what is exact, over which window, and what the
`x-ratelimit-*` headers mean.
"""
