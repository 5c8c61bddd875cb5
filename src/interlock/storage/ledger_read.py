"""Reading the ledger: entries by what they are looked up by, checkpoints, proofs' material. Nothing here writes.

What is read is only ever added, never changed, so that a long export may read it in many short transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, LiteralString, NamedTuple

import msgspec
from psycopg import Connection, sql
from psycopg.rows import class_row

from interlock.ledger.proof.tiles import TileTree
from interlock.storage.sequencing import tile

NOT_COMPLETED = "not completed"
"""As a state that is looked for: calls that ended in any other one than `completed`, as reports count failures."""
WITHOUT = {"alias": "alias", "class": "request_class", "source": "source", "model": "model"}
"""What calls may be without, as it is asked for, and the column that is empty then."""
_ENTRY = sql.SQL("SELECT position, at_ns, kind, request, leaf FROM interlock.ledger_entries WHERE ")
_COLUMNS = (
    *("kind", "team_id", "principal_id", "subject", "source", "model", "state", "document", "alias"),
    "request_class",
)
"""Columns that entries are found by the values of."""
_CHECKPOINT = sql.SQL("SELECT at_ns, size, note, coverage, complete_ns FROM interlock.ledger_checkpoints WHERE ")


class Entry(msgspec.Struct, frozen=True):
    """An entry and its place in its tenant's tree. `leaf`: the bytes that its hash is over."""

    position: int
    at_ns: int
    kind: str
    request: str
    leaf: bytes


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A signed checkpoint with its coverage. `complete_ns`: every entry admitted before it is in the tree."""

    at_ns: int
    size: int
    note: str
    coverage: bytes
    complete_ns: int


class Leaf(msgspec.Struct, frozen=True):
    """An entry as the tree has it. `hash`: of `leaf`, as the tree's leaf hash."""

    position: int
    hash: bytes
    leaf: bytes


class Filter(NamedTuple):
    """What entries are looked for; "" and 0 leave a field open. Instants in Unix nanoseconds, [since, until)."""

    since_ns: int = 0
    until_ns: int = 0
    kind: str = ""
    team_id: str = ""
    principal_id: str = ""
    subject: str = ""
    source: str = ""
    model: str = ""
    state: str = ""
    document: bytes = b""
    """Keyed hash of the name of a document."""
    alias: str = ""
    request_class: str = ""
    """As usage counts it: `shadow:ALIAS` and its like for calls that nobody asked for."""
    cost_center: str = ""
    """Calls of the teams that have it now, as usage counts it."""
    without: tuple[str, ...] = ()
    """Names in `WITHOUT`: calls and refusals that have none of these."""


def search(conn: Connection[Any], tenant_id: str, wanted: Filter, *, before: int = 0, limit: int = 100) -> list[Entry]:
    """At most `limit` entries, the newest places first; `before`: a place, 0 from the end."""
    clauses: list[sql.Composable] = [sql.SQL("tenant_id = %s")]
    args: list[object] = [tenant_id]
    for name in _COLUMNS:
        value = getattr(wanted, name)
        if name == "state" and value == NOT_COMPLETED:
            clauses.append(sql.SQL("kind = 'call' AND state <> 'completed'"))
        elif value:
            clauses.append(sql.SQL("{} = %s").format(sql.Identifier(name)))
            args.append(value)
    none = sql.SQL("{} = '' AND alias IS NOT NULL")
    clauses.extend(none.format(sql.Identifier(WITHOUT[name])) for name in wanted.without)
    if wanted.cost_center:
        clauses.append(sql.SQL("team_id = ANY(%s)"))
        args.append(_teams(conn, tenant_id, wanted.cost_center))
    for words, bound in (("at_ns >= %s", wanted.since_ns), ("at_ns < %s", wanted.until_ns), ("position < %s", before)):
        if bound:
            clauses.append(sql.SQL(words))
            args.append(bound)
    query = _ENTRY + sql.SQL(" AND ").join(clauses) + sql.SQL(" ORDER BY position DESC LIMIT %s")
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return list(cursor.execute(query, (*args, limit)))


def _teams(conn: Connection[Any], tenant_id: str, cost_center: str) -> list[str]:
    """Read first, so that the search is planned for how many calls these teams have made."""
    query = "SELECT id FROM interlock.teams WHERE tenant_id = %s AND cost_center = %s"
    return [team_id for (team_id,) in conn.execute(query, (tenant_id, cost_center))]


