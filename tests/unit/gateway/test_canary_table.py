"""The table of canaries: which attempt takes a canary back, over several processes' handles, and what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import Unavailable
from interlock.gateway.canary_table import (
    BESIDE,
    BUCKETS,
    TRIED,
    CanaryTable,
    Verdict,
    beyond,
    bucket,
    lower_ms,
    percentile_ms,
    too_many,
)
from interlock.settings import Settings
from interlock.types.snapshot import AliasTarget, Canary

S = 1_000_000_000
BASE = {"id": "can_1", "target": AliasTarget("new"), "share_milli": 100, "started_s": 0}


def canary(**fields: object) -> Canary:
    return Canary(**{**BASE, "calls_min": 20, "window_s": 60, "errors_milli_max": 100, **fields})  # type: ignore[arg-type]


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[list[CanaryTable]]:
    """The node's handle, and those of three workers."""
    settings = Settings(canaries_max=3)
    made = [CanaryTable.create(tmp_path / "canaries.shm", settings)]
    made += [CanaryTable.open(tmp_path / "canaries.shm", settings) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def failures(table: CanaryTable, of: Canary, n: int, now_ns: int = S, arm: int = TRIED) -> list[Verdict | None]:
    return [table.count(of, arm, now_ns, 7, failed=1) for _ in range(n)]


def successes(
    table: CanaryTable, of: Canary, n: int, ms: int = 50, now_ns: int = S, arm: int = TRIED
) -> Verdict | None:
    found = None
    for _ in range(n):
        found = table.count(of, arm, now_ns, 7, first_us=ms * 1000, total_us=ms * 1000) or found
    return found


def test_the_failure_after_those_that_are_allowed_takes_it_back_whichever_worker_counts_it(
    tables: list[CanaryTable],
) -> None:
    node, *workers = tables
    tried = canary()
    for worker in workers[:2]:
        assert failures(worker, tried, 1) == [None]
    assert not node.ended(tried)
    assert failures(workers[2], tried, 2) == [Verdict("errors", 7, 3, 3, 100), None]
    assert all(table.ended(tried) for table in tables)
    assert node.verdict("can_1") == Verdict("errors", 7, 3, 3, 100)
    assert "3 of 3 calls failed; at most 10 % may" in Verdict("errors", 7, 3, 3, 100).words


@given(st.integers(0, 1000), st.integers(1, 400), st.lists(st.booleans(), max_size=200))
@example(100, 20, [True, True, True])
@example(0, 1, [False] * 30 + [True])
@example(100, 10, [True, False, False, False, False, False, False, False, False, False, True])
def test_too_many_is_a_bound_on_the_rate_and_no_failure_within_it_counts(
    milli: int, least: int, outcomes: list[bool]
) -> None:
    for n in range(len(outcomes) + 1):
        bad = sum(outcomes[:n])
        ended = too_many(bad, n, milli, least)
        assert ended == (bad / max(n, least) > milli / 1000 + 1e-12)
        if bad >= milli * least // 1000 + 1 and n <= least:
            assert ended


def test_only_the_window_counts(tables: list[CanaryTable]) -> None:
    node, one, *_ = tables
    tried = canary()
    assert failures(one, tried, 2, now_ns=1000 * S) == [None, None]
    assert failures(one, tried, 2, now_ns=1080 * S) == [None, None]
    assert failures(one, tried, 1, now_ns=1120 * S)[0] is not None
    assert node.figures(tried, 1120 * S) == ((3, 3), (0, 0))


def test_other_canaries_and_the_other_arm_count_apart(tables: list[CanaryTable]) -> None:
    node, one, *_ = tables
    tried, other = canary(), canary(id="can_2")
    assert failures(one, tried, 50, arm=BESIDE) == [None] * 50
    assert failures(one, other, 2) == [None, None] and failures(one, tried, 2) == [None, None]
    assert not node.ended(tried) and not node.ended(other)


def test_times_beyond_a_bound_take_it_back_when_one_of_twenty_is(tables: list[CanaryTable]) -> None:
    node, one, *_ = tables
    tried = canary(total_ms_max=100)
    assert successes(one, tried, 30, ms=100) is None
    assert successes(one, tried, 1, ms=101) is None
    found = successes(one, tried, 1, ms=101)
    assert found == Verdict("total", 7, 2, 32, 100)
    assert node.ended(tried) and "longer in total than 100 ms" in found.words
    first = canary(id="can_2", first_byte_ms_max=100)
    assert successes(one, first, 1, ms=5000) is None
    assert successes(one, first, 1, ms=5000) == Verdict("first_byte", 7, 2, 2, 100)


def test_a_canary_is_measured_against_what_it_stands_beside(tables: list[CanaryTable]) -> None:
    _, one, *_ = tables
    tried = canary(errors_milli_max=-1, errors_milli_over_stable=50, total_percent_max=200)
    assert failures(one, tried, 15) == [None] * 15  # nothing is known of the others yet
    successes(one, tried, 300, ms=90)
    successes(one, tried, 18, ms=100, arm=BESIDE)
    failures(one, tried, 2, arm=BESIDE)  # of the others a tenth fails
    assert failures(one, tried, 30) == [None] * 30
    verdict = next(found for found in failures(one, tried, 40) if found is not None)
    assert verdict.reason == "errors_over_stable" and verdict.bound == 150
    slow = canary(id="can_2", total_percent_max=200)
    successes(one, slow, 40, ms=100, arm=BESIDE)
    assert successes(one, slow, 40, ms=190) is None
    late = successes(one, slow, 10, ms=260)
    assert late is not None and late.reason == "total_over_stable" and 200 <= late.bound <= 225


def test_a_full_table_and_a_row_that_is_given_back(tables: list[CanaryTable]) -> None:
    node, one, *_ = tables
    for n in range(3):
        failures(one, canary(id=f"can_{n}"), 3)
    assert one.ended(canary(id="can_new")), "what cannot be watched gets no calls"
    assert failures(one, canary(id="can_new"), 9) == [None] * 9
    with pytest.raises(Unavailable):
        node.end("can_new", Verdict("errors", 1, 2, 3, 4))
    node.retire({"can_1"})
    fresh = canary(id="can_new")
    assert not one.ended(fresh) and one.ended(canary(id="can_1"))
    assert failures(one, fresh, 2) == [None, None]
    node.end("can_0", Verdict("total", 9, 3, 4, 500))
    assert one.ended(canary(id="can_0")) and node.verdict("can_0") == Verdict("total", 9, 3, 4, 500)


@given(st.integers(0, 3_600_000_000))
@example(999)
@example(1000)
@example(1_000_000_000_000)
def test_a_bucket_holds_its_times_to_an_eighth(us: int) -> None:
    number = bucket(us)
    assert 0 <= number < BUCKETS and lower_ms(number) <= us // 1000
    if number < BUCKETS - 1:
        assert us // 1000 < lower_ms(number + 1) or lower_ms(number + 1) == lower_ms(number)
        assert lower_ms(number + 1) <= lower_ms(number) * 9 / 8 + 1


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
@example([10] * 19 + [5000])
@example([10] * 18 + [5000] * 2)
def test_the_percentile_is_that_of_the_times(times_ms: list[int]) -> None:
    histogram = [0] * BUCKETS
    for ms in times_ms:
        histogram[bucket(ms * 1000)] += 1
    found = percentile_ms(histogram, len(times_ms))
    above = sum(ms > found for ms in times_ms)
    assert above * 1000 <= 50 * len(times_ms)
    lower = sum(ms >= found / 1.13 - 1 for ms in times_ms)
    assert lower * 1000 > 50 * len(times_ms)


@given(st.integers(0, 2_000_000))
def test_beyond_a_bound_is_only_what_is(bound_ms: int) -> None:
    number = beyond(bound_ms)
    assert number == BUCKETS or lower_ms(number) > bound_ms
