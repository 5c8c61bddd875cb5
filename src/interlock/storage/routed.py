"""What became of calls that the router decided by what it learned: which model answered, and what was said of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection


class Routed(NamedTuple):
    """Calls of one step of time that one model answered. `at_ns`: the step's begin. `version`: of the model. `tried`:
    they went there to learn about it."""

    at_ns: int
    model: str
    version: str
    tried: bool
    calls: int


class Said(NamedTuple):
    """What was said of answers of one model within one step of time: `calls`, and the sum of their rewards."""

    at_ns: int
    model: str
    version: str
    calls: int
    sum_micro: int


def counts(
    conn: Connection[Any], tenant_id: str, since_ns: int, until_ns: int, step_ns: int, limit: int
) -> tuple[list[Routed], bool]:
    """By step, model and version, of the newest `limit` calls of [since, until) that were answered; and whether there
    are older ones, which are not counted. Shadows' calls are left out."""
    rows = conn.execute(
        "WITH each AS (SELECT at_ns, model, convert_from(leaf, 'UTF8')::jsonb AS leaf FROM interlock.ledger_entries"
        " WHERE tenant_id = %(t)s AND kind = 'call' AND at_ns >= %(since)s AND at_ns < %(until)s"
        " ORDER BY position DESC LIMIT %(limit)s)"
        " SELECT at_ns - at_ns %% %(step)s, model, leaf->'where'->>'version',"
        " coalesce((leaf->'decided'->>'tried')::boolean, false), count(*),"
        " (SELECT count(*) FROM each) >= %(limit)s FROM each"
        " WHERE (leaf->'decided'->>'router')::bigint > 0 AND model <> ''"
        " AND NOT leaf ?| ARRAY['shadow_of', 'judge_of', 'challenger_of']"
        " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
        {"t": tenant_id, "since": since_ns, "until": until_ns, "step": step_ns, "limit": limit},
    ).fetchall()
    return [Routed(row[0], row[1], row[2] or "", row[3], row[4]) for row in rows], any(row[5] for row in rows)


def said(conn: Connection[Any], tenant_id: str, since_ns: int, until_ns: int, step_ns: int) -> list[Said]:
    """What was said, by step, model and version. A call counts once, with its score where it has one."""
    rows = conn.execute(
        "SELECT at_ns - at_ns %% %(step)s, model, version, count(*), sum(reward_micro)::bigint"
        " FROM (SELECT DISTINCT ON (request) at_ns, model, version, reward_micro FROM interlock.call_feedback"
        " WHERE tenant_id = %(t)s AND at_ns >= %(since)s AND at_ns < %(until)s AND reward_micro IS NOT NULL"
        " ORDER BY request, kind <> 'score') AS each GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {"t": tenant_id, "since": since_ns, "until": until_ns, "step": step_ns},
    )
    return [Said(*row) for row in rows]