def decided(conn: Connection[Any], tenant_id: str, wanted: Filter, *, before: int = 0, limit: int = 100) -> list[Entry]:
    """As `search`, of the entries that are calls, made or refused; only the period of `wanted` counts."""
    query = _ENTRY + sql.SQL(
        "tenant_id = %(t)s AND kind IN ('call', 'refusal') AND (%(since)s = 0 OR at_ns >= %(since)s)"
        " AND (%(until)s = 0 OR at_ns < %(until)s) AND (%(before)s = 0 OR position < %(before)s)"
        " ORDER BY position DESC LIMIT %(limit)s"
    )
    given = {"t": tenant_id, "since": wanted.since_ns, "until": wanted.until_ns, "before": before, "limit": limit}
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return list(cursor.execute(query, given))


def of_request(conn: Connection[Any], tenant_id: str, request: str) -> list[Entry]:
    """The entries of one call: the call itself, then, in their order, what was measured of it later, and what was said
    of its answer."""
    query = _ENTRY + sql.SQL("tenant_id = %s AND request = %s ORDER BY kind NOT IN ('call', 'refusal'), position")
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return list(cursor.execute(query, (tenant_id, request)))


def of_document(conn: Connection[Any], tenant_id: str, marks: list[bytes], limit: int) -> list[Entry]:
    """At most `limit` entries of calls of documents with these keyed names, in their order."""
    query = _ENTRY + sql.SQL("tenant_id = %s AND document = ANY(%s) ORDER BY position LIMIT %s")
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return list(cursor.execute(query, (tenant_id, marks, limit)))


def measurements(conn: Connection[Any], tenant_id: str, requests: list[str]) -> list[Entry]:
    """Entries that tell later what calls took."""
    query = _ENTRY + sql.SQL("tenant_id = %s AND kind = 'energy' AND request = ANY(%s) ORDER BY position")
    with conn.cursor(row_factory=class_row(Entry)) as cursor:
        return list(cursor.execute(query, (tenant_id, requests)))


def following(conn: Connection[Any], tenant_id: str, after: int, limit: int) -> tuple[int, list[Leaf]]:
    """(size of the tree, at most `limit` entries of it whose places are above `after`, lowest first)."""
    row = conn.execute("SELECT size FROM interlock.ledger_trees WHERE tenant_id = %s", (tenant_id,)).fetchone()
    size = 0 if row is None else int(row[0])
    with conn.cursor(row_factory=class_row(Leaf)) as cursor:
        found = cursor.execute(
            "SELECT position, hash, leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND position > %s"
            " AND position < %s ORDER BY position LIMIT %s",
            (tenant_id, after, size, limit),
        )
        return size, list(found)


