"""What has become of each thing that rules watch, what happened, and the outbox: who is still to be told.

States and events are written together by one process at a time (an advisory lock of the transaction); deliveries are
taken by any process, each for a while, so that one that dies in between is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection
from psycopg.rows import class_row, dict_row

from interlock.types.alert import AlertState

WATCH_LOCK = 0x494C_0011
"""Advisory lock of the process that evaluates rules."""
Key = tuple[str, str]
"""(rule id, subject)."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened (`ale_...`), as it is told. `reads`: the rule's kind. `tenant_id` "": the platform's."""

    id: str
    tenant_id: str
    rule_id: str
    rule: str
    reads: str
    subject: str
    kind: str
    severity: str
    value: int
    threshold: int
    words: str
    episode: int
    at: datetime


class Delivery(msgspec.Struct, frozen=True):
    """What became of telling one channel. `state`: waiting, delivered or failed."""

    event_id: str
    channel: str
    state: str
    attempts: int
    next_at: datetime
    error: str
    done_at: datetime | None


class Due(NamedTuple):
    """A delivery that is to be tried now. `attempts`: with this one."""

    event: Event
    channel_id: str
    attempts: int


def lead(conn: Connection[Any]) -> bool:
    """Whether this transaction is the one that evaluates, until it ends."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (WATCH_LOCK,)).fetchone()
    return bool(row and row[0])


def states(conn: Connection[Any]) -> dict[Key, AlertState]:
    """All states that the connection may see."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT rule_id, subject, status, since_ns, value, words, turned_ns, unknown_ns, episode, told, no_data"
            " FROM interlock.alert_states"
        )
        return {(row.pop("rule_id"), row.pop("subject")): msgspec.convert(row, AlertState) for row in rows}


def put_state(conn: Connection[Any], tenant_id: str, key: Key, state: AlertState) -> None:
    """Write a state, new or again."""
    conn.execute(
        "INSERT INTO interlock.alert_states (rule_id, subject, tenant_id, status, since_ns, value, words, turned_ns,"
        " unknown_ns, episode, told, no_data) VALUES (%(rule)s, %(subject)s, nullif(%(tenant)s, ''), %(status)s,"
        " %(since_ns)s, %(value)s, %(words)s, %(turned_ns)s, %(unknown_ns)s, %(episode)s, %(told)s, %(no_data)s)"
        " ON CONFLICT (rule_id, subject) DO UPDATE SET status = excluded.status, since_ns = excluded.since_ns,"
        " value = excluded.value, words = excluded.words, turned_ns = excluded.turned_ns,"
        " unknown_ns = excluded.unknown_ns, episode = excluded.episode, told = excluded.told,"
        " no_data = excluded.no_data",
        {"rule": key[0], "subject": key[1], "tenant": tenant_id, **msgspec.structs.asdict(state)},
    )


def add(conn: Connection[Any], event: Event, channels: Mapping[str, str], *, after_s: float = 0) -> bool:
    """Write an event, and that each of these channels (id -> name) is to be told, `after_s` from then. False when it
    is there already.

    INVARIANT: in the transaction that writes the state, so that neither is without the other.
    """
    done = conn.execute(
        "INSERT INTO interlock.alert_events (id, tenant_id, rule_id, rule, reads, subject, kind, severity, value,"
        " threshold, words, episode, at) VALUES (%(id)s, nullif(%(tenant_id)s, ''), %(rule_id)s, %(rule)s, %(reads)s,"
        " %(subject)s, %(kind)s, %(severity)s, %(value)s, %(threshold)s, %(words)s, %(episode)s, %(at)s)"
        " ON CONFLICT (rule_id, subject, episode, kind) DO NOTHING",
        msgspec.structs.asdict(event),
    )
    if done.rowcount != 1:
        return False
    for channel_id, name in channels.items():
        conn.execute(
            "INSERT INTO interlock.alert_deliveries (event_id, channel_id, tenant_id, channel, state, next_at)"
            " VALUES (%s, %s, nullif(%s, ''), %s, 'waiting', %s)",
            (event.id, channel_id, event.tenant_id, name, event.at + timedelta(seconds=after_s)),
        )
    return True


