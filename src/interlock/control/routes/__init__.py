"""The paths of the admin API: `resources` (list, read, create, replace, delete of everything that is declared),
`actions` (rotate, revoke, drain, refresh), `system` (who am I, changes, snapshot, documents, explanations)."""
