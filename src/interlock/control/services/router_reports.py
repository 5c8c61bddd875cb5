"""What became of calls that were decided by what was learned."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.router import means
from interlock.errors import BadRequest
from interlock.storage import learned, routed
from interlock.types.learned import Weights, arm_named

CALLS_MAX = 20_000
"""Newest calls of a time that are counted; the report says when there were more."""
HOUR_NS = 3_600_000_000_000
STEPS_MAX = 400


class Step(msgspec.Struct, frozen=True):
    """Calls of one step of time that were decided by what was learned. `arms`: how many each model answered. `tried`:
    how many went to another than the best. `quality_micro`: mean of what was said, of `said` answers; null: nobody said
    anything. Both are of all calls of these models."""

    at: datetime.datetime
    arms: dict[str, int]
    tried: int
    said: int
    quality_micro: int | None


class Regret(msgspec.Struct, frozen=True):
    """An estimate, in millionths of quality per call, by the state in force. `best_micro`: what the best model for each
    task gives. `got_micro`: what the models give that answered, whichever task their calls were of. `regret_micro`: the
    difference, never below 0; `tried_micro`: the part of it that trying others cost.

        best = sum over tasks of share(task) * max over models of quality(model, task)
        got  = sum over models of share of calls(model) * sum over tasks of share(task) * quality(model, task)
    """

    calls: int
    best_micro: int
    got_micro: int
    regret_micro: int
    tried_micro: int


class Shares(msgspec.Struct, frozen=True):
    """Which models answered calls that were decided by what was learned, step by step. `whole`: false when there were
    older calls in this time than are counted. `regret`: null without a state or without such calls."""

    since: datetime.datetime
    until: datetime.datetime
    step_s: int
    calls: int
    tried: int
    whole: bool
    steps: list[Step]
    regret: Regret | None


def shares(conn: Connection[Any], tenant_id: str, since_ns: int, until_ns: int, step_ns: int) -> Shares:
    """The report of a time. Raises BadRequest when it has more than STEPS_MAX steps."""
    if not 0 < until_ns - since_ns <= STEPS_MAX * step_ns:
        raise BadRequest(f"a report has at most {STEPS_MAX} steps: take a shorter time, or longer steps", param="hours")
    found, cut = routed.counts(conn, tenant_id, since_ns, until_ns, step_ns, CALLS_MAX)
    said = routed.said(conn, tenant_id, since_ns, until_ns, step_ns)
    weights = learned.current(conn, tenant_id)
    steps: dict[int, list[routed.Routed]] = {}
    for row in found:
        steps.setdefault(row.at_ns, []).append(row)
    told: dict[int, tuple[int, int]] = {}
    for each in said:
        before = told.get(each.at_ns, (0, 0))
        told[each.at_ns] = (before[0] + each.calls, before[1] + each.sum_micro)
    return Shares(
        _at(since_ns),
        _at(until_ns),
        step_ns // 1_000_000_000,
        sum(row.calls for row in found),
        sum(row.calls for row in found if row.tried),
        not cut,
        [_step(at, steps.get(at, []), told.get(at, (0, 0))) for at in sorted({*steps, *told})],
        regret(weights, found),
    )


def regret(weights: Weights | None, found: Sequence[routed.Routed]) -> Regret | None:
    """What was given up, by a state. Calls of models that the state does not know do not count. Pure."""
    known = means(weights)
    calls = _by_arm(found, known)
    total = sum(calls.values())
    if weights is None or not total:
        return None
    shares = weights.task_shares_micro
    whole = sum(shares)
    best = sum(
        share * max(arm.capabilities[task].mean_micro for arm in weights.arms) for task, share in enumerate(shares)
    )
    best_micro = round(best / whole) if whole else max(known.values())
    got = sum(known[arm] * count for arm, count in calls.items()) / total
    tried = _by_arm([row for row in found if row.tried], known)
    lost = sum(max(best_micro - known[arm], 0) * count for arm, count in tried.items()) / total
    whole_micro = max(round(best_micro - got), 0)
    return Regret(total, best_micro, round(got), whole_micro, min(round(lost), whole_micro))


def _by_arm(found: Sequence[routed.Routed], known: Mapping[str, int]) -> dict[str, int]:
    calls: dict[str, int] = {}
    for row in found:
        arm = arm_named(row.model, row.version)
        if arm in known:
            calls[arm] = calls.get(arm, 0) + row.calls
    return calls


def _step(at_ns: int, rows: Sequence[routed.Routed], told: tuple[int, int]) -> Step:
    arms: dict[str, int] = {}
    for row in rows:
        arm = arm_named(row.model, row.version)
        arms[arm] = arms.get(arm, 0) + row.calls
    mean = round(told[1] / told[0]) if told[0] else None
    return Step(_at(at_ns), arms, sum(row.calls for row in rows if row.tried), told[0], mean)


def _at(ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