def take(conn: Connection[Any], now: datetime, lease_s: float, limit: int, event_id: str = "") -> list[Due]:
    """Take deliveries that are due, and let nobody else have them for `lease_s`. To one channel, what happened to one
    thing is told in its order: nothing goes while what came before it waits. `event_id`: of this
    event only, due or not."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "WITH due AS (SELECT d.event_id, d.channel_id FROM interlock.alert_deliveries AS d"
            " JOIN interlock.alert_events AS e ON e.id = d.event_id"
            " WHERE d.state = 'waiting' AND ((%(one)s = '' AND d.next_at <= %(now)s) OR d.event_id = %(one)s)"
            " AND NOT EXISTS (SELECT FROM interlock.alert_deliveries AS b JOIN interlock.alert_events AS f"
            " ON f.id = b.event_id WHERE b.channel_id = d.channel_id AND b.state = 'waiting'"
            " AND f.rule_id = e.rule_id AND f.subject = e.subject AND f.place < e.place)"
            " ORDER BY d.next_at, d.event_id LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED),"
            " taken AS (UPDATE interlock.alert_deliveries AS d SET attempts = d.attempts + 1, next_at = %(until)s"
            " FROM due WHERE d.event_id = due.event_id AND d.channel_id = due.channel_id"
            " RETURNING d.event_id, d.channel_id, d.attempts)"
            " SELECT taken.channel_id, taken.attempts, "
            "e.id, coalesce(e.tenant_id, '') AS tenant_id, e.rule_id, e.rule, e.reads, e.subject, e.kind, e.severity,"
            " e.value, e.threshold, e.words, e.episode, e.at"
            " FROM taken JOIN interlock.alert_events AS e ON e.id = taken.event_id ORDER BY e.place",
            {"now": now, "until": now + timedelta(seconds=lease_s), "limit": limit, "one": event_id},
        ).fetchall()
    return [Due(msgspec.convert(row, Event), row["channel_id"], row["attempts"]) for row in rows]


def delivered(conn: Connection[Any], due: Due, now: datetime) -> None:
    """It was told."""
    conn.execute(
        "UPDATE interlock.alert_deliveries SET state = 'delivered', error = '', done_at = %s"
        " WHERE event_id = %s AND channel_id = %s",
        (now, due.event.id, due.channel_id),
    )


def missed(conn: Connection[Any], due: Due, error: str, again: datetime | None, now: datetime) -> None:
    """It was not told: it is tried `again` then, or (None) given up."""
    conn.execute(
        "UPDATE interlock.alert_deliveries SET state = CASE WHEN %(again)s::timestamptz IS NULL THEN 'failed'"
        " ELSE 'waiting' END, next_at = coalesce(%(again)s::timestamptz, next_at), error = %(error)s,"
        " done_at = CASE WHEN %(again)s::timestamptz IS NULL THEN %(now)s::timestamptz END"
        " WHERE event_id = %(event)s AND channel_id = %(channel)s AND state = 'waiting'",
        {"again": again, "error": error, "now": now, "event": due.event.id, "channel": due.channel_id},
    )


def newest(conn: Connection[Any], tenant_id: str, limit: int) -> list[Event]:
    """The newest events of a tenant ("": the platform's)."""
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        return list(
            cursor.execute(
                "SELECT id, coalesce(tenant_id, '') AS tenant_id, rule_id, rule, reads, subject, kind, severity, value,"
                " threshold, words, episode, at FROM interlock.alert_events"
                " WHERE tenant_id IS NOT DISTINCT FROM nullif(%s, '') ORDER BY at DESC, place DESC LIMIT %s",
                (tenant_id, limit),
            )
        )


def deliveries(conn: Connection[Any], events: Sequence[str]) -> dict[str, list[Delivery]]:
    """What became of telling these events, by event."""
    out: dict[str, list[Delivery]] = {}
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        for each in cursor.execute(
            "SELECT event_id, channel, state, attempts, next_at, error, done_at FROM interlock.alert_deliveries"
            " WHERE event_id = ANY(%s) ORDER BY channel",
            (list(events),),
        ):
            out.setdefault(each.event_id, []).append(each)
    return out


def firing(conn: Connection[Any]) -> dict[str, int]:
    """How many things fire, by tenant id ("": the platform's); where none does, nothing."""
    rows = conn.execute(
        "SELECT coalesce(tenant_id, ''), count(*) FROM interlock.alert_states WHERE status = 'firing' GROUP BY 1"
    )
    return dict(rows)


def severities(conn: Connection[Any]) -> dict[str, int]:
    """How many things fire, by severity of their rules; where none does, nothing."""
    rows = conn.execute(
        "SELECT r.severity, count(*) FROM interlock.alert_states AS s JOIN interlock.alert_rules AS r"
        " ON r.id = s.rule_id WHERE s.status = 'firing' GROUP BY 1"
    )
    return dict(rows)


def forget(conn: Connection[Any], before_ns: int) -> int:
    """Remove the states of things that were gone before an instant (Unix nanoseconds) and that no event names any more.
    Returns how many."""
    done = conn.execute(
        "DELETE FROM interlock.alert_states AS s WHERE s.status = 'gone' AND s.since_ns < %s AND NOT EXISTS"
        " (SELECT FROM interlock.alert_events AS e WHERE e.rule_id = s.rule_id AND e.subject = s.subject)",
        (before_ns,),
    )
    return done.rowcount


def prune(conn: Connection[Any], before: datetime, most: int, batch: int) -> int:
    """Remove events that are older, and the oldest above `most`, unless somebody is still to be told of them; at most
    `batch`. Returns how many."""
    done = conn.execute(
        "DELETE FROM interlock.alert_events WHERE id IN (SELECT e.id FROM interlock.alert_events AS e"
        " WHERE (e.at < %(before)s OR e.at < (SELECT at FROM interlock.alert_events ORDER BY at DESC OFFSET %(most)s"
        " LIMIT 1)) AND NOT EXISTS (SELECT FROM interlock.alert_deliveries AS d WHERE d.event_id = e.id"
        " AND d.state = 'waiting') ORDER BY e.at LIMIT %(batch)s)",
        {"before": before, "most": most, "batch": batch},
    )
    return done.rowcount
