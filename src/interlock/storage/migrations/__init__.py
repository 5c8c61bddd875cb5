"""Alembic's environment and the steps of the schema, shipped in the package; `interlock.storage.migrate` runs them."""
