"""The record log, and the entries of the ledger that are made of it.

Nothing is answered that was not written down first. A worker writes every call into its own append-only log, an
*epoch*; `docs/record-log.md` is the specification. Read the files in this order:

    format      bytes of a segment: header, frame, sync mark (pure)
    files       the few system calls the log makes, as one port, so that each can be made to fail
    folder      where epochs, segments, locks and markers lie, and the names they have
    birth       the making of an epoch
    flusher     the thread that waits for the disk, and the pieces of work it is given
    waiters     who waits for which record to be durable
    pace        when the next fsync may start
    disk        how much of the disk the log takes and how much is free
    losses      what a full disk took, and how it is told of all the same
    refusals    the sentences with which the log says no
    log         RecordLog: append, group commit, failure and return of the disk
    stats       its figures
    segment     read the frames of one segment
    epoch       read the frames of one epoch, tell a torn tail from damage
    reader      read the records of a segment, an epoch, a call, or everything as it is written
    recovery    close the accounts of dead epochs: each interrupted call is found exactly once
    render      a record as JSON or as one line for people
    trim        remove what is in the ledger

The ledger (`docs/ledger.md`), pure:

    fold            from records to calls that have ended
    entry           what of a call goes into the tree, and what is encrypted beside it
    control_entry   entries that the control plane makes; feedback: those of what is said of answers
    vault           keys of contents: of a subject, wrapped by the tenant's, wrapped by the master key
    sums, charges   what entries add up to, and what a call is charged to budgets
    proof/          trees, checkpoints, exports and their verifier
"""
