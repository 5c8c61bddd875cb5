"""Alembic's environment (`env`) and the steps of the schema (`versions`), shipped in the package;
`interlock.storage.migrate` runs them."""
