"""The console: pages over the services of the admin API, rendered here, without logic of their own.

Nothing is loaded from other hosts, and the content security policy allows no inline code.

    app             the list of pages, and what holds for all of them
    page, visit     what a page is; one request with who makes it
    render, assets  HTML, and the files that pages load
    places          which tenant a page is about
    form_values     reading values out of forms
    stream, streamed    server-sent events

Signing in:

    signin, passwords, oidc     by name and password, or at an identity provider
    sessions, sign_out          until one leaves
    own_calls, own_person       calls that signed-in people make: by a key of the session, as their own account

Pages:

    live, health, doctor_page               what runs, and what is wrong
    calls, call_page, waterfall             the ledger's calls, one of them, and its times
    proof_page, exports, keeping_page, documents_page    the ledger proved, exported, kept and erased; by document
    usage_page, usage_pivot                 what was used
    budgets_page, quota_pages, alerts_page  budgets, requests for more, alerts
    source_pages, source_forms              sources and models
    alias_pages, alias_forms, alias_faults, cascade_forms, objective_forms    aliases
    router_page, router_seen                what the router learned
    people_pages                            people, teams and keys
    policies, policy_parts, policy_ask, policy_choices, policy_wizard, policy_drafting, policy_compare    policies
    playground, play_missing, upstream      chats with a model, as oneself
"""
