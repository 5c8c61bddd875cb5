"""The `interlock` command.

    main            the command tree, and how every command ends: a result or one line of error, text or JSON
    common          options that many commands share, and how often each may be given
    client          the admin API over HTTP
    output          what is printed: JSON for machines, tables for people

Groups of commands:

    run             up, gateway, control, worker: the processes themselves
    config, imports    apply, plan, export; configurations of other gateways
    keys, console   API keys; passwords of the console
    sources         model sources; engine_run: `source run`, engines that Interlock starts itself (`engines/`)
    aliases         and their canaries and shadows; alias_reports: who uses one, and how its ways do
    policy          tests and explanations; policy_life: drafts, approval, versions, what-if
    budgets, alerts, usage, live
    records         this machine's log: `ledger tail`, `route explain`, `route replay`
    ledger          a tenant's ledger: search, one call, export, verify; holds: what stays; ledger_evidence: documents;
                    ledger_follow: every entry as it comes, with follow_files; ledger_archive: write-once storage
    router          what the router learned; route_eval, route_simulate, route_what_if: of what use it is, or would be
    examine         `interlock doctor`: what is wrong or weak in an installation (`doctor/`)

Below `interlock up`:

    supervisor      PostgreSQL, control, gateway and learner, started and stopped together
    home            who runs on a home folder
    database        the embedded PostgreSQL while something runs on it
    demo            two engines and two tenants to try; demo_engine: an engine of these

Commands import what they need when they run, so that `interlock --help` and shell completion answer at once.
"""
