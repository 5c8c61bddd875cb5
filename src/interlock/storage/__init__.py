"""PostgreSQL: everything that has to outlive a process and is not in the record log.

Read it in this order:

- `embedded` starts and stops a PostgreSQL of our own when no other is configured.
- `roles` says which database roles there are and what each may see; `migrate` brings the schema to this version, as
  the migrator, in one transaction; the steps are in `migrations/`.
- `pool` lends connections: every transaction takes its role first, and a tenant's transaction names its tenant. The
  rest is row-level security, forced on every table with a tenant in it.
- `table` is what the aggregates share; then one file per aggregate: `tenants`, `teams`, `principals`, `keys`,
  `policies`, `sources`, `aliases`, `issuers`, `bindings`.
- `columns` brings many rows at once, as arrays in PostgreSQL's binary format.
- `changes` holds who changed what and why; `snapshots` what is compiled from all this; `nodes` who runs on it.
- `notify` waits for the database to say that something changed.

Services make ids and times, storage stores them as they are. Functions take a connection whose transaction the caller
opened, and raise errors of `interlock.errors` only (`pool.Store` maps the driver's).
"""
