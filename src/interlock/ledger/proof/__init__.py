"""Proofs over the record: one Merkle tree for each tenant, signed checkpoints, and exports that anyone can verify.

`docs/ledger-proofs.md` is the specification. Nothing here opens a socket, asks a clock or holds a private key longer
than its signer lives. Read the files in this order:

    errors        ProofError: what is not the proof it claims to be
    merkle        hashes, compact ranges, proofs of inclusion and of consistency (RFC 9162)
    tiles         the tree in files of 256 hashes
    note          signed notes: texts with Ed25519 signatures (C2SP signed-note)
    checkpoint    the text that is signed: origin, size, root, time, coverage (C2SP tlog-checkpoint)
    rotation      changes of the signing key: statements that the old and the new one sign
    coverage      which epochs are in the tree, and until when; the chain of settled epochs
    entry, shape  the leaf: canonical JSON, and many of them at once
    opening       how a plaintext is checked against an entry, without a key
    pruned        the signed statement that the first entries were removed
    receipt       a worker's signed word to a caller
    folder        the export folder: its manifest, and the writer
    written       an export as the admin API sends it becomes such a folder
    readme        the page for people that lies in each export
    source        read an export folder that may be hostile
    parts         entries scanned by several processes, in order
    findings      what the verifier found, and the verdict that follows
    trust         which keys may have signed what, from those that the auditor trusts
    epochs        what the coverage said so far, held against the entries and against itself
    contents      the ciphertexts, held against the entries
    seen, receipts    checkpoints that the auditor kept, and receipts of callers, held against the export
    verify        verify_export: all of it, in one pass
"""
