"""What the router has learned of each tenant, as published: two documents, which become parts of the snapshot."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from interlock.storage import snapshots
from interlock.types.learned import Weights, Words, weights_part, words_part

_encode = msgspec.msgpack.Encoder().encode
NOTHING = _encode(None)
"""The document of a tenant of whom nothing is learned any more: a part never disappears."""


def body(conn: Connection[Any], part: str) -> bytes:
    """The document of a part by its name (`words/TENANT`, `weights/TENANT`)."""
    kind, _, tenant_id = part.partition("/")
    row = conn.execute(
        "SELECT words, weights FROM interlock.router_states WHERE tenant_id = %s", (tenant_id,)
    ).fetchone()
    if row is None:
        return NOTHING
    return bytes(row[0] if kind == "words" else row[1])


def current(conn: Connection[Any], tenant_id: str) -> Weights | None:
    """What is in force, or about to be. None: nothing was learned. A transaction of the tenant's or the platform's."""
    row = conn.execute("SELECT weights FROM interlock.router_states WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return None if row is None else msgspec.msgpack.decode(bytes(row[0]), type=Weights | None)


def has_learned(conn: Connection[Any], tenant_id: str) -> bool:
    """Whether there is anything that was learned of a tenant."""
    return (
        conn.execute("SELECT 1 FROM interlock.router_states WHERE tenant_id = %s", (tenant_id,)).fetchone() is not None
    )


def publish(conn: Connection[Any], tenant_id: str, weights: Weights, words: Words | None) -> bool:
    """Put a new state in force with the next snapshot; False where a later one is. `words` None: those before stay, if
    the state reads prompts."""
    encoded = _encode(words) if words is not None else None
    if not weights.words:
        encoded = NOTHING
    done = conn.execute(
        "INSERT INTO interlock.router_states AS t (tenant_id, version, words, weights, updated_at)"
        " VALUES (%(tenant)s, %(version)s, coalesce(%(words)s, %(nothing)s), %(weights)s, now())"
        " ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version, weights = excluded.weights,"
        " words = coalesce(%(words)s, t.words), updated_at = excluded.updated_at"
        " WHERE t.version < excluded.version",
        {
            "tenant": tenant_id,
            "version": weights.version,
            "words": encoded,
            "nothing": NOTHING,
            "weights": _encode(weights),
        },
    )
    if not done.rowcount:
        return False
    parts = [weights_part(tenant_id)]
    if encoded is not None:
        parts.append(words_part(tenant_id))
    snapshots.mark_dirty(conn, parts)
    return True


def clear(conn: Connection[Any], tenant_id: str) -> bool:
    """Forget what was learned: priors count again. False when there was nothing."""
    gone = conn.execute("DELETE FROM interlock.router_states WHERE tenant_id = %s", (tenant_id,)).rowcount > 0
    if gone:
        snapshots.mark_dirty(conn, [weights_part(tenant_id), words_part(tenant_id)])
    return gone


class Published(NamedTuple):
    """A state that was once in force. `snapshot`: the first version of the snapshot that had it."""

    snapshot: int
    weights: Weights | None


def history(conn: Connection[Any], tenant_id: str, limit: int) -> tuple[list[Published], int]:
    """At most `limit` of a tenant's states, evenly spread over all there are, newest first and always with it; and how
    many there are. None is where everything was forgotten. The platform's transaction.

    INVARIANT: of this tenant's part only, whose name has its id.
    """
    part = weights_part(tenant_id)
    row = conn.execute("SELECT count(*) FROM interlock.snapshot_part WHERE name = %s", (part,)).fetchone()
    there = int(row[0]) if row else 0
    rows = conn.execute(
        "SELECT p.version, p.body FROM interlock.snapshot_part AS p JOIN (SELECT version, row_number() OVER"
        " (ORDER BY version DESC) - 1 AS place FROM interlock.snapshot_part WHERE name = %(part)s) AS n"
        " ON n.version = p.version WHERE p.name = %(part)s AND n.place %% %(step)s = 0"
        " ORDER BY p.version DESC LIMIT %(limit)s",
        {"part": part, "step": max(1, -(-there // limit)), "limit": limit},
    )
    return [Published(v, msgspec.msgpack.decode(bytes(b), type=Weights | None)) for v, b in rows], there
