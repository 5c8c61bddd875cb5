"""Feedback on calls, as far as it counts: reserved by nodes, filled in by the sequencer, read for training and reports.

`call_feedback` has one row for each kind of feedback that a call got, at most one of a kind. What was accepted before
its call was in the ledger waits in `feedback_waiting`, and counts when that has come and is the giver's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row

from interlock.ledger.sums import Key
from interlock.storage.usage import DIMENSIONS
from interlock.types.feedback import KINDS, Quality, quality, reward

IDS_MAX = 8
"""Requests that may have said the same of a call before its row is filled in. One that is durable is enough."""
ROUNDS_MAX = 8
"""How often a row that others release at the same moment is asked for."""


class Claim(NamedTuple):
    """A feedback that its node takes. `giver`: who gives it; `epoch`, `number`: what `request` names; `feedback_id`:
    its own request id; `digests`: keyed hashes of what is said, by kind. `recent`: the epoch, if nobody knows it, may
    still be new. `thumb`, `score_micro`: what is compared where no digest is left."""

    tenant_id: str
    request: str
    epoch: str
    number: int
    giver: str
    feedback_id: str
    digests: dict[str, bytes]
    recent: bool
    thumb: str = ""
    score_micro: int = -1


class Found(NamedTuple):
    """What there is: "own" (reserved; to be recorded), "same" (all of it counts already), "given" (`kind` was said
    before, and otherwise), "arriving" (no such call yet, and it may come) or "missing". Of "own" whose data the call
    is, how it was recorded and its data class."""

    state: str
    kind: str = ""
    subject: str = ""
    recording: str = ""
    data_class: int = 0


class Counted(NamedTuple):
    """A kind of a feedback that counts, with what it counts for. `position`: from which entry on; `entry`: its own."""

    request: str
    kind: str
    feedback_id: str
    call_subject: str
    position: int
    entry: int
    at_ns: int
    key: Key
    version: str
    thumb: str
    score_micro: int | None
    reason: str
    reward_micro: int | None


class Waiting(msgspec.Struct, frozen=True):
    """The entry of a feedback whose call was not there."""

    entry: int
    leaf: bytes


class FeedbackRow(NamedTuple):
    """What became known of one call at one place of its tenant's tree. `request`: the call's id. `position`: the entry
    with which it began to count, the later of the call's and the feedback's. `source`, `model`, `version`: of the
    answer. `at_ns`: when it was given. `score_micro`, `reward_micro`: in [0, 1e6]; None: not said."""

    tenant_id: str
    request: str
    position: int
    source: str
    model: str
    version: str
    at_ns: int
    thumb: str | None
    score_micro: int | None
    corrected: bool
    reason: str | None
    reward_micro: int | None


# -- nodes


async def claim(conn: AsyncConnection[Any], wanted: Claim) -> Found:
    """Find out whose call it is, and reserve the kinds that are said. A transaction of the caller's: after "given" it
    must roll back."""
    call = await _call(conn, wanted)
    if call.state != "own":
        return call
    counted = True
    for kind in KINDS:
        if kind not in wanted.digests:
            continue
        state = await _reserve(conn, wanted, kind, call.subject)
        if state == "given":
            return Found("given", kind)
        counted = counted and state == "counted"
    return call._replace(state="same") if counted else call


async def _call(conn: AsyncConnection[Any], wanted: Claim) -> Found:
    """The call, if it is the giver's.

    INVARIANT: what is answered of another's call and of none at all differs in nothing: it follows from the id, from
    how far its epoch is, and from what the giver owns.
    """
    cursor = await conn.execute(
        "SELECT c.subject, c.recording, c.data_class, c.arriving, e.epoch IS NOT NULL, e.settled IS NOT NULL,"
        " e.calls_through FROM interlock.feedback_call(%(tenant)s, %(request)s, %(epoch)s, %(giver)s) AS c"
        " LEFT JOIN interlock.ledger_epochs AS e ON e.epoch = %(epoch)s",
        {
            "tenant": wanted.tenant_id,
            "request": wanted.request,
            "epoch": wanted.epoch,
            "giver": wanted.giver,
        },
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - there is one always
    subject, recording, data_class, waits, known, settled, calls_through = row
    if subject is not None:
        return Found("own", "", subject, recording or "", data_class or 0)
    if not known:
        return Found("arriving" if wanted.recent else "missing")
    return Found("arriving" if waits or (not settled and wanted.number > calls_through) else "missing")


async def _reserve(conn: AsyncConnection[Any], wanted: Claim, kind: str, subject: str) -> str:
    """ "reserved", "counted" (it was said so before, and counts) or "given"."""
    place = (wanted.tenant_id, wanted.request, kind)
    for _ in range(ROUNDS_MAX):
        # What a worker reserved that died before it recorded it is nobody's, once its log is here and has not got it.
        await conn.execute(
            "DELETE FROM interlock.call_feedback AS f WHERE f.tenant_id = %s AND f.request = %s AND f.kind = %s"
            " AND f.position IS NULL AND NOT EXISTS (SELECT FROM unnest(f.feedback_ids) AS said (id)"
            " WHERE NOT EXISTS (SELECT FROM interlock.ledger_epochs AS e WHERE e.epoch = split_part(said.id, '_', 2)"
            " AND e.settled IS NOT NULL) OR EXISTS (SELECT FROM interlock.feedback_call(f.tenant_id, '',"
            " split_part(said.id, '_', 2), '') AS c WHERE c.arriving))",
            place,
        )
        made = await conn.execute(
            "INSERT INTO interlock.call_feedback (tenant_id, request, kind, digest, feedback_ids, call_subject)"
            " VALUES (%s, %s, %s, %s, ARRAY[%s], %s) ON CONFLICT DO NOTHING",
            (*place, wanted.digests[kind], wanted.feedback_id, subject),
        )
        if made.rowcount:
            return "reserved"
        cursor = await conn.execute(
            "SELECT digest, position, feedback_ids, thumb, score_micro FROM interlock.call_feedback"
            " WHERE tenant_id = %s AND request = %s AND kind = %s FOR UPDATE",
            place,
        )
        row = await cursor.fetchone()
        if row is None:
            continue  # it was released in between
        digest, position, ids, thumb, score_micro = row
        if digest:
            same = bytes(digest) == wanted.digests[kind]
        else:  # accepted before its call was known, or erased since
            same = {"thumb": thumb == wanted.thumb, "score": score_micro == wanted.score_micro}.get(kind, False)
        if not same:
            return "given"
        if position is not None:
            return "counted"
        if len(ids) < IDS_MAX:
            await conn.execute(
                "UPDATE interlock.call_feedback SET feedback_ids = feedback_ids || %s::text"
                " WHERE tenant_id = %s AND request = %s AND kind = %s",
                (wanted.feedback_id, *place),
            )
        return "reserved"
    return "given"


# -- the sequencer


def count(conn: Connection[Any], tenant_id: str, rows: Sequence[Counted]) -> None:
    """Fill in what counts. A kind that the call has already, or that was reserved for another feedback, stays."""
    for row in rows:
        key = row.key
        given = {
            "tenant_id": tenant_id,
            "request": row.request,
            "kind": row.kind,
            "digest": b"",
            "feedback_ids": [row.feedback_id],
            "call_subject": row.call_subject,
            "position": row.position,
            "entry": row.entry,
            "at_ns": row.at_ns,
            "day": key.day,
            "team_id": key.team_id,
            "principal_id": key.principal_id,
            "source": key.source,
            "model": key.model,
            "version": row.version,
            "request_class": key.request_class,
            "workload": key.workload,
            "alias": key.alias,
            "thumb": row.thumb or None,
            "score_micro": row.score_micro,
            "corrected": row.kind == "corrected",
            "reason": row.reason or None,
            "reward_micro": row.reward_micro,
        }
        conn.execute(_COUNT, given)


_FIELDS = (
    *("tenant_id", "request", "kind", "digest", "feedback_ids", "call_subject", "position", "entry", "at_ns", "day"),
    *("team_id", "principal_id", "source", "model", "version", "request_class", "workload", "alias", "thumb"),
    *("score_micro", "corrected", "reason", "reward_micro"),
)
_COUNT = sql.SQL(
    "INSERT INTO interlock.call_feedback AS t ({}) VALUES ({}) ON CONFLICT (tenant_id, request, kind) DO UPDATE SET {}"
    " WHERE t.position IS NULL AND t.feedback_ids && excluded.feedback_ids"
).format(
    sql.SQL(", ").join(map(sql.Identifier, _FIELDS)),
    sql.SQL(", ").join(map(sql.Placeholder, _FIELDS)),
    sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in _FIELDS[6:]),
)


def wait(conn: Connection[Any], tenant_id: str, entry: int, request: str, at_ns: int, leaf: bytes) -> None:
    """Keep in mind that a feedback's call is not there yet."""
    conn.execute(
        "INSERT INTO interlock.feedback_waiting (tenant_id, entry, request, at_ns, leaf) VALUES (%s, %s, %s, %s, %s)",
        (tenant_id, entry, request, at_ns, leaf),
    )


