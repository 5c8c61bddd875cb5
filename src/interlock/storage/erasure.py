"""Erasure of a subject: the keys are destroyed, what was under them is deleted, and an entry of the ledger says so.

It happens in one transaction, in the name of the tenant, while no shipper adds contents of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection

from interlock.errors import NotFound
from interlock.ledger.control_entry import EPOCH
from interlock.ledger.entry import VERSION
from interlock.storage import claims, control_entries, feedback, holds, states
from interlock.storage.ledger_keys import GENERATION


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
    control_entries.hold(conn, tenant_id)
    names = _keys(conn, tenant_id, subject)
    if not names:
        raise NotFound(f"the ledger keeps no content of {subject!r}", param="subject")
    at_ns = max(now_ns, control_entries.claimed_ns(conn, tenant_id) + 1)
    deleted = 0
    for table in ("ledger_contents", "ledger_lists"):
        gone = conn.execute(_DELETE[table], (tenant_id, names)).rowcount
        deleted += gone if table == "ledger_contents" else 0
    claims.erase(conn, tenant_id, subject)
    states.erase(conn, tenant_id, subject)
    feedback.erase(conn, tenant_id, subject)
    conn.execute(
        "UPDATE interlock.ledger_keys SET wrapped = NULL, erased_ns = %s WHERE tenant_id = %s AND subject = ANY(%s)",
        (at_ns, tenant_id, names),
    )
    _put(conn, tenant_id, {"kind": "erasure", "at": at_ns, "subject": subject, "keys": names, "by": by})
    return Erased(len(names), deleted, at_ns)


def extent(conn: Connection[Any], tenant_id: str, subject: str) -> tuple[int, int]:
    """How many keys and contents `erase` would destroy now."""
    names = _keys(conn, tenant_id, subject)
    query = "SELECT count(*) FROM interlock.ledger_contents WHERE tenant_id = %s AND subject = ANY(%s)"
    row = conn.execute(query, (tenant_id, names)).fetchone()
    return len(names), int(row[0]) if row else 0


def _keys(conn: Connection[Any], tenant_id: str, subject: str) -> list[str]:
    """Names of the keys that a subject's contents are under."""
    return [
        name
        for (name,) in conn.execute(
            "SELECT subject FROM interlock.ledger_keys WHERE tenant_id = %s AND split_part(subject, %s, 1) = %s"
            " AND subject <> '' AND wrapped IS NOT NULL",
            (tenant_id, GENERATION, subject),
        )
    ]


_DELETE = {
    "ledger_contents": "DELETE FROM interlock.ledger_contents WHERE tenant_id = %s AND subject = ANY(%s)",
    "ledger_lists": "DELETE FROM interlock.ledger_lists WHERE tenant_id = %s AND subject = ANY(%s)",
}


def _put(conn: Connection[Any], tenant_id: str, leaf: dict[str, Any]) -> None:
    whole = {"v": VERSION, "tree": tenant_id, "epoch": EPOCH, "request": "", "contents": [], **leaf}
    control_entries.put(conn, tenant_id, whole)
