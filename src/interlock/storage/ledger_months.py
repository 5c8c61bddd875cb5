"""The months that the ledger's entries are kept by: a partition for each, made before it begins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from psycopg import Connection, sql
from psycopg import errors as pg

from interlock.storage import roles

AHEAD = 3
"""How many months from the present one on have a partition."""


def ensure_months(conn: Connection[Any], now: datetime) -> int:
    """Make the partitions that are missing; returns how many. An entry without one is kept in the default partition.

    `conn` must be outside of a transaction. Harmless when several processes do it.
    """
    made = 0
    for step in range(AHEAD):
        first, after = _month(now, step), _month(now, step + 1)
        name = f"ledger_entries_{first:%Y_%m}"
        try:
            with conn.transaction():
                conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(roles.MIGRATOR)))
                row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", (f"interlock.{name}",)).fetchone()
                if row and row[0]:
                    continue
                conn.execute(
                    sql.SQL(
                        "CREATE TABLE {name} PARTITION OF interlock.ledger_entries"
                        " FOR VALUES FROM ({first}) TO ({after})"
                    ).format(
                        name=sql.Identifier("interlock", name),
                        first=sql.Literal(_ns(first)),
                        after=sql.Literal(_ns(after)),
                    )
                )
                _isolate(conn, name)
                made += 1
        except (pg.DuplicateTable, pg.CheckViolation, pg.UniqueViolation):
            continue  # another process was faster, or entries of that month are in the default partition already
    return made


def _isolate(conn: Connection[Any], name: str) -> None:
    """The same row-level security as the whole table has, for whoever would read the partition itself."""
    table = sql.Identifier("interlock", name)
    conn.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table))
    conn.execute(sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table))
    conn.execute(
        sql.SQL(
            "CREATE POLICY tenant ON {} TO interlock_app"
            " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
            " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        ).format(table)
    )
    conn.execute(
        sql.SQL(
            "CREATE POLICY every_tenant ON {} TO interlock_platform, interlock_migrator, interlock_sequencer"
            " USING (true) WITH CHECK (true)"
        ).format(table)
    )


def _month(now: datetime, ahead: int) -> datetime:
    months = now.year * 12 + now.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000