def waiting_for(conn: Connection[Any], tenant_id: str, requests: Sequence[str]) -> list[Waiting]:
    """Take the feedback that waits for these calls, oldest first: it waits no more."""
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        found = cursor.execute(
            "DELETE FROM interlock.feedback_waiting WHERE tenant_id = %s AND request = ANY(%s) AND leaf IS NOT NULL"
            " RETURNING entry, leaf",
            (tenant_id, list(requests)),
        ).fetchall()
    return sorted(found, key=lambda each: each.entry)


def drop_later(conn: Connection[Any], tenant_id: str, entry: int, at_ns: int, key_name: str, content: bytes) -> None:
    """Keep in mind that a content of this entry is to be deleted, in the name of the tenant: see `dropped`."""
    conn.execute(
        "INSERT INTO interlock.feedback_waiting (tenant_id, entry, request, at_ns, key_name, content)"
        " VALUES (%s, %s, '', %s, %s, %s) ON CONFLICT DO NOTHING",
        (tenant_id, entry, at_ns, key_name, content),
    )


def forget(conn: Connection[Any], before_ns: int, waiting_max: int, batch: int) -> int:
    """Give up feedback of any tenant that waits since before an instant, or beyond `waiting_max` of one tenant, oldest
    first; at most `batch` of each. It counts nowhere, its entries stay. Returns how many."""
    old = conn.execute(
        "DELETE FROM interlock.feedback_waiting WHERE (tenant_id, entry) IN (SELECT tenant_id, entry"
        " FROM interlock.feedback_waiting WHERE at_ns < %s AND leaf IS NOT NULL ORDER BY at_ns LIMIT %s)",
        (before_ns, batch),
    ).rowcount
    many = conn.execute(
        "DELETE FROM interlock.feedback_waiting AS t USING (SELECT tenant_id, entry, row_number() OVER"
        " (PARTITION BY tenant_id ORDER BY entry DESC) AS place FROM interlock.feedback_waiting"
        " WHERE leaf IS NOT NULL) AS w WHERE t.tenant_id = w.tenant_id AND t.entry = w.entry AND w.place > %s",
        (waiting_max,),
    ).rowcount
    return old + many


