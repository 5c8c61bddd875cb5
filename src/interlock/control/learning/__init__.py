"""The learner of the router: reads the ledger in the name of each tenant, and publishes what it makes of it.

`loop` is the learner, `samples` makes outcomes of entries, `sharing` is the pool of tenants that share theirs. What is
made of outcomes is in `interlock.learning`.
"""
