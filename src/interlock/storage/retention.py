"""Removal of contents that were kept for as long as their tenant says.

Each content has, for each data class, the newest day on which a call of that class used it. The use of a class counts
for as many days as the tenant keeps that class; a content goes when no use of it counts any more. Days are those of
admission, in UTC, and are over before they count: what is kept for 30 days is kept for 30 whole days.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection, sql

from interlock.storage import holds
from interlock.storage.ledger_keys import GENERATION
from interlock.types.identity import DataClass, Retention

SWEEP_LOCK_SPACE = 4_704
"""Advisory locks of tenants whose contents are being swept: one process does it."""
NS_PER_DAY = 86_400_000_000_000
COLUMNS = tuple(f"{data_class.name}_day" for data_class in DataClass)
NEVER = -1
"""Days below it: none. What is kept for ever."""
TABLES = ("ledger_contents", "ledger_lists")


class Place(NamedTuple):
    """How far a sweep is: a table, a data class, and the day and subject to go on with, or, with `behind`, after."""

    table: int = 0
    data_class: int = 0
    day: int = 0
    subject: str = ""
    behind: bool = False


class Step(NamedTuple):
    """What one transaction of a sweep did: contents removed. `next` None: there is nothing more to look at."""

    removed: int
    next: Place | None


def day_of(at_ns: int) -> int:
    """Days since 1970, UTC."""
    return at_ns // NS_PER_DAY


def database_day(conn: Connection[Any]) -> int:
    """The day by the database's clock: what is removed on the word of one wrong clock would be gone."""
    row = conn.execute("SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)::integer").fetchone()
    assert row is not None  # noqa: S101 - one row without a table
    return int(row[0])


def limits(retention: Retention | None, today: int) -> list[int]:
    """For each data class the day before which its uses no longer count; `NEVER` for those kept for ever."""
    days = [retention.days(data_class) if retention is not None else 0 for data_class in DataClass]
    return [max(today - kept, NEVER) if kept else NEVER for kept in days]


def tenants(conn: Connection[Any]) -> list[str]:
    """Tenants that keep something for a limited time."""
    return [
        name for (name,) in conn.execute("SELECT id FROM interlock.tenants WHERE retention IS NOT NULL ORDER BY id")
    ]


def sweep(conn: Connection[Any], tenant_id: str, place: Place, *, today: int, at: datetime, batch: int) -> Step:
    """Look at the next `batch` rows whose time may be over, in the name of the tenant; remove those of which it is.

    `at`: when the sweep began. What holds and retention say is read here, under the lock that no hold is added without.
    """
    done = Step(0, None)
    row = conn.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (SWEEP_LOCK_SPACE, tenant_id)).fetchone()
    if row is None or not row[0]:
        return done  # another process does it
    holds.alone(conn, tenant_id)
    held = holds.held(conn, tenant_id)
    if holds.EVERYTHING in held:
        return done
    cuts = limits(_retention(conn, tenant_id), min(today, database_day(conn)))
    while place.table < len(TABLES):
        if cuts[place.data_class] > NEVER:
            seen, removed, last = _sweep(conn, tenant_id, place, cuts, held, batch)
            contents = removed if TABLES[place.table] == "ledger_contents" else 0
            if contents:
                _note(conn, tenant_id, place.data_class, at, cuts[place.data_class] - 1, contents)
            if seen == batch and last is not None:
                behind = last[1].split(GENERATION)[0] in held  # of others nothing is left there that was looked at
                return Step(contents, place._replace(day=last[0], subject=last[1], behind=behind))
            if removed:
                return Step(contents, _following(place))
        place = _following(place)
    return done