def to_drop(conn: Connection[Any]) -> list[str]:
    """Tenants that have contents of feedback which may not stay."""
    rows = conn.execute("SELECT DISTINCT tenant_id FROM interlock.feedback_waiting WHERE leaf IS NULL")
    return [tenant_id for (tenant_id,) in rows]


# -- in the name of a tenant


def dropped(conn: Connection[Any], tenant_id: str) -> int:
    """Delete the contents of feedback that may not stay. Returns how many."""
    return conn.execute(
        "WITH due AS (DELETE FROM interlock.feedback_waiting WHERE tenant_id = %s AND leaf IS NULL"
        " RETURNING tenant_id, key_name, content) DELETE FROM interlock.ledger_contents AS c USING due"
        " WHERE c.tenant_id = due.tenant_id AND c.subject = due.key_name AND c.id = due.content",
        (tenant_id,),
    ).rowcount


def erase(conn: Connection[Any], tenant_id: str, subject: str) -> None:
    """Forget what a guess of the feedback on a subject's calls could be checked against."""
    conn.execute(
        "UPDATE interlock.call_feedback SET digest = '' WHERE tenant_id = %s AND call_subject = %s",
        (tenant_id, subject),
    )


def prune(conn: Connection[Any], tenant_id: str, to_position: int) -> None:
    """Remove feedback whose entries, its own and the call's, are pruned."""
    conn.execute("DELETE FROM interlock.call_feedback WHERE tenant_id = %s AND position < %s", (tenant_id, to_position))


