"""How the control plane brings entries to the trees: in the transaction of what they tell, numbered by the sequencer.

Whoever writes one holds a lock of the tree that any number share, until the transaction ends. The sequencer claims that
a tree has all of these entries up to an instant only while it has that lock alone, and never waits for it: nobody who
writes waits for anybody else who does, in whatever order a transaction goes through its tenants, and the sequencer,
which writers may wait for, waits for none of them.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from interlock.ledger.control_entry import EPOCH
from interlock.ledger.entry import encode_leaf

_LOCK_SPACE = 4_704
"""Advisory locks: this number and a hash of the tree's name."""


def hold(conn: Connection[Any], tree: str) -> None:
    """Before an entry's instant is chosen: until the transaction ends, no claim of the tree goes past it."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(%s, hashtext(%s))", (_LOCK_SPACE, tree))


def claimed_ns(conn: Connection[Any], tree: str) -> int:
    """Up to which instant the tree claims to have every such entry (Unix ns); theirs must be later. Under `hold`."""
    row = conn.execute(
        "SELECT greatest("
        "(SELECT watermark_ns FROM interlock.ledger_sequenced WHERE tenant_id = %(t)s AND epoch = %(e)s),"
        " (SELECT checkpoint_ns FROM interlock.ledger_trees WHERE tenant_id = %(t)s), 0)",
        {"t": tree, "e": EPOCH},
    ).fetchone()
    return 0 if row is None else int(row[0])


def put(conn: Connection[Any], tree: str, leaf: dict[str, Any], *, later: bool = False) -> None:
    """Bring a leaf, which has no number yet. `later`: it may wait for the next checkpoint and be joined with others.
    Under `hold`, with an instant after `claimed_ns`."""
    conn.execute(
        "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, leaf, later) VALUES (%s, %s, %s, %s)",
        (tree, EPOCH, encode_leaf(leaf), later),
    )


def alone(conn: Connection[Any], tree: str) -> bool:
    """For the sequencer: whether nobody is writing such an entry. If so, nobody begins until the transaction ends."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_SPACE, tree)).fetchone()
    return row is not None and bool(row[0])


def are_waiting(conn: Connection[Any], tree: str) -> bool:
    """Whether such entries are in the inbox."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM interlock.ledger_inbox WHERE tenant_id = %s AND epoch = '0000000000000000')",
        (tree,),
    ).fetchone()
    return row is not None and bool(row[0])
