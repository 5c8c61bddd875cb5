"""Over all courses of readings: an alert fires after its time and not before, once, and a restart changes nothing."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.alerts.evaluate import NS, evaluate
from interlock.control.alerts.watch import decide
from interlock.types.alert import AlertKind, AlertRule, AlertState, Happening, Reading

THRESHOLD = 10
Course = list[tuple[int, int | None]]
"""(seconds since the reading before, value)."""

courses = st.lists(
    st.tuples(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 20), st.just(15))), min_size=1, max_size=60
)
holding = st.sampled_from((0, 1, 30, 60, 90))


def rule(for_s: int = 60, no_data_s: int = 0, silenced_until_ns: int = 0) -> AlertRule:
    return AlertRule("alr_1", "ten_1", "r", AlertKind.source_queue, THRESHOLD, for_s=for_s, no_data_s=no_data_s,
                     silenced_until_ns=silenced_until_ns)  # fmt: skip


def run(course: Course, asked: AlertRule) -> list[tuple[int, int | None, AlertState, Happening | None]]:
    """(instant, value, state after it, what happened) of each reading."""
    state, now_ns, out = AlertState(), 1_000 * NS, []
    for seconds, value in course:
        now_ns += seconds * NS
        state, happened = evaluate(asked, Reading("s", value), state, now_ns)
        out.append((now_ns, value, state, happened))
    return out


@given(courses, holding)
def test_it_fires_only_after_its_time_in_a_row_of_known_readings(course: Course, for_s: int) -> None:
    seen = run(course, rule(for_s))
    for place, (now_ns, _, _, happened) in enumerate(seen):
        if happened is None or happened.kind not in ("firing", "resolved"):
            continue
        over = happened.kind == "firing"
        began_ns = now_ns
        for at_ns, value, _, _ in reversed(seen[: place + 1]):
            if value is None or (value >= THRESHOLD) != over:
                break
            began_ns = at_ns
        assert now_ns - began_ns >= for_s * NS


@given(courses, holding)
def test_it_does_fire_and_end_when_its_time_has_come(course: Course, for_s: int) -> None:
    """The other half: a row of known readings on the other side that is long enough changes the status."""
    row_ns: int | None = None
    firing = False
    for now_ns, value, state, _ in run(course, rule(for_s)):
        if value is None or (value >= THRESHOLD) == firing:
            row_ns = None
        else:
            row_ns = now_ns if row_ns is None else row_ns
            if now_ns - row_ns >= for_s * NS:
                firing, row_ns = not firing, None
        assert (state.status == "firing") == firing


@given(courses, holding, st.sampled_from((0, 20, 60)))
def test_what_happens_alternates_and_is_named_once(course: Course, for_s: int, no_data_s: int) -> None:
    happened = [each for *_, each in run(course, rule(for_s, no_data_s)) if each is not None]
    names = [(each.kind, each.episode) for each in happened]
    assert len(set(names)) == len(names)
    firings = [each.kind for each in happened if each.kind in ("firing", "resolved")]
    assert firings == ["firing", "resolved"] * (len(firings) // 2) + ["firing"] * (len(firings) % 2)
    losses = [each.kind for each in happened if each.kind in ("no_data", "data_back")]
    assert losses == ["no_data", "data_back"] * (len(losses) // 2) + ["no_data"] * (len(losses) % 2)
    if not no_data_s:
        assert losses == []


@given(courses, holding, st.integers(0, 60))
def test_a_restart_at_any_reading_changes_nothing(course: Course, for_s: int, cut: int) -> None:
    """All that counts is in the state: written and read back, it goes on as if nothing had been."""
    whole = run(course, rule(for_s, 30))
    state = AlertState()
    for place, (now_ns, value, expected, happened) in enumerate(whole):
        if place == cut:
            state = msgspec.json.decode(msgspec.json.encode(state), type=AlertState)
        state, again = evaluate(rule(for_s, 30), Reading("s", value), state, now_ns)
        assert (state, again) == (expected, happened)


@given(courses, holding)
def test_a_missing_reading_is_never_a_good_one(course: Course, for_s: int) -> None:
    before = AlertState()
    for _, value, state, happened in run(course, rule(for_s)):
        if value is None:
            assert happened is None and state.status == before.status and state.unknown_ns
            assert state.turned_ns == 0, "no time goes by while nothing is known"
        else:
            assert not state.unknown_ns
        before = state


@given(courses, holding, st.integers(0, 2000))
def test_what_a_silence_kept_back_is_told_at_its_end_and_nothing_during_it(
    course: Course, for_s: int, silent_s: int
) -> None:
    until_ns = 1_000 * NS + silent_s * NS
    told = False
    for now_ns, _, state, happened in run(course, rule(for_s, 0, until_ns)):
        if happened is not None:
            if happened.kind in ("firing", "still_firing"):
                assert happened.deliver == (now_ns >= until_ns)
                told = happened.deliver
            else:
                assert happened.kind == "resolved" and happened.deliver == told
                told = False
        if state.status == "firing" and now_ns >= until_ns and state.unknown_ns == 0:
            assert state.told


def test_of_a_rule_that_cannot_be_read_everything_is_unknown_and_what_is_gone_is_over() -> None:
    firing = AlertState("firing", NS, 15, "", episode=1, told=True)
    states = {("alr_1", "a"): firing, ("alr_1", "b"): AlertState("ok", NS), ("alr_2", "c"): firing}
    steps = decide(rule(), None, states, 9 * NS)
    assert [(s.subject, s.after.status, bool(s.after.unknown_ns), s.happened) for s in steps] == [
        ("a", "firing", True, None), ("b", "ok", True, None),
    ]  # fmt: skip
    steps = decide(rule(), [Reading("b", 3)], states, 9 * NS)
    gone = next(step for step in steps if step.subject == "a")
    assert gone.happened is not None and gone.happened.kind == "resolved" and gone.happened.deliver


@given(courses, courses, holding)
def test_what_is_gone_and_comes_back_has_events_of_its_own(before: Course, after: Course, for_s: int) -> None:
    """An event is told apart by its episode: one that came again under an old number would not be written."""
    seen = run(before, rule(for_s, 30))
    now_ns, _, state, _ = seen[-1]
    happened = [each for *_, each in seen]
    state, over = evaluate(rule(for_s, 30), None, state, now_ns)
    assert state.status == "gone" and evaluate(rule(for_s, 30), None, state, now_ns + NS) == (state, None)
    happened.append(over)
    for seconds, value in after:
        now_ns += seconds * NS
        state, each = evaluate(rule(for_s, 30), Reading("s", value), state, now_ns)
        happened.append(each)
        assert state.status != "gone" or value is None
    names = [(each.kind, each.episode) for each in happened if each is not None]
    assert len(set(names)) == len(names)


def test_a_source_without_calls_is_unknown_for_a_day_and_then_let_go() -> None:
    failing = AlertRule("alr_1", "ten_1", "r", AlertKind.source_failures, THRESHOLD)
    states = {("alr_1", "gpu"): AlertState("firing", NS, 15, "", episode=1)}
    (step,) = decide(failing, [], states, 10 * NS)
    assert step.after.status == "firing" and step.after.unknown_ns == 10 * NS
    (step,) = decide(failing, [], {("alr_1", "gpu"): step.after}, 86_500 * NS)
    assert step.after.status == "gone" and step.happened is not None and step.happened.kind == "resolved"
