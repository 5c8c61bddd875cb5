"""The paths of the admin API.

resources       list, read, create, replace, delete of everything that is declared
actions         rotate, revoke, drain, refresh
system          who am I, changes, snapshot, documents, explanations
policies, alias_use, budgets, quotas, alerts, router, rerouting, usage, live    what else there is about these
ledger          search, one call, export, checkpoint; ledger_follow: its entries in order; holds: legal holds;
                ledger_evidence: documents; ledger_upkeep: another signing key, a node that never returns
"""
