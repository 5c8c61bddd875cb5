"""The record log: nothing is answered that was not written down first.

A worker writes every call into its own append-only log, an *epoch*; `docs/record-log.md` is the specification.
Read the files in this order:

    format      bytes of a segment: header, frame, sync mark (pure)
    files       the few system calls the log makes, as one port, so that each can be made to fail
    folder      where epochs, segments, locks and markers lie, and the names they have
    flusher     the thread that waits for the disk, and the pieces of work it is given
    disk        how much of the disk the log takes and how much is free
    log         RecordLog: append, group commit, failure and return of the disk
    reader      read a segment, an epoch, a call, or everything as it is written
    recovery    close the accounts of dead epochs: each interrupted call is found exactly once
    render      a record as JSON or as one line for people
"""
