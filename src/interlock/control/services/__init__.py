"""The logic of each aggregate: a declared form becomes a stored value, and back.

`base` holds what they share: the transaction with its author, ids and names. Those of what is declared (`tenants`,
`teams`, `principals`, `keys`, `policies`, `aliases` with `canaries`, `budgets`, `issuers`, `roles`, `alert_rules`,
`sources`) have the same functions: *spec_of* gives the stored value in the form in which it is declared; *create* makes
ids and times, storage stores them as they are, with the change record; *update* replaces what is stored by the declared
form; *delete* goes by name.

The others report and keep:

    ledger, ledger_filter, ledger_follow, evidence, looks, audit    looks at the ledger, on record
    keeping                                                         what is destroyed and what is kept
    usage, alias_use, live                                          what was used, by whom, and what happens now
    router, router_quality, router_reports, router_judges, task_words    what the router learned, figures and words
    engines                                                         engines that Interlock runs

Permissions are checked before, in `interlock.control.apply` and the routes; references and forms in `validate`.
"""
