"""The control plane: who may administer, what is configured, and the snapshot that the data plane follows.

What is configured:

    documents, parse, validate, plan    a configuration file becomes values with places, then a difference; no I/O
    amounts, prices, power              money and energy as they are declared, and whose price or coefficient holds
    litellm                             a LiteLLM proxy's configuration as a document
    services/                           the logic of each aggregate: makes ids and times; storage stores and records
    state, apply                        the stored configuration as a document; a plan carried out in one transaction
    judging, judge_facts                whether a tenant's judge is there, and what the doctor is told of judges
    lifecycle, trials                   drafts, approval and versions of policies; those that only report
    explain, whatif, comparing          may a caller use a model, and what other policies would decide
    replay, rerouting/                  recorded calls decided again, and under another configuration
    key_actions, source_actions, router_actions, quotas    what is done to things besides declaring them
    secrets, keyring, rotation          secrets in files, the ledger's signing keys, and changing these

Who may, and over what:

    permissions               which administrative role may do what, and why; one table
    identity, tokens          who asks: an API key, or a token of an issuer that maps groups to roles
    reading, views            a transaction that looks, and stored things as the admin API shows them
    web, app, routes/         the same over HTTP (/admin/v1), with OpenAPI
    console/                  pages over the same services
    live/, alerts/            what happens now; rules over it, and who is told

The processes:

    main            server, compiler, sequencer, retention, discovery, canaries, alerts; `python -m interlock.control`
    compiler        changed rows become changed parts of the snapshot
    discovery       looks at sources
    sequencer       gives the ledger's entries their places; feedback finds its call there
    retention       removes what was kept long enough
    canaries        makes permanent what nodes have decided
    diagnosis       facts for the doctor; `doctor/`: what to make of them
    metrics         figures for Prometheus
    learner         the learner's own process, around `learning/`
    process         what both have in common

Nothing here is on the path of a model call: the gateway reads what the compiler wrote, and never imports this package.
"""