def removed_on(conn: Connection[Any], tenant_id: str, subject: str, data_class: int, day: int) -> datetime | None:
    """When retention removed what was kept of the calls of a subject, of one day and data class; None: not yet."""
    row = conn.execute(
        "SELECT min(s.at) FROM interlock.ledger_sweeps AS s WHERE s.tenant_id = %s AND s.data_class = %s"
        " AND s.through_day >= %s AND NOT EXISTS (SELECT FROM interlock.ledger_holds AS h"
        " WHERE h.tenant_id = s.tenant_id AND h.subject IN ('', %s) AND h.added_at <= s.at"
        " AND (h.released_at IS NULL OR h.released_at > s.at))",
        (tenant_id, data_class, day, subject.split(GENERATION)[0]),
    ).fetchone()
    return None if row is None else row[0]


def entries_days(conn: Connection[Any], tenant_id: str) -> int:
    """For how many days a tenant keeps entries; 0: for ever."""
    found = _retention(conn, tenant_id)
    return found.entries_days if found is not None else 0


def _following(place: Place) -> Place:
    if place.data_class + 1 < len(COLUMNS):
        return Place(place.table, place.data_class + 1)
    return Place(place.table + 1)


def _retention(conn: Connection[Any], tenant_id: str) -> Retention | None:
    row = conn.execute("SELECT retention FROM interlock.tenants WHERE id = %s", (tenant_id,)).fetchone()
    return None if row is None or row[0] is None else msgspec.convert(row[0], Retention)


# A use that no longer counts is forgotten where another one does; the row goes where none does.
_SWEEP = """
WITH batch AS MATERIALIZED (
    SELECT subject, id, {day} AS day FROM interlock.{table}
    WHERE tenant_id = %(tenant)s AND {day} < %(cut)s AND ({day}, subject) {beyond} (%(from_day)s, %(from_subject)s)
    ORDER BY {day}, subject LIMIT %(batch)s
), free AS MATERIALIZED (
    SELECT subject, id FROM batch WHERE split_part(subject, %(generation)s, 1) <> ALL (%(held)s)
), gone AS (
    DELETE FROM interlock.{table} AS t USING free
    WHERE t.tenant_id = %(tenant)s AND t.subject = free.subject AND t.id = free.id AND {over} RETURNING 1
), forgotten AS (
    UPDATE interlock.{table} AS t SET {day} = NULL FROM free
    WHERE t.tenant_id = %(tenant)s AND t.subject = free.subject AND t.id = free.id AND NOT ({over})
)
SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM gone),
    (SELECT max(day) FROM batch), (SELECT max(subject) FROM batch WHERE day = (SELECT max(day) FROM batch))
"""


def _sweep(
    conn: Connection[Any], tenant_id: str, place: Place, cuts: list[int], held: list[str], batch: int
) -> tuple[int, int, tuple[int, str] | None]:
    """One batch: how many rows were looked at, how many removed, and the last day and subject, where there is more."""
    over = sql.SQL(" AND ").join(
        sql.SQL("coalesce(t.{day}, -2) < {cut}").format(day=sql.Identifier(name), cut=sql.Literal(cut))
        for name, cut in zip(COLUMNS, cuts, strict=True)
    )
    query = sql.SQL(_SWEEP).format(
        table=sql.Identifier(TABLES[place.table]),
        day=sql.Identifier(COLUMNS[place.data_class]),
        over=over,
        beyond=sql.SQL(">" if place.behind else ">="),
    )
    arguments = {
        "tenant": tenant_id,
        "cut": cuts[place.data_class],
        "from_day": place.day,
        "from_subject": place.subject,
        "generation": GENERATION,
        "held": held,
        "batch": batch,
    }
    row = conn.execute(query, arguments).fetchone()
    assert row is not None  # noqa: S101 - one row without a table
    seen, gone, day, subject = row
    return seen, gone, None if day is None else (day, subject)


def _note(conn: Connection[Any], tenant_id: str, data_class: int, at: datetime, through_day: int, removed: int) -> None:
    conn.execute(
        "INSERT INTO interlock.ledger_sweeps AS t (tenant_id, data_class, at, through_day, contents)"
        " VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, data_class, at) DO UPDATE SET contents = t.contents + excluded.contents",
        (tenant_id, data_class, at, through_day, removed),
    )