def sizes(conn: Connection[Any], tenant_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Entries in the tree of each of these tenants, of all that have one when left out."""
    rows = conn.execute(
        "SELECT tenant_id, size FROM interlock.ledger_trees WHERE %(t)s::text[] IS NULL OR tenant_id = ANY(%(t)s)",
        {"t": None if tenant_ids is None else list(tenant_ids)},
    )
    return dict(rows)


def leaves(conn: Connection[Any], tenant_id: str, start: int, end: int) -> list[bytes]:
    """The leaves of places [start, end). Ask for some hundreds at a time."""
    rows = conn.execute(
        "SELECT leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s AND position < %s"
        " ORDER BY position",
        (tenant_id, start, end),
    )
    return [leaf for (leaf,) in rows]


def control_leaves(conn: Connection[Any], tenant_id: str, start: int, limit: int) -> list[tuple[int, bytes]]:
    """(place, leaf) of the entries that the control plane made, changes and erasures, from a place on."""
    rows = conn.execute(
        "SELECT position, leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s"
        " AND kind IN ('change', 'erasure') ORDER BY position LIMIT %s",
        (tenant_id, start, limit),
    )
    return list(rows)


def latest_checkpoint(conn: Connection[Any], tenant_id: str) -> StoredCheckpoint | None:
    """The newest checkpoint of a tenant; None when nothing was ever sequenced."""
    return _one(conn, "tenant_id = %s ORDER BY at_ns DESC", (tenant_id,))


def checkpoint_before(conn: Connection[Any], tenant_id: str, at_ns: int) -> StoredCheckpoint | None:
    """The newest checkpoint made at or before an instant."""
    return _one(conn, "tenant_id = %s AND at_ns <= %s ORDER BY at_ns DESC", (tenant_id, at_ns))


def checkpoint_complete(conn: Connection[Any], tenant_id: str, until_ns: int) -> StoredCheckpoint | None:
    """The first checkpoint under which everything admitted before an instant is in the tree, if any."""
    return _one(conn, "tenant_id = %s AND complete_ns >= %s ORDER BY at_ns", (tenant_id, until_ns))


def checkpoint_of_size(conn: Connection[Any], tenant_id: str, most: int) -> StoredCheckpoint | None:
    """The largest tree of at most `most` entries that was signed; of those of one size the first, which stays."""
    return _one(conn, "tenant_id = %s AND size <= %s ORDER BY size DESC, at_ns", (tenant_id, most))


def checkpoint_from_size(conn: Connection[Any], tenant_id: str, least: int) -> StoredCheckpoint | None:
    """The first checkpoint of a tree of at least `least` entries."""
    return _one(conn, "tenant_id = %s AND size >= %s ORDER BY size, at_ns", (tenant_id, least))


def checkpoint_after_erasures(conn: Connection[Any], tenant_id: str, least: StoredCheckpoint) -> StoredCheckpoint:
    """The first checkpoint from `least` on under which every erasure of the tenant is that is under one at all."""
    row = conn.execute(
        "SELECT max(position) FROM interlock.ledger_entries WHERE tenant_id = %s AND kind = 'erasure'", (tenant_id,)
    ).fetchone()
    if row is None or row[0] is None or row[0] < least.size:
        return least
    return checkpoint_from_size(conn, tenant_id, row[0] + 1) or least


def checkpoint_at(conn: Connection[Any], tenant_id: str, at_ns: int) -> StoredCheckpoint | None:
    """The checkpoint made at exactly this instant."""
    return _one(conn, "tenant_id = %s AND at_ns = %s", (tenant_id, at_ns))


def checkpoints(conn: Connection[Any], tenant_id: str, from_ns: int, to_ns: int, limit: int) -> list[StoredCheckpoint]:
    """Checkpoints made in [from, to], oldest first, at most `limit`."""
    query = _CHECKPOINT + sql.SQL("tenant_id = %s AND at_ns >= %s AND at_ns <= %s ORDER BY at_ns LIMIT %s")
    with conn.cursor(row_factory=class_row(StoredCheckpoint)) as cursor:
        return list(cursor.execute(query, (tenant_id, from_ns, to_ns, limit)))


def settled_lines(conn: Connection[Any], tenant_id: str, after: int, through: int) -> list[bytes]:
    """Lines of the chain of settled epochs: (after, through]."""
    rows = conn.execute(
        "SELECT line FROM interlock.ledger_settled_lines WHERE tenant_id = %s AND k > %s AND k <= %s ORDER BY k",
        (tenant_id, after, through),
    )
    return [line for (line,) in rows]


def node_reader(conn: Connection[Any], tenant_id: str, size: int) -> Callable[[int, int], bytes]:
    """Hashes of complete subtrees of a tenant's tree of `size` leaves, for proofs: (level, index) -> hash."""
    return TileTree(lambda level, index: tile(conn, tenant_id, level, index, size)).node


def content(conn: Connection[Any], tenant_id: str, subject: str, name: bytes) -> bytes | None:
    """A content's ciphertext, None when it is gone."""
    row = conn.execute(
        "SELECT data FROM interlock.ledger_contents WHERE tenant_id = %s AND subject = %s AND id = %s",
        (tenant_id, subject, name),
    ).fetchone()
    return None if row is None else row[0]


def list_items(conn: Connection[Any], tenant_id: str, subject: str, name: bytes) -> list[bytes]:
    """The contents of a list, first one first; empty when the list is gone."""
    rows = conn.execute(
        "WITH RECURSIVE back AS ("
        " SELECT id, previous, item, 1 AS depth FROM interlock.ledger_lists"
        " WHERE tenant_id = %(t)s AND subject = %(s)s AND id = %(id)s"
        " UNION ALL SELECT l.id, l.previous, l.item, back.depth + 1 FROM interlock.ledger_lists AS l"
        " JOIN back ON l.id = back.previous WHERE l.tenant_id = %(t)s AND l.subject = %(s)s"
        ") SELECT item FROM back ORDER BY depth DESC",
        {"t": tenant_id, "s": subject, "id": name},
    )
    return [item for (item,) in rows]


def _one(conn: Connection[Any], clause: LiteralString, args: tuple[object, ...]) -> StoredCheckpoint | None:
    query = _CHECKPOINT + sql.SQL(clause) + sql.SQL(" LIMIT 1")
    with conn.cursor(row_factory=class_row(StoredCheckpoint)) as cursor:
        return cursor.execute(query, args).fetchone()
