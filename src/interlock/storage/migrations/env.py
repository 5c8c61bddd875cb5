"""Alembic's entry point: runs the steps on the connection that `interlock.storage.migrate` hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table="schema_version",
    version_table_schema="interlock",
    transactional_ddl=True,
)
# INVARIANT: the caller has begun the one transaction in which all steps run, and commits it.
context.run_migrations()
