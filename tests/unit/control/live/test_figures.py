"""The live view's figures: exact percentiles, rates of the last seconds, bounded windows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.live import view
from interlock.control.live.figures import RATE_S, SETTLE_S, STEP_S, Kept, Objectives, figures, points, spread
from interlock.control.live.view import Scope
from interlock.control.live.window import CALL_BYTES, SHADOW, Window

from .leaves import NS, leaf, measured, refusal

NOW_S = 10_000


def window(leaves: Iterable[bytes], calls_max: int = 1000, window_s: int = 300) -> Window:
    made = Window(calls_max, window_s)
    for each in leaves:
        made.add(each)
    return made


@given(st.lists(st.integers(0, 10_000), min_size=1), st.sampled_from([(50, "p50_us"), (95, "p95_us"), (99, "p99_us")]))
def test_percentiles_are_exact(values: list[int], which: tuple[int, str]) -> None:
    percent, name = which
    found = getattr(spread(list(values)), name)
    assert found in values
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    assert sum(v < found for v in values) * 100 < percent * len(values)


def test_without_calls_there_are_zeroes() -> None:
    assert spread([]).count == 0
    empty = figures([], NOW_S * NS)
    assert (empty.calls, empty.error_share, empty.calls_per_s, empty.watts) == (0, 0.0, 0.0, 0.0)


def test_figures_count_what_they_say() -> None:
    at = NOW_S - 10
    found = figures(
        window(
            [
                leaf(1, at, what__stream=True),
                leaf(2, at, times__total_us=300_000),
                leaf(3, at, result__state="failed", times__total_us=9_000_000),
                leaf(4, NOW_S - 200),
                refusal(5, at),
                leaf(6, at, energy={}, cost={"nusd": 0, "price": "none"}),
            ]
        ),
        NOW_S * NS,
    )
    assert (found.calls, found.refusals, found.failures, found.error_share) == (5, 1, 1, 0.2)
    assert found.first.count == 1 and found.first.p50_us == 20_000, "only streams have a first token"
    assert (found.latency.count, found.latency.p50_us, found.latency.p99_us) == (4, 100_000, 300_000)
    assert (found.prompt_tokens, found.completion_tokens, found.nusd) == (50, 100, 4_000)
    assert found.calls_per_s == 4 / RATE_S and found.tokens_per_s == 120 / RATE_S, "the one of before is not of now"
    assert found.nusd_per_h == 3_000 * 3600 // RATE_S
    assert (found.low_watts, found.watts, found.high_watts) == (3 / RATE_S, 9 / RATE_S, 18 / RATE_S)
    assert (found.recent, found.unknown_energy, found.unpriced, found.methods) == (4, 1, 1, ("declared",))


def test_objectives_are_counted_where_calls_had_any() -> None:
    at = NOW_S - 10
    both = {"ttft_ms": 500, "cost_nusd": 5, "ttft": "met", "cost": "met", "outcome": "met"}
    found = figures(
        window(
            [
                leaf(1, at),
                leaf(2, at, slo=both),
                leaf(3, at, slo={**both, "cost": "missed", "outcome": "missed"}),
                leaf(4, at, result__state="failed", slo={"ttft_ms": 500, "ttft": "unknown", "outcome": "unknown"}),
                leaf(5, at, result__state="interrupted", slo={"ttft_ms": 500, "latency_ms": 0, "cost_nusd": -1}),
                leaf(6, at, kind="refusal", slo={"ttft_ms": 500, "strict": True}),
            ]
        ),
        NOW_S * NS,
    ).objectives
    assert found == Objectives(Kept(4, 1, 1), ttft=Kept(4, 2, 0), latency=None, cost=Kept(2, 1, 1))
    assert found.outcome.unknown == 2 and found.ttft is not None and found.ttft.unknown == 2


def test_without_objectives_there_is_no_share() -> None:
    assert figures(window([leaf(1, NOW_S - 10), refusal(2, NOW_S - 10)]), NOW_S * NS).objectives is None


def test_calls_of_which_the_same_is_said_share_it() -> None:
    slo = {"ttft_ms": 500, "ttft": "met", "outcome": "met"}
    first, second = window([leaf(n, NOW_S, slo={**slo, "ttft_ms": n}) for n in (1, 2)])
    assert first.asked is not None and first.asked is second.asked


def test_a_measurement_takes_the_place_of_the_estimate() -> None:
    found = figures(window([leaf(1, NOW_S - 10), measured(1, NOW_S - 9, 30_000_000)]), NOW_S * NS)
    assert found.low_watts == found.watts == found.high_watts == 30 / RATE_S
    assert found.methods == ("nvml",)


def test_rates_leave_out_what_may_not_be_there_yet() -> None:
    assert figures(window([leaf(1, NOW_S - SETTLE_S / 2, times__total_us=0)]), NOW_S * NS).recent == 0
    assert figures(window([leaf(1, NOW_S - SETTLE_S, times__total_us=0)]), NOW_S * NS).recent == 1


def test_a_window_forgets_what_is_old() -> None:
    kept = window([leaf(n, 100 * n) for n in range(10)], window_s=300)
    kept.prune(900 * NS)
    assert [call.request for call in kept] == ["req_6", "req_7", "req_8", "req_9"]
    assert kept.dropped_ns == 0 and kept.bytes == sum(CALL_BYTES + len(c.request) for c in kept)


def test_a_window_is_bounded_and_says_from_when_on_it_is_whole() -> None:
    kept = window([leaf(n, NOW_S + n) for n in range(20)], calls_max=5)
    assert [call.request for call in kept] == [f"req_{n}" for n in range(15, 20)]
    assert kept.dropped_ns == (NOW_S + 14) * NS + NS // 10
    kept.prune((NOW_S + 14 + 301) * NS)
    assert kept.dropped_ns == 0, "what was dropped would be too old by now"
    kept.add(measured(14, NOW_S + 20, 1))  # of a call that is gone: nothing happens
    assert len(kept) == 5


def test_a_call_takes_the_memory_that_is_counted() -> None:
    leaves = [leaf(n, NOW_S, times__total_us=100_000 + n, tokens__prompt=1000 + n) for n in range(5000)]
    tracemalloc.start()
    kept = window(leaves, calls_max=10_000)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / 2 < kept.bytes < used * 2


def test_points_are_of_steps_that_are_over() -> None:
    made = points(window([leaf(1, NOW_S - 7), refusal(2, NOW_S - 7), leaf(3, NOW_S + 0.5)]), NOW_S * NS, 60)
    assert [p.at_s for p in made] == list(range(NOW_S - STEP_S - 60, NOW_S - STEP_S, STEP_S))
    assert (made[-1].calls, made[-1].refusals, made[-1].p50_s, made[-1].first_s) == (1 / STEP_S, 1 / STEP_S, 0.1, None)
    assert made[0].p50_s is None and made[0].calls == 0


def names() -> view.Names:
    known = {"ten_a": "acme", "ten_b": "globex", "team_1": "research", "prn_1": "rosa"}
    return view.Names(lambda ids: {each: known.get(each, each) for each in ids}, {"team_1": "4711"})


@pytest.fixture
def two() -> dict[str, Window]:
    """Two tenants with a source of one name."""
    return {
        "ten_a": window([leaf(1, NOW_S - 5), leaf(2, NOW_S - 5, where__name="other")]),
        "ten_b": window([leaf(3, NOW_S - 5, who__team="team_1")]),
    }


def test_a_scope_with_a_tenant_has_its_calls_only(two: dict[str, Window]) -> None:
    calls = view.counted(two, Scope("ten_a", "source"), {}, 0)
    assert {call.request for each in calls.values() for call in each} == {"req_1", "req_2"}
    assert view.counted(two, Scope("ten_c", "source"), {}, 0) == {}


def test_tables_keep_apart_what_names_do_not(two: dict[str, Window]) -> None:
    def table(by: str, tenant: str = "") -> set[tuple[str, str, int]]:
        scope = Scope(tenant, by).checked()
        found, _ = view.rows(view.counted(two, scope, names().centers, 0), scope, names(), NOW_S * NS)
        return {(row.name, row.tenant, row.figures.calls) for row in found}

    assert table("source") == {("local", "", 2), ("other", "", 1)}
    assert table("team") == {("research", "acme", 2), ("research", "globex", 1)}
    assert table("cost_center") == {("4711", "acme", 2), ("4711", "globex", 1)}
    assert table("tenant") == {("acme", "acme", 2), ("globex", "globex", 1)}
    assert table("principal", "ten_a") == {("rosa", "acme", 2)}


def test_figures_are_narrowed_down(two: dict[str, Window]) -> None:
    def calls(field: str, value: str) -> int:
        return sum(len(c) for c in view.counted(two, Scope("", "tenant", field, value), names().centers, 0).values())

    assert (calls("source", "other"), calls("model", "m"), calls("cost_center", "4711")) == (1, 3, 3)
    assert calls("source", "local") == 2 and calls("cost_center", "none") == 0


def test_the_newest_call_is_first(two: dict[str, Window]) -> None:
    two["ten_b"].add(leaf(9, NOW_S - 1, what__alias="fast", what__arm="canary", where__attempts=2))
    lines = view.newest(view.counted(two, Scope("", "tenant"), {}, 0), names())
    assert (lines[0].request, lines[0].tenant, lines[0].who) == ("req_9", "globex", "rosa")
    assert lines[0].how == "alias fast, canary, attempt 2"
    two["ten_b"].add(leaf(10, NOW_S - 0.5, what__mode="balanced", where__overflow=True))
    lines = view.newest(view.counted(two, Scope("", "tenant"), {}, 0), names())
    assert (lines[0].request, lines[0].how) == ("req_10", "chosen: balanced, overflow")


@pytest.mark.parametrize("field", ["shadow_of", "judge_of", "challenger_of"])
def test_a_shadow_is_nobodys(field: str) -> None:
    (call,) = window([leaf(1, NOW_S, **{field: "req_0"})])
    assert (call.team, call.principal) == (SHADOW, SHADOW)
