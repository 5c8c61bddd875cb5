"""The learner of the router: reads the ledger in the name of each tenant, and publishes what it makes of it."""
