"""Erasure of a subject: the keys are destroyed, what was under them is deleted, and an entry of the ledger says so.

It happens in one transaction, in the name of the tenant, while no shipper adds contents of it and no sequencer works on
its tree. The entry comes from an epoch of its own, in which nobody but this writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection

from interlock.errors import NotFound
from interlock.ledger.entry import VERSION, encode_leaf
from interlock.storage import claims, holds, sequencing
from interlock.storage.ledger_keys import GENERATION

EPOCH = "0000000000000000"
NODE = "(control)"
"""What stands for a node in the coverage of these entries; no machine is called so."""


class Erased(NamedTuple):
    """What an erasure did: keys destroyed, contents deleted, and the instant (Unix ns) that it counts from."""

    keys: int
    contents: int
    at_ns: int


def erase(conn: Connection[Any], tenant_id: str, subject: str, by: str, now_ns: int) -> Erased:
    """Erase a subject of the tenant that the connection stands for. `by`: id of who does it.

    Raises NotFound when nothing is kept of this subject, Conflict (`legal_hold`) while a legal hold is on it.
    """
    holds.alone(conn, tenant_id)
    holds.refuse_held(conn, tenant_id, subject)
    sequencing.hold_tree(conn, tenant_id)
    names = [
        name
        for (name,) in conn.execute(
            "SELECT subject FROM interlock.ledger_keys WHERE tenant_id = %s AND split_part(subject, %s, 1) = %s"
            " AND subject <> '' AND wrapped IS NOT NULL",
            (tenant_id, GENERATION, subject),
        )
    ]
    if not names:
        raise NotFound(f"the ledger keeps no content of {subject!r}", param="subject")
    at_ns = max(now_ns, _published(conn, tenant_id) + 1)
    deleted = 0
    for table in ("ledger_contents", "ledger_lists"):
        gone = conn.execute(_DELETE[table], (tenant_id, names)).rowcount
        deleted += gone if table == "ledger_contents" else 0
    claims.erase(conn, tenant_id, subject)
    conn.execute(
        "UPDATE interlock.ledger_keys SET wrapped = NULL, erased_ns = %s WHERE tenant_id = %s AND subject = ANY(%s)",
        (at_ns, tenant_id, names),
    )
    _put(conn, tenant_id, {"kind": "erasure", "at": at_ns, "subject": subject, "keys": names, "by": by})
    return Erased(len(names), deleted, at_ns)


_DELETE = {
    "ledger_contents": "DELETE FROM interlock.ledger_contents WHERE tenant_id = %s AND subject = ANY(%s)",
    "ledger_lists": "DELETE FROM interlock.ledger_lists WHERE tenant_id = %s AND subject = ANY(%s)",
}


def _published(conn: Connection[Any], tenant_id: str) -> int:
    """Up to which instant the tree is claimed to hold everything of this epoch."""
    row = conn.execute(
        "SELECT greatest("
        "(SELECT watermark_ns FROM interlock.ledger_sequenced WHERE tenant_id = %(t)s AND epoch = %(e)s),"
        " (SELECT checkpoint_ns FROM interlock.ledger_trees WHERE tenant_id = %(t)s), 0)",
        {"t": tenant_id, "e": EPOCH},
    ).fetchone()
    return 0 if row is None else int(row[0])


def _put(conn: Connection[Any], tenant_id: str, leaf: dict[str, Any]) -> None:
    conn.execute(
        "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (EPOCH, NODE, leaf["at"], leaf["at"]),
    )
    row = conn.execute(
        "INSERT INTO interlock.ledger_shipped AS t (tenant_id, epoch, n) VALUES (%s, %s, 1)"
        " ON CONFLICT (tenant_id, epoch) DO UPDATE SET n = t.n + 1 RETURNING n",
        (tenant_id, EPOCH),
    ).fetchone()
    assert row is not None  # noqa: S101 - an upsert gives its row back
    whole = {"v": VERSION, "tree": tenant_id, "epoch": EPOCH, "n": row[0], "request": "", "contents": [], **leaf}
    conn.execute(
        "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, n, leaf) VALUES (%s, %s, %s, %s)",
        (tenant_id, EPOCH, row[0], encode_leaf(whole)),
    )
