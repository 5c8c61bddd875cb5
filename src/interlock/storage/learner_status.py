"""What the learner tells of itself: one row, as one process of an installation learns at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection


class Status(NamedTuple):
    """`pupils`: tenants that it learns of. Since it started: `published` states, `outcomes` and `entries` read.
    `behind`: entries of theirs that it has not read yet."""

    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    pupils: int
    published: int
    outcomes: int
    entries: int
    behind: int


def tell(conn: Connection[Any], status: Status) -> None:
    """Keep how it stands, instead of what was told before."""
    conn.execute(
        "INSERT INTO interlock.learner_status"
        " (host, pid, started_at, seen_at, pupils, published, outcomes, entries, behind)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (one) DO UPDATE SET host = excluded.host,"
        " pid = excluded.pid, started_at = excluded.started_at, seen_at = excluded.seen_at,"
        " pupils = excluded.pupils, published = excluded.published, outcomes = excluded.outcomes,"
        " entries = excluded.entries, behind = excluded.behind",
        status,
    )


def read(conn: Connection[Any]) -> Status | None:
    """What was told last; None when nothing ever learned. The platform's transaction."""
    row = conn.execute(
        "SELECT host, pid, started_at, seen_at, pupils, published, outcomes, entries, behind"
        " FROM interlock.learner_status"
    ).fetchone()
    return None if row is None else Status(*row)
