"""The control plane: who may administer, what is configured, and the snapshot that the data plane follows.

    documents, parse, plan    a configuration file becomes values with places, then a difference; no I/O
    permissions               which administrative role may do what, and why; one table
    services/                 the logic of each aggregate: makes ids and times; storage stores and records the change
    state, apply              the stored configuration as a document; carrying out a plan in one transaction
    compiler                  changed rows become changed parts of the snapshot
    app, routes/              the same over HTTP (/admin/v1), with OpenAPI
    main                      the process: server, compiler thread, discovery thread; `python -m interlock.control`

Nothing here is on the path of a model call: the gateway reads what the compiler wrote, and never imports this package.
"""
