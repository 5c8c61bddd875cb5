"""Gateway nodes: which there are, which snapshot each of them runs on, and how its sources are.

Each node writes its own row: seldom, and its sources' states more often while somebody watches.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row

from interlock.types.running import NodeTold, WorkerCalls
from interlock.types.source import SourceState


class Node(msgspec.Struct, frozen=True):
    """A gateway node. `snapshot_version` is the oldest that any of its `workers` runs on; `address` is its URL."""

    name: str
    workers: int
    snapshot_version: int
    seen_at: datetime
    started_at: datetime
    version: str = ""
    address: str = ""
    stored_at: datetime | None = None
    """When the database wrote the row, by its own clock; `seen_at` is the node's."""


_SEEN = (
    "INSERT INTO interlock.nodes (name, workers, snapshot_version, seen_at, started_at, version, address)"
    " VALUES (%(name)s, %(workers)s, %(snapshot_version)s, %(seen_at)s, %(started_at)s, %(version)s, %(address)s)"
    " ON CONFLICT (name) DO UPDATE SET workers = excluded.workers, snapshot_version = excluded.snapshot_version,"
    " seen_at = excluded.seen_at, started_at = excluded.started_at, version = excluded.version,"
    " address = excluded.address, stored_at = clock_timestamp()"
)


def seen(conn: Connection[Any], node: Node) -> None:
    """Write a node's row, new or again."""
    conn.execute(_SEEN, msgspec.structs.asdict(node))


async def seen_async(conn: AsyncConnection[Any], node: Node) -> None:
    """`seen` for the node process."""
    await conn.execute(_SEEN, msgspec.structs.asdict(node))


def page(conn: Connection[Any], *, after: str = "", limit: int = 100) -> list[Node]:
    """At most `limit` nodes in name order behind `after`."""
    query = (
        "SELECT name, workers, snapshot_version, seen_at, started_at, version, address, stored_at FROM interlock.nodes"
        " WHERE name > %s ORDER BY name LIMIT %s"
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        return [msgspec.convert(row, Node) for row in cursor.execute(query, (after, limit))]


def forget(conn: Connection[Any], *, not_seen_since: datetime) -> int:
    """Remove the rows of nodes that are gone. Returns how many."""
    return conn.execute("DELETE FROM interlock.nodes WHERE seen_at < %s", (not_seen_since,)).rowcount


class Told(NamedTuple):
    """What a node told, and how many seconds ago, by the database's clock. `workers`: the calls that run there, None
    when it did not tell of calls."""

    node: str
    seconds_ago: float
    states: list[SourceState]
    workers: list[WorkerCalls] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NodeTold | list[SourceState]).decode


async def tell(conn: AsyncConnection[Any], name: str, told: NodeTold) -> bool | None:
    """Write what a node tells into its row. Returns whether somebody watches; None without a row."""
    cursor = await conn.execute(
        "UPDATE interlock.nodes SET sources = %s, sources_at = clock_timestamp() WHERE name = %s"
        " RETURNING EXISTS (SELECT FROM interlock.live_watch WHERE until_at > clock_timestamp())",
        (_encode(told), name),
    )
    row = await cursor.fetchone()
    return None if row is None else bool(row[0])


def told(conn: Connection[Any], limit: int) -> list[Told]:
    """What nodes told, of at most `limit` nodes. What no version of ours wrote is left out."""
    rows = conn.execute(
        "SELECT name, extract(epoch FROM clock_timestamp() - sources_at)::float8, sources FROM interlock.nodes"
        " WHERE sources IS NOT NULL ORDER BY name LIMIT %s",
        (limit,),
    )
    out = []
    for name, seconds_ago, text in rows:
        try:
            said = _decode(text)
            if isinstance(said, list):  # a node of an earlier version tells of its sources only
                said = NodeTold(said)
            out.append(Told(name, seconds_ago, said.sources, said.workers))
        except msgspec.MsgspecError:
            continue  # a node of another version
    return out


def watch(conn: Connection[Any], seconds: float) -> None:
    """Ask nodes to tell of their sources often for so long."""
    conn.execute(
        "INSERT INTO interlock.live_watch AS w (until_at) VALUES (clock_timestamp() + make_interval(secs => %s))"
        " ON CONFLICT (one) DO UPDATE SET until_at = greatest(w.until_at, excluded.until_at)",
        (seconds,),
    )
