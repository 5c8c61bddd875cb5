"""Calls that run, one by one: what is shown of each from the first word of its node to the entry of its end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.live import running
from interlock.control.live.running import ENDED_S, KNOWN_MAX, Running, RunningLine, lines
from interlock.control.live.view import Names, Scope
from interlock.control.live.window import SHADOW, Call, Window
from interlock.storage.nodes import Told
from interlock.types.running import RunningCall, WorkerCalls

from .leaves import NS, leaf

NAMES = Names(lambda ids: {each: f"name of {each}" for each in ids}, {"team_1": "4711"})
EVERYTHING = Scope("", "source", calls=True)
SILENT_S = 60.0


def call(request: str, tenant: str = "ten_a", **changed: Any) -> RunningCall:
    given = {"team_id": "team_1", "principal_id": "prn_1", "asked": "fast", "age_ms": 500, "state": "asked", **changed}
    return RunningCall(request, tenant, **given)


def told(*calls: RunningCall, node: str = "n1", epoch: str = "e1", ago_s: float = 0.0, more: int = 0) -> Told:
    counts: dict[str, int] = {}
    for each in calls:
        counts[each.tenant_id] = counts.get(each.tenant_id, 0) + 1
    counts = {tenant: count + more for tenant, count in counts.items()}
    return Told(node, ago_s, [], [WorkerCalls(epoch, calls, counts)])


def nothing(_tenant: str, _request: str) -> Call | None:
    return None


def ended(request: str, **changed: Any) -> Any:
    """A ledger with one call."""
    window = Window(10, 300)
    window.add(leaf(1, 100, request=request, **changed))
    return lambda _tenant, asked: window.find(asked)


def shown(feed: Running, now_s: float, scope: Scope = EVERYTHING, most: int = 50) -> list[RunningLine]:
    known = feed.of(scope, NAMES.centers)
    return lines(known, scope.order, NAMES, (now_s, int(now_s * NS)), most)


def states(feed: Running, now_s: float) -> dict[str, str]:
    return {line.request: line.state for line in shown(feed, now_s)}


def test_a_call_is_shown_from_its_first_byte_to_its_entry() -> None:
    feed = Running(SILENT_S)
    feed.note([told(call("r1", state="seat", waited_ms=400, why="alias fast"))], nothing, 10.0)
    (line,) = shown(feed, 10.0)
    assert (line.state, line.who, line.team, line.tenant) == (
        "seat", "name of prn_1", "name of team_1", "name of ten_a"
    )  # fmt: skip
    assert line.age_ms == 500 and line.since.timestamp() == pytest.approx(9.5, abs=0.6) and line.tokens == -1
    streaming = call("r1", age_ms=1500, state="streaming", pieces=12, events=14, model="m", source="local", attempts=2)
    feed.note([told(streaming)], nothing, 11.0)
    (line,) = shown(feed, 11.0)
    assert (line.state, line.tokens, line.events, line.attempts, line.source) == ("streaming", 12, 14, 2, "local")
    feed.note([told()], nothing, 12.0)
    assert states(feed, 12.0) == {"r1": "unrecorded"}, "it has ended; its entry is on its way"
    entry = ended("r1", result__state="failed", result__code="upstream_error", where__attempts=3)
    feed.note([told()], entry, 13.0)
    (line,) = shown(feed, 13.0)
    assert line.ended and (line.state, line.code, line.attempts, line.tokens) == ("failed", "upstream_error", 3, 20)
    feed.note([told()], entry, 13.0 + ENDED_S)
    assert shown(feed, 13.0 + ENDED_S) == []


def test_a_call_of_minutes_stays() -> None:
    feed = Running(SILENT_S)
    for second in range(0, 3600, 5):
        feed.note([told(call("r1", age_ms=second * 1000))], nothing, 1000.0 + second)
    (line,) = shown(feed, 1000.0 + 3595)
    assert line.age_ms >= 3_595_000 and line.state == "asked"
    assert line.since.timestamp() == pytest.approx(1000, abs=1), "when it came does not move"


def test_a_killed_worker_and_a_silent_node_are_told_apart_and_go() -> None:
    feed = Running(SILENT_S)
    feed.note([told(call("killed")), told(call("silent"), node="n2")], nothing, 0.0)
    for now_s in (1.0, SILENT_S):
        feed.note([told(epoch="e2"), told(call("silent"), node="n2", ago_s=60.0)], nothing, now_s)
        assert states(feed, now_s) == {"killed": "lost", "silent": "silent"}
    feed.note([told(epoch="e2")], nothing, SILENT_S + 1.0)
    assert states(feed, SILENT_S + 1) == {}, "nothing is shown for ever"
    feed.note([told(call("killed"))], nothing, 0.0)
    feed.note([told(epoch="e2")], ended("killed", result__state="interrupted"), 1.0)
    assert states(feed, 1.0) == {"killed": "interrupted"}, "what its worker left in the log says how it ended"


def test_what_a_node_does_not_tell_of_for_want_of_room_has_not_ended() -> None:
    feed = Running(SILENT_S)
    feed.note([told(call("r1"), call("r2"))], nothing, 0.0)
    feed.note([told(call("r2"), more=1)], nothing, 1.0)
    assert states(feed, 1.0) == {"r2": "asked"}
    assert feed.count(EVERYTHING, feed.of(EVERYTHING, {})) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(("ten_a", "ten_b", "ten_c")), st.sampled_from(("x", "y")), st.booleans()),
        max_size=30,
    ),
    st.sampled_from(("ten_a", "ten_b", "")),
    st.sampled_from(("", "source", "model", "cost_center")),
)
def test_one_tenant_sees_nothing_of_another(calls: list[tuple[str, str, bool]], tenant: str, field: str) -> None:
    made = [call(f"{t}_{n}", t, source=s, model=s, shadow=hidden) for n, (t, s, hidden) in enumerate(calls)]
    feed = Running(SILENT_S)
    feed.note([told(*made)], nothing, 0.0)
    value = "4711" if field == "cost_center" else "x" if field else ""
    scope = Scope(tenant, "source", field, value, calls=True)
    found = shown(feed, 1.0, scope)
    assert {line.request for line in found} == {
        c.request for c in made if tenant in ("", c.tenant_id) and (field in ("", "cost_center") or c.source == "x")
    }
    if not field:
        assert feed.count(scope, feed.of(scope, {})) == sum(tenant in ("", t) for t, _, _ in calls)
    hidden = {c.request for c in made if c.shadow}
    assert all((line.who == SHADOW) == (line.request in hidden) for line in found), "nobody asked for a shadow"


def test_the_order_is_as_wanted_and_lines_are_bounded() -> None:
    feed = Running(SILENT_S)
    feed.note([told(*(call(f"r{n}", age_ms=n * 1000) for n in range(9)))], ended("r4"), 100.0)
    newest = shown(feed, 100.0, EVERYTHING, 4)
    assert [line.request for line in newest] == ["r0", "r1", "r2", "r3"]
    longest = shown(feed, 100.0, EVERYTHING._replace(order="longest"), 20)
    assert [line.request for line in longest] == ["r8", "r7", "r6", "r5", "r3", "r2", "r1", "r0", "r4"]


def test_what_is_followed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KNOWN_MAX <= 10_000
    monkeypatch.setattr(running, "KNOWN_MAX", 10)
    feed = Running(SILENT_S)
    for second in range(20):
        calls = [call(f"r{second}_{n}") for n in range(4)]
        feed.note([told(*calls, node=f"n{second}"), told(*calls, node="n")], nothing, float(second))
        assert len(feed.of(EVERYTHING, {})) <= 10
    feed.clear()
    assert feed.of(EVERYTHING, {}) == []
