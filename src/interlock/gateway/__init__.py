"""The data plane: one request's way from the socket to a model source and back, recorded.

A call, in the order in which it passes:

    http/           bytes in
    app, faces/     which path is served by what, and the dialects of callers
    call, pipeline, stages/     what is known of a call, the order of its stages, and each of them
    identify        who is asking
    turn, states, stored        a Responses conversation: what is before it, sealed and opened; read and deleted
    idempotency     a repeated request gets the answer of the first
    treasury, waiting           shares of budgets, and calls that wait for one
    affinity, learned, pace     what decisions are made from: conversation, what was learned, how quick offers are
    cold, seats     calls that wait for an engine that starts, or for a seat
    run, attempt    the call in progress, and one try of it
    prepare, speech, spoken, responses_speech    what a source is sent, and sources that speak otherwise
    relay           a streamed answer
    cascade         one model after the other, until an answer passes
    ending, failures, account, counting, tally, trace    how it ends, what it is charged, and what figures say of it
    receipts, leaving, listing  receipts, headers of aliases that go, and the models that a caller may know of
    canary, canary_table        a call of an alias with a canary, and how canaries of the node do
    aside, shadow, judge, compare    calls beside a call: to a shadow, to a judge, to a challenger
    feedback        what a caller says of an answer

A worker, the process that serves:

    worker          one thread, one event loop, one epoch of the record log
    runtime         what it owns
    state, snapshot    one snapshot made usable
    links           its connections to sources
    link            its line to the node
    worked          what it did at sources that have a meter
    columns         starts what decisions need for many models

The node, its parent, which is off the path of calls:

    node, slots, listen         keeps workers and sockets
    feed, snapshot_folder       follows the snapshot and stores it
    lender, claimant, keeper    the database's answers on budgets, idempotency keys and feedback, stored responses
    canary_keeper, metered      canaries it took back; measured energy
    teller, running             tells of its sources, and of calls that run
    shipper, epoch_shipper      a process of its own: brings the record log to the ledger

Both kinds of process, and those beside them:

    garbage         when the garbage collector looks
"""
