"""Canaries that nodes took back, on their way to the control plane, which changes the alias and removes the report.

Nodes write as interlock_lender, which may add and no more; the control plane reads and removes as interlock_platform.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection

AT_ONCE = 100
"""Reports taken in one transaction."""


class Report(NamedTuple):
    """A node's verdict. `tenant_id` "": of the platform's alias. `at_ns`: Unix nanoseconds by the node's clock."""

    canary: str
    node: str
    tenant_id: str
    alias: str
    at_ns: int
    words: str


async def report(conn: AsyncConnection[Any], told: Report) -> None:
    """Add a report; one that is there already stays as it is. A transaction of the caller's."""
    await conn.execute(
        "INSERT INTO interlock.canary_reports (canary, node, tenant_id, alias, at_ns, words)"
        " VALUES (%s, %s, nullif(%s, ''), %s, %s, %s) ON CONFLICT DO NOTHING",
        told,
    )


def take(conn: Connection[Any]) -> list[Report]:
    """Remove the oldest reports, and give them back; those that another process takes just now are left to it."""
    rows = conn.execute(
        "DELETE FROM interlock.canary_reports WHERE (canary, node) IN (SELECT canary, node"
        " FROM interlock.canary_reports ORDER BY at_ns LIMIT %s FOR UPDATE SKIP LOCKED)"
        " RETURNING canary, node, coalesce(tenant_id, ''), alias, at_ns, words",
        (AT_ONCE,),
    ).fetchall()
    return sorted((Report(*row) for row in rows), key=lambda told: told.at_ns)
