"""The `interlock` command.

    main      the command tree, and how every command ends: a result or one line of error, text or JSON
    client    the admin API over HTTP
    output    what is printed: JSON for machines, tables for people
    config    apply, plan, export
    keys, sources, policy, records    the groups of commands of the same names
    run       up, gateway, control: the processes themselves
    engine_run, engines    `source run`: engines that Interlock starts itself
    examine, doctor        what is wrong or weak in an installation

Commands import what they need when they run, so that `interlock --help` and shell completion answer at once.
"""
