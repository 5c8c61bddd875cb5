"""What the sequencer reads and writes: the inbox of a tenant, its tree, its checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

from interlock.ledger import control_entry
from interlock.ledger.proof.tiles import TILE, tile_root
from interlock.storage.columns import bigints, bytestrings, columns, texts

ROOTS_KEPT = 512
"""Roots of full tiles that are kept with their tiles (8 KiB each): a proof asks for those of a whole row of them."""
_LOCK_SPACE = 4_702
"""Advisory locks of trees: this number and a hash of the tenant's id."""


class Tree(msgspec.Struct, frozen=True):
    """A tenant's tree. `hashes`: of its complete subtrees, largest first. `settled`: the place up to which settled
    epochs are in its chain, which has `settled_count` lines."""

    tenant_id: str
    size: int = 0
    hashes: list[bytes] = msgspec.field(default_factory=list)
    settled: int = 0
    settled_count: int = 0
    settled_digest: bytes = bytes(32)
    checkpoint_ns: int = 0
    signed: bool = True
    """Whether the newest checkpoint is of the tree as it is."""


class Waiting(msgspec.Struct, frozen=True):
    """An entry of the inbox. `n` None: it is numbered as it is placed. `more`: further rows of the inbox that it stands
    for."""

    id: int
    epoch: str
    n: int | None
    leaf: bytes
    more: tuple[int, ...] = ()


class EpochState(msgspec.Struct, frozen=True):
    """An epoch as a tenant sees it: `shipped` and `sequenced` count its entries of this tenant; `published_ns` is the
    watermark that may be claimed whatever is still to be sequenced."""

    epoch: str
    node: str
    watermark_ns: int
    damaged: bool
    closed: bool
    settled: int | None
    shipped: int
    sequenced: int
    published_ns: int
    lost_ns: int | None = None
    """Until when entries may be missing for good, if its node was retired."""
    receipt_key: bytes | None = None


class Placed(NamedTuple):
    """An entry with its place. The fields after `at_ns` repeat the leaf's, to be searched by."""

    position: int
    at_ns: int
    kind: str
    request: str
    team_id: str
    principal_id: str
    subject: str
    source: str
    model: str
    state: str
    leaf: bytes
    hash: bytes
    document: bytes | None = None
    alias: str | None = None
    request_class: str | None = None
    """As usage counts it. This and the alias are "" where a call has none, None of what is no call."""


_PLACED = (bigints, bigints, *(texts,) * 8, *(bytestrings,) * 3, texts, texts)


def tenants(conn: Connection[Any]) -> list[str]:
    """All tenants that are there, and all that ever had a tree."""
    rows = conn.execute(
        "SELECT id FROM interlock.tenants UNION SELECT tenant_id FROM interlock.ledger_trees ORDER BY 1"
    )
    return [tenant_id for (tenant_id,) in rows]


def waiting_tenants(conn: Connection[Any]) -> list[str]:
    """Tenants with entries in the inbox that need not wait for a checkpoint."""
    rows = conn.execute("SELECT DISTINCT tenant_id FROM interlock.ledger_inbox WHERE NOT later")
    return [tenant_id for (tenant_id,) in rows]


def unsigned_tenants(conn: Connection[Any], before_ns: int) -> list[str]:
    """Tenants whose tree has grown since it was last signed, before an instant."""
    rows = conn.execute(
        "SELECT tenant_id FROM interlock.ledger_trees WHERE NOT signed AND checkpoint_ns < %s", (before_ns,)
    )
    return [tenant_id for (tenant_id,) in rows]


