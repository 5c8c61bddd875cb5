"""Gateway nodes: which there are, and which snapshot each of them runs on. Each node writes its own row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg import AsyncConnection, Connection
from psycopg.rows import dict_row


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
