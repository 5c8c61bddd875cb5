"""What principals and teams are called, many at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Connection


def of(conn: Connection[Any], ids: Iterable[str]) -> dict[str, str]:
    """Names by id, of those principals and teams that are there and that the connection may see."""
    wanted = sorted(set(ids))
    rows = conn.execute(
        "SELECT id, name FROM interlock.principals WHERE id = ANY(%(ids)s)"
        " UNION ALL SELECT id, name FROM interlock.teams WHERE id = ANY(%(ids)s)",
        {"ids": wanted},
    )
    return dict(rows.fetchall())