def take_tree(conn: Connection[Any], tenant_id: str) -> Tree | None:
    """The tenant's tree, held until the end of the transaction; None while another process holds it."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_SPACE, tenant_id)).fetchone()
    if row is None or not row[0]:
        return None
    with conn.cursor(row_factory=class_row(Tree)) as cursor:
        found = cursor.execute(
            "SELECT tenant_id, size, hashes, settled, settled_count, settled_digest, checkpoint_ns, signed"
            " FROM interlock.ledger_trees WHERE tenant_id = %s",
            (tenant_id,),
        ).fetchone()
    if found is not None:
        return found
    # Epochs that were settled before the tenant's first entry have nothing of it. Those that were lost since it was
    # made may have had.
    row = conn.execute(
        "SELECT coalesce(least((SELECT min(e.settled) - 1 FROM interlock.ledger_epochs AS e"
        " JOIN interlock.ledger_shipped AS s ON s.epoch = e.epoch AND s.tenant_id = %(tenant)s),"
        " (SELECT min(e.settled) - 1 FROM interlock.ledger_epochs AS e JOIN interlock.tenants AS t"
        " ON t.id = %(tenant)s AND e.lost_ns > extract(epoch FROM t.created_at) * 1000000000)), max(settled), 0)"
        " FROM interlock.ledger_epochs",
        {"tenant": tenant_id},
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return Tree(tenant_id, settled=row[0])


def trees(conn: Connection[Any]) -> list[Tree]:
    """Every tree. Only while nobody works on one: see `rotations.hold`."""
    with conn.cursor(row_factory=class_row(Tree)) as cursor:
        return list(
            cursor.execute(
                "SELECT tenant_id, size, hashes, settled, settled_count, settled_digest, checkpoint_ns, signed"
                " FROM interlock.ledger_trees ORDER BY tenant_id"
            )
        )


def epochs(conn: Connection[Any], tree: Tree) -> list[EpochState]:
    """Epochs that are not in the tree's chain of settled ones, by name, with the one of the control plane, which is in
    every tree. Read before the inbox: see `inbox`."""
    with conn.cursor(row_factory=class_row(EpochState)) as cursor:
        return list(
            cursor.execute(
                "SELECT e.epoch, e.node, e.watermark_ns, e.damaged, e.closed, e.settled,"
                " coalesce(s.n, 0) AS shipped, coalesce(q.n, 0) AS sequenced,"
                " greatest(q.watermark_ns, e.floor_ns) AS published_ns, e.lost_ns, e.receipt_key FROM ("
                "SELECT epoch, node, floor_ns, watermark_ns, damaged, closed, settled, lost_ns, receipt_key"
                " FROM interlock.ledger_epochs"
                " UNION ALL SELECT %(control)s, %(control_node)s, 0, 0, false, false, NULL, NULL, NULL) AS e"
                " LEFT JOIN interlock.ledger_shipped AS s ON s.epoch = e.epoch AND s.tenant_id = %(tenant)s"
                " LEFT JOIN interlock.ledger_sequenced AS q ON q.epoch = e.epoch AND q.tenant_id = %(tenant)s"
                " WHERE e.settled IS NULL OR e.settled > %(settled)s ORDER BY e.epoch",
                {
                    "tenant": tree.tenant_id,
                    "settled": tree.settled,
                    "control": control_entry.EPOCH,
                    "control_node": control_entry.NODE,
                },
            )
        )


def nodes(conn: Connection[Any]) -> list[tuple[str, int, int | None]]:
    """(node, instant up to which all its epochs are known, instant from which it is retired), by name."""
    return conn.execute("SELECT node, registered_ns, retired_ns FROM interlock.ledger_nodes ORDER BY 1").fetchall()


def inbox(conn: Connection[Any], tenant_id: str, limit: int, *, later: bool = False) -> list[Waiting]:
    """At most `limit` entries, in the order in which they came. `later`: those that wait for a checkpoint instead."""
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        return list(
            cursor.execute(
                "SELECT id, epoch, n, leaf FROM interlock.ledger_inbox WHERE tenant_id = %s AND later = %s"
                " ORDER BY id LIMIT %s",
                (tenant_id, later, limit),
            )
        )


def place(conn: Connection[Any], tenant_id: str, taken: Sequence[Waiting], placed: Sequence[Placed]) -> None:
    """Move entries from the inbox to their places."""
    gone = [row for entry in taken for row in (entry.id, *entry.more)]
    conn.execute("DELETE FROM interlock.ledger_inbox WHERE id = ANY(%b::bigint[])", (bigints(gone),))
    conn.execute(
        "INSERT INTO interlock.ledger_entries (tenant_id, position, at_ns, kind, request, team_id, principal_id,"
        " subject, source, model, state, leaf, hash, document, alias, request_class) SELECT %s, * FROM unnest("
        "%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],"
        " %b::text[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[], %b::text[], %b::text[])",
        (tenant_id, *columns(placed, *_PLACED)),
    )


def put_tiles(conn: Connection[Any], tenant_id: str, tiles: Sequence[tuple[int, int, bytes]]) -> None:
    """Tiles that became full: (level, index, 256 hashes)."""
    for level, index, hashes in tiles:
        conn.execute(
            "INSERT INTO interlock.ledger_tiles (tenant_id, level, index, hashes) VALUES (%s, %s, %s, %s)",
            (tenant_id, level, index, hashes),
        )


def put_settled(
    conn: Connection[Any], tenant_id: str, lines: Sequence[tuple[int, bytes]], epochs: Sequence[str]
) -> None:
    """Lines of the chain of settled epochs, from 1; what was counted of these epochs apart is in them now."""
    for k, line in lines:
        conn.execute(
            "INSERT INTO interlock.ledger_settled_lines (tenant_id, k, line) VALUES (%s, %s, %s)", (tenant_id, k, line)
        )
    conn.execute(
        "DELETE FROM interlock.ledger_sequenced WHERE tenant_id = %s AND epoch = ANY(%s)", (tenant_id, list(epochs))
    )


def put_sequenced(conn: Connection[Any], tenant_id: str, counts: Sequence[tuple[str, int, int]]) -> None:
    """(epoch, entries of it in the tree, watermark published)."""
    if counts:
        names, ns, marks = zip(*counts, strict=True)
        conn.execute(
            "INSERT INTO interlock.ledger_sequenced AS t (tenant_id, epoch, n, watermark_ns)"
            " SELECT %s, * FROM unnest(%b::text[], %b::bigint[], %b::bigint[])"
            " ON CONFLICT (tenant_id, epoch) DO UPDATE SET n = excluded.n, watermark_ns = excluded.watermark_ns",
            (tenant_id, list(names), list(ns), list(marks)),
        )


def put_tree(conn: Connection[Any], tree: Tree) -> None:
    """The tree as it is now."""
    conn.execute(
        "INSERT INTO interlock.ledger_trees"
        " (tenant_id, size, hashes, settled, settled_count, settled_digest, checkpoint_ns, signed)"
        " VALUES (%(tenant_id)s, %(size)s, %(hashes)s, %(settled)s, %(settled_count)s, %(settled_digest)s,"
        " %(checkpoint_ns)s, %(signed)s) ON CONFLICT (tenant_id) DO UPDATE SET"
        " size = excluded.size, hashes = excluded.hashes, settled = excluded.settled,"
        " settled_count = excluded.settled_count, settled_digest = excluded.settled_digest,"
        " checkpoint_ns = excluded.checkpoint_ns, signed = excluded.signed",
        msgspec.structs.asdict(tree),
    )


def put_checkpoint(
    conn: Connection[Any], tenant_id: str, *, at_ns: int, size: int, note: str, coverage: bytes, complete_ns: int
) -> None:
    """A checkpoint. Of those of one size the first and the last are kept: the ones between say nothing more, but for
    those with which a key was changed."""
    conn.execute(
        "DELETE FROM interlock.ledger_checkpoints AS t WHERE tenant_id = %(t)s AND size = %(size)s AND at_ns > (SELECT"
        " min(at_ns) FROM interlock.ledger_checkpoints WHERE tenant_id = %(t)s AND size = %(size)s)"
        " AND NOT EXISTS (SELECT FROM interlock.ledger_rotations AS r WHERE r.at_ns = t.at_ns)",
        {"t": tenant_id, "size": size},
    )
    conn.execute(
        "INSERT INTO interlock.ledger_checkpoints (tenant_id, at_ns, size, note, coverage, complete_ns)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (tenant_id, at_ns, size, note, coverage, complete_ns),
    )


def tile(conn: Connection[Any], tenant_id: str, level: int, index: int, size: int) -> bytes:
    """The hashes of a tile of a tree of `size` leaves: 256, or as many as there are at its end. Level 0 has the leaves.

    A tile that is not full is put together: from leaves, or from the full tiles below it.
    """
    row = conn.execute(
        "SELECT hashes FROM interlock.ledger_tiles WHERE tenant_id = %s AND level = %s AND index = %s",
        (tenant_id, level, index),
    ).fetchone()
    if row is not None:
        hashes: bytes = row[0]
        return hashes
    first = index * TILE
    if level == 0:
        rows = conn.execute(
            "SELECT hash FROM interlock.ledger_entries WHERE tenant_id = %s AND position >= %s AND position < %s"
            " ORDER BY position",
            (tenant_id, first, min(first + TILE, size)),
        )
        return b"".join(each for (each,) in rows)
    rows = conn.execute(
        "SELECT hashes FROM interlock.ledger_tiles WHERE tenant_id = %s AND level = %s AND index >= %s AND index < %s"
        " ORDER BY index",
        (tenant_id, level - 1, first, first + TILE),
    )
    return b"".join(_root(bytes(each)) for (each,) in rows)


@functools.lru_cache(maxsize=ROOTS_KEPT)
def _root(tile: bytes) -> bytes:
    return tile_root(tile)
