"""Nodes that never come back: what they had not shipped is given up, on record, and nothing waits for them any more.

A lost epoch is settled with what arrived of it. What the node may have begun without a word of it is an epoch, too, of
a name that no machine makes. The node may come back all the same: it is refused what was given up, and goes on with
new epochs.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from interlock.errors import Conflict, NotFound
from interlock.storage import shipping

UNKNOWN = "lost"
"""Begin of the name of an epoch that stands for what was never announced (the letters l, o are in no epoch's name)."""


class LostEpoch(NamedTuple):
    """An epoch that was given up: from which instant on its calls may be missing (Unix ns)."""

    epoch: str
    after_ns: int


class Retired(NamedTuple):
    """What retiring a node did: since when it counts as gone (Unix ns), its epochs, and from when on calls may be
    missing of which no epoch was ever announced."""

    at_ns: int
    epochs: list[LostEpoch]
    unannounced_after_ns: int


def retire(conn: Connection[Any], node: str, now_ns: int, silent_ns: int) -> Retired:
    """Give up what a node has not shipped. Role: the shipper's.

    Raises NotFound for a node that never shipped, Conflict when it is retired already or was heard of within
    `silent_ns`.
    """
    shipping.hold_places(conn)
    row = conn.execute(
        "SELECT registered_ns, retired_ns FROM interlock.ledger_nodes WHERE node = %s FOR UPDATE", (node,)
    ).fetchone()
    if row is None:
        raise NotFound(f"no node {node!r} has ever shipped to the ledger", param="node")
    registered_ns, retired_ns = row
    if retired_ns is not None:
        raise Conflict(f"node {node!r} is retired already", code="already_retired", param="node")
    if now_ns - registered_ns < silent_ns:
        raise Conflict(
            f"node {node!r} was heard of {(now_ns - registered_ns) // 1_000_000_000} seconds ago: stop it for good, and"
            f" wait until it has been silent for {silent_ns // 1_000_000_000} seconds (ledger_retire_silent_s)",
            code="node_alive",
            param="node",
        )
    found = conn.execute(
        "SELECT epoch, watermark_ns, whole FROM interlock.ledger_epochs WHERE node = %s AND settled IS NULL"
        " ORDER BY epoch FOR UPDATE",
        (node,),
    ).fetchall()
    shipping.settle(conn, [epoch for epoch, _, whole in found if whole])
    lost = [LostEpoch(epoch, watermark_ns) for epoch, watermark_ns, whole in found if not whole]
    at_ns = max([now_ns, registered_ns, *(each.after_ns for each in lost)]) + 1
    conn.execute(
        "UPDATE interlock.ledger_epochs AS t SET lost_ns = %s, settled = found.place FROM ("
        " SELECT epoch, (SELECT coalesce(max(settled), 0) FROM interlock.ledger_epochs)"
        " + row_number() OVER (ORDER BY epoch) AS place FROM interlock.ledger_epochs WHERE epoch = ANY(%s)"
        ") AS found WHERE t.epoch = found.epoch",
        (at_ns, [each.epoch for each in lost]),
    )
    _put_unannounced(conn, node, registered_ns, at_ns)
    conn.execute("UPDATE interlock.ledger_nodes SET retired_ns = %s WHERE node = %s", (at_ns, node))
    return Retired(at_ns, lost, registered_ns)


def arrived(conn: Connection[Any], epoch: str) -> int:
    """How many entries of an epoch have arrived, of all tenants."""
    return sum(shipping.counts(conn, epoch).values())


def given_up(conn: Connection[Any], epochs: Sequence[str]) -> dict[str, int]:
    """Of these epochs those that were given up and of which the node has not said that they are over: until when calls
    may be missing (Unix ns)."""
    rows = conn.execute(
        "SELECT epoch, lost_ns FROM interlock.ledger_epochs WHERE epoch = ANY(%s) AND lost_ns IS NOT NULL"
        " AND NOT returned",
        (list(epochs),),
    )
    return dict(rows.fetchall())


def returned(conn: Connection[Any], node: str, epoch: str, last_ns: int) -> None:
    """A given-up epoch is over: nothing is written to it after `last_ns` (Unix ns). If that is after its node was
    retired, what it took since is lost, too, and on record."""
    shipping.hold_places(conn)
    row = conn.execute(
        "UPDATE interlock.ledger_epochs SET returned = true WHERE epoch = %s AND lost_ns IS NOT NULL AND NOT returned"
        " RETURNING lost_ns",
        (epoch,),
    ).fetchone()
    if row is not None and last_ns >= row[0]:
        _put_unannounced(conn, node, row[0], last_ns + 1)


def _put_unannounced(conn: Connection[Any], node: str, after_ns: int, until_ns: int) -> None:
    """An epoch without entries for what may have been admitted in [after, until)."""
    conn.execute(
        "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns, lost_ns, returned, settled)"
        " SELECT %s, %s, %s, %s, %s, true, coalesce(max(settled), 0) + 1 FROM interlock.ledger_epochs",
        (UNKNOWN + secrets.token_hex(6), node, after_ns, after_ns, until_ns),
    )