def entries_that_count(conn: Connection[Any], tenant_id: str, request: str) -> dict[int, set[str]]:
    """Positions of the entries of feedback on a call that count, and the kinds that do."""
    rows = conn.execute(
        "SELECT entry, kind FROM interlock.call_feedback WHERE tenant_id = %s AND request = %s"
        " AND position IS NOT NULL",
        (tenant_id, request),
    )
    found: dict[int, set[str]] = {}
    for entry, kind in rows:
        found.setdefault(entry, set()).add(kind)
    return found


def read_since(conn: Connection[Any], tenant_id: str, position: int, limit: int) -> list[FeedbackRow]:
    """What counts of a tenant's feedback from after a place of its tree on, in the order of the tree; at most `limit`
    rows. Begin with -1 and go on with the last row's `position`: nothing comes twice and nothing is passed over, also
    when a call comes after its feedback.

    A row is of one call; when thumb and score came apart, the call has two, and the one with the score counts.
    """
    rows = conn.execute(
        "SELECT request, position, source, model, version, max(at_ns), max(thumb), max(score_micro),"
        " bool_or(corrected), max(reason) FROM interlock.call_feedback WHERE tenant_id = %s AND position > %s"
        " GROUP BY request, position, source, model, version ORDER BY position LIMIT %s",
        (tenant_id, position, limit),
    )
    return [
        FeedbackRow(
            *(tenant_id, request, at, source, model, version, at_ns, thumb, score, corrected, reason),
            reward(thumb or "", -1 if score is None else score),
        )
        for request, at, source, model, version, at_ns, thumb, score, corrected, reason in rows
    ]


def rewards(conn: Connection[Any], tenant_id: str, requests: Sequence[str]) -> dict[str, int]:
    """What counts as the reward of each of these calls, in [0, 1e6]; calls without one are absent."""
    rows = conn.execute(
        "SELECT request, max(thumb), max(score_micro) FROM interlock.call_feedback"
        " WHERE tenant_id = %s AND request = ANY(%s) GROUP BY request",
        (tenant_id, list(requests)),
    )
    found = {request: reward(thumb or "", -1 if score is None else score) for request, thumb, score in rows}
    return {request: micro for request, micro in found.items() if micro is not None}


def sums(conn: Connection[Any], by: Sequence[str], first: date, after: date) -> list[tuple[tuple[Any, ...], int, int]]:
    """(values of some of `usage.DIMENSIONS`, calls with a reward, sum of the rewards in millionths) of calls of the
    days [first, after), of what the connection may see. A call counts once, with its score where it has one."""
    names = [sql.Identifier(name) for name in by]
    columns = sql.SQL(", ").join([*names, sql.SQL("count(*)"), sql.SQL("sum(reward_micro)::bigint")])
    query = sql.SQL(
        "SELECT {} FROM (SELECT DISTINCT ON (tenant_id, request) {} FROM interlock.call_feedback"
        " WHERE day >= %s AND day < %s AND reward_micro IS NOT NULL ORDER BY tenant_id, request, kind <> 'score')"
        " AS each{}"
    ).format(
        columns,
        sql.SQL(", ").join([*names, sql.Identifier("reward_micro")]),
        sql.SQL(" GROUP BY {0} ORDER BY {0}").format(sql.SQL(", ").join(names)) if names else sql.SQL(""),
    )
    return [(tuple(row[:-2]), row[-2], row[-1] or 0) for row in conn.execute(query, (first, after))]


def summary(
    conn: Connection[Any], tenant_id: str, since: date, until: date, by: Sequence[str] = ("model",)
) -> list[tuple[tuple[Any, ...], Quality]]:
    """The mean reward of a tenant's calls of the days [since, until), with its interval at 95 %, by some of
    `usage.DIMENSIONS` ("team_id", "model", "source", ...), in their order. What has no feedback is absent. The formula:
    `types.feedback.quality`. Raises ValueError."""
    for name in by:
        if name not in DIMENSIONS:
            raise ValueError(f"feedback is summed by {', '.join(DIMENSIONS)}, not by {name!r}")
    found = sums(conn, ["tenant_id", *by], since, until)
    made = [(values[1:], quality(calls, total)) for values, calls, total in found if values[0] == tenant_id]
    return [(values, each) for values, each in made if each is not None]
