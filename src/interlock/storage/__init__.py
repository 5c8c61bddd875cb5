"""PostgreSQL: everything that has to outlive a process and is not in the record log.

Read it in this order:

- `embedded` starts and stops a PostgreSQL of our own when no other is configured.
- `roles` says which database roles there are and what each may see; `migrate` brings the schema to this version, as the
  migrator, in one transaction; the steps are in `migrations/`.
- `pool` lends connections: every transaction takes its role first, and a tenant's transaction names its tenant. The
  rest is row-level security, forced on every table with a tenant in it.
- `ids` makes ids, `columns` brings many rows at once, as arrays in PostgreSQL's binary format, `faults` are the
  driver's errors as ours, `notify` waits for the database to say that something changed.

What is configured: `table` is what the aggregates share; then one file per aggregate: `tenants`, `teams`, `principals`,
`keys`, `policies` with `policy_drafts` and `policy_versions`, `sources`, `aliases`, `budgets`, `issuers`, `bindings`,
`alerts`, `quota_requests`; `names` reads many of them. `changes` holds who changed what and why; `snapshots` what is
compiled from all this; `nodes` who runs on it.

What gateways bring and ask for: `leases` on budgets, `claims` of idempotency keys, `states` of conversations,
`canaries` that were taken back, and `feedback`.

The ledger: `shipping` and `control_entries` bring entries, `sequencing` gives them their places, `ledger_read` reads
them, `ledger_months` keeps them by months, `ledger_keys` and `rotations` are its keys. `usage`, `alias_use` and
`routed` sum up. `retention`, `pruning`, `erasure` and `holds` say what goes and what stays, `retirement` gives a node
up, `follows` says who reads along. `objects` is write-once storage elsewhere.

What is learned: `learned`, `router_guidance`, `router_quality`, `router_shared`, `learner_status`. What is watched:
`alert_figures`, `alert_events`. Who signs in: `console`.

Services make ids and times, storage stores them as they are. Functions take a connection whose transaction the caller
opened, and raise errors of `interlock.errors` only (`pool.Store` maps the driver's).
"""
