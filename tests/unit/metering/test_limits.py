"""The limit table by example: what is refused, for how long, what headers say, what settling gives back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import LimitExceeded, Unavailable
from interlock.metering.admission import place_of
from interlock.metering.limits import Admission, LimitHit, LimitTable, Subject, Used
from interlock.types.identity import LimitSet

S = 1_000_000_000
START = 1_000 * S


class Node:
    """A table of two workers, as two processes would have it."""

    def __init__(self, path: Path, slots: int = 64) -> None:
        self.path = path
        self.table = LimitTable.create(path, slots=slots, workers=2)
        self.workers = [LimitTable.open(path, worker=i) for i in range(2)]

    def close(self) -> None:
        for table in (*self.workers, self.table):
            table.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "limits.shm")
    yield made
    made.close()


def team(**limits: int) -> Subject:
    return Subject("team", "team_a", LimitSet(**limits))


def admitted(table: LimitTable, *subjects: Subject, tokens: int = 0, at: float = 0) -> Admission:
    result = table.admit(subjects, tokens, START + int(at * S))
    assert isinstance(result, Admission), result
    return result


def refused(table: LimitTable, *subjects: Subject, tokens: int = 0, at: float = 0) -> LimitHit:
    result = table.admit(subjects, tokens, START + int(at * S))
    assert isinstance(result, LimitHit)
    return result


def test_requests_are_counted_over_the_workers_and_come_back_after_the_window(node: Node) -> None:
    one, two = node.workers
    subject = team(requests_per_minute=2)
    admitted(one, subject, at=0.4)
    admitted(two, subject, at=30)
    hit = refused(one, subject, at=60.9)
    assert (hit.limit, hit.value, hit.used, hit.code) == ("requests_per_minute", 2, 2, "rate_limit_exceeded")
    assert hit.retry_after_ms == 100
    admitted(two, subject, at=60.9 + hit.retry_after_ms / 1000)
    assert refused(one, subject, at=61.5).retry_after_ms == 29_500


def test_the_wait_that_is_told_is_the_shortest_that_helps(node: Node) -> None:
    one = node.workers[0]
    subject = team(tokens_per_minute=100)
    for second in range(10):
        admitted(one, subject, tokens=10, at=second)
    hit = refused(one, subject, tokens=35, at=10.25)
    wait_s = hit.retry_after_ms / 1000
    refused(one, subject, tokens=35, at=10.25 + wait_s - 0.001)
    admitted(one, subject, tokens=35, at=10.25 + wait_s)


def test_nothing_is_counted_on_any_subject_when_one_refuses(node: Node) -> None:
    one = node.workers[0]
    key = Subject("key", "key_a", LimitSet(requests_per_minute=5, tokens_per_minute=50, concurrency=5))
    principal = Subject("principal", "prn_a", LimitSet(concurrency=1))
    admitted(one, principal)
    hit = refused(one, key, principal, team(requests_per_minute=9), tokens=7)
    assert (hit.kind, hit.limit) == ("principal", "concurrency")
    for kind, name in (("key", "key_a"), ("team", "team_a")):
        assert one.used(kind, name, START) == Used(0, 0, 0)


def test_the_limit_that_takes_longest_to_pass_is_told(node: Node) -> None:
    one = node.workers[0]
    key = Subject("key", "key_a", LimitSet(requests_per_minute=1))
    admitted(one, key, at=0)
    admitted(one, team(tokens_per_minute=10), tokens=10, at=20)
    hit = refused(one, key, team(tokens_per_minute=10), tokens=1, at=21)
    assert (hit.kind, hit.retry_after_ms) == ("team", 60_000)


def test_a_subject_named_twice_counts_twice(node: Node) -> None:
    one = node.workers[0]
    subject = team(requests_per_minute=3)
    admitted(one, subject, subject)
    hit = refused(one, subject, subject)
    assert (hit.used, hit.asked) == (2, 2)
    admitted(one, subject)


def test_a_call_that_can_never_pass_says_so(node: Node) -> None:
    hit = refused(node.workers[0], team(tokens_per_minute=100), tokens=101)
    assert (hit.code, hit.retry_after_ms) == ("limit_too_small", 0)
    assert hit.words == "This call needs up to 101 tokens and team team_a may use 100 tokens per minute; ask for less."
    error = hit.error()
    assert isinstance(error, LimitExceeded) and not error.retryable and "retry-after" not in error.headers


@pytest.mark.parametrize("limit", ["requests_per_minute", "concurrency", "tokens_per_minute"])
def test_a_limit_of_zero_admits_nothing(node: Node, limit: str) -> None:
    hit = refused(node.workers[0], team(**{limit: 0}), tokens=1)
    assert hit.words.startswith("The limit of team team_a is 0 ")


def test_refusals_carry_status_words_and_headers(node: Node) -> None:
    one = node.workers[0]
    admitted(one, team(tokens_per_minute=100), tokens=80)
    error = refused(one, team(tokens_per_minute=100), tokens=30, at=0.5).error()
    assert isinstance(error, LimitExceeded)
    assert error.message == (
        "Team team_a has used 80 of its 100 tokens per minute and this call needs up to 30; ask again in 1m0.5s."
    )
    assert error.headers == {
        "retry-after": "61",
        "retry-after-ms": "60500",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "20",
        "x-ratelimit-reset-tokens": "1m1s",
    }


def test_settling_replaces_the_reservation_where_it_was_made(node: Node) -> None:
    one, two = node.workers
    subject = team(tokens_per_minute=100)
    admission = admitted(one, subject, tokens=90, at=0)
    refused(two, subject, tokens=20, at=5)
    one.settle(admission, 15, START + 6 * S)
    assert two.used("team", "team_a", START + 6 * S).tokens == 15
    admitted(two, subject, tokens=85, at=7)
    refused(one, subject, tokens=1, at=60.9)
    admitted(one, subject, tokens=15, at=61)


def test_settling_twice_changes_nothing_more(node: Node) -> None:
    one = node.workers[0]
    subject = team(tokens_per_minute=100, concurrency=2)
    first, _ = admitted(one, subject, tokens=40), admitted(one, subject, tokens=40)
    for _ in range(3):
        one.settle(first, 1, START)
    assert one.used("team", "team_a", START) == Used(2, 41, 1)


def test_more_used_than_reserved_counts_too(node: Node) -> None:
    one = node.workers[0]
    admission = admitted(one, team(tokens_per_minute=100), tokens=10)
    one.settle(admission, 250, START)
    assert refused(one, team(tokens_per_minute=100), tokens=1).used == 250


def test_an_absurd_figure_does_not_break_the_count(node: Node) -> None:
    one = node.workers[0]
    subject = team(tokens_per_minute=100, requests_per_minute=10)
    for tokens in (10**40, -5):
        one.settle(admitted(one, team(requests_per_minute=10, tokens_per_minute=2**40), tokens=3), tokens, START)
    assert one.used("team", "team_a", START) == Used(2, 1 << 30, 0)
    assert refused(one, subject, tokens=10**30).code == "limit_too_small"
    with pytest.raises(ValueError, match="negative"):
        one.admit((subject,), -1, START)


@pytest.mark.parametrize("late_s", [60.99, 61, 64, 130, 4000])
def test_settling_late_touches_only_what_still_counts(node: Node, late_s: float) -> None:
    one, two = node.workers
    subject = team(tokens_per_minute=1000)
    admission = admitted(one, subject, tokens=100, at=0)
    admitted(two, subject, tokens=7, at=late_s)
    one.settle(admission, 30, START + int(late_s * S))
    expected = 37 if late_s < 61 else 7
    assert one.used("team", "team_a", START + int(late_s * S)).tokens == expected


def test_concurrency_is_freed_by_settling_and_by_clearing_a_dead_worker(node: Node) -> None:
    one, two = node.workers
    subject = team(concurrency=3)
    mine = admitted(one, subject)
    admitted(two, subject)
    admitted(two, subject)
    assert refused(one, subject).limit == "concurrency"
    one.settle(mine, 0, START)
    admitted(one, subject)
    node.table.clear_worker(1)
    assert one.used("team", "team_a", START).concurrency == 1
    one.settle(mine, 0, START)
    assert one.used("team", "team_a", START).concurrency == 1


def test_a_clock_that_reads_late_counts_in_the_newest_second(node: Node) -> None:
    one, two = node.workers
    subject = team(requests_per_minute=2)
    admitted(one, subject, at=5)
    admitted(two, subject, at=3.9)
    refused(one, subject, at=65.9)
    assert one.used("team", "team_a", START + int(66 * S)).requests == 0


def test_subjects_without_limits_cost_no_slot_and_no_lock(node: Node) -> None:
    node.table._file.lock()
    try:
        admission = admitted(node.workers[0], Subject("key", "key_a", LimitSet()), tokens=5)
    finally:
        node.table._file.unlock()
    node.workers[0].settle(admission, 5, START)
    assert node.table.claimed == 0 and admission.headers() == []


def test_headers_are_those_of_the_tightest_subject(node: Node) -> None:
    one = node.workers[0]
    key = Subject("key", "key_a", LimitSet(requests_per_minute=10, tokens_per_minute=100))
    one.settle(admitted(one, team(requests_per_minute=5, tokens_per_minute=1000)), 0, START)
    admission = admitted(one, key, team(requests_per_minute=5, tokens_per_minute=1000), tokens=60, at=0.75)
    expected = [
        ("x-ratelimit-limit-requests", "5"),
        ("x-ratelimit-remaining-requests", "3"),
        ("x-ratelimit-reset-requests", "1m1s"),
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "40"),
        ("x-ratelimit-reset-tokens", "1m1s"),
    ]
    assert admission.headers() == expected
    one.settle(admission, 1, START)
    assert admission.headers() == expected


def test_headers_tell_when_each_of_the_tightest_subjects_is_free() -> None:
    requests = place_of(team(requests_per_minute=5), 0, 0, 0)
    tokens = place_of(Subject("key", "key_a", LimitSet(tokens_per_minute=100)), 0, 0, 0)
    headers = dict(Admission([(requests, 1_000, 1), (tokens, 990, 1)], 0, START).headers())
    assert headers["x-ratelimit-reset-requests"] == "1m1s"
    assert headers["x-ratelimit-reset-tokens"] == "51s"


def test_a_full_table_refuses_and_idle_places_are_taken_over(tmp_path: Path) -> None:
    node = Node(tmp_path / "limits.shm", slots=4)
    one = node.workers[0]

    def subject(i: int, **limits: int) -> Subject:
        return Subject("key", f"key_{i}", LimitSet(**limits))

    try:
        held = admitted(one, subject(0, concurrency=5))
        for i in range(1, 4):
            admitted(one, subject(i, requests_per_minute=5), at=i)
        hit = refused(one, subject(9, requests_per_minute=5), at=61.9)
        error = hit.error()
        assert (hit.code, error.status, isinstance(error, Unavailable)) == ("limit_table_full", 503, True)
        admitted(one, subject(9, requests_per_minute=5), at=63)  # key_1 is idle by now; key_0 has a call running
        assert one.used("key", "key_9", START + 63 * S).requests == 1
        assert one.used("key", "key_0", START + 63 * S).concurrency == 1
        assert one.used("key", "key_1", START + 63 * S) == Used(0, 0, 0)
        one.settle(held, 0, START + 64 * S)
        admitted(one, subject(1, requests_per_minute=1), at=64)
        refused(one, subject(1, requests_per_minute=1), at=65)
    finally:
        node.close()


def test_another_worker_notices_that_a_place_was_taken_over(tmp_path: Path) -> None:
    node = Node(tmp_path / "limits.shm", slots=1)
    one, two = node.workers
    old, new = (Subject("key", f"key_{i}", LimitSet(requests_per_minute=1, tokens_per_minute=9)) for i in range(2))
    try:
        stale = admitted(one, old, tokens=5, at=0)
        admitted(two, new, tokens=8, at=70)
        one.settle(stale, 0, START + 70 * S)
        assert two.used("key", "key_1", START + 70 * S).tokens == 8
        assert refused(one, old._replace(limits=LimitSet(requests_per_minute=9)), at=70).code == "limit_table_full"
        admitted(one, old, at=140)
        refused(one, old, at=141)
    finally:
        node.close()


def test_counters_held_by_a_stopped_process_refuse_with_503(tmp_path: Path) -> None:
    path = tmp_path / "limits.shm"
    with LimitTable.create(path, slots=4, workers=1) as table, LimitTable.open(path, worker=0, wait_ms=5) as worker:
        admission = admitted(worker, team(tokens_per_minute=10, concurrency=1), tokens=10)
        table._file.lock()
        hit = refused(worker, team(requests_per_minute=1))
        assert (hit.code, hit.error().status) == ("limits_unavailable", 503)
        worker.settle(admission, 0, START)  # concurrency needs no lock, the tokens stay reserved
        table._file.unlock()
        assert worker.used("team", "team_a", START) == Used(1, 10, 0)


def test_the_same_id_of_another_kind_is_another_subject(node: Node) -> None:
    one = node.workers[0]
    limits = LimitSet(requests_per_minute=1)
    for _ in range(2):
        result = [one.admit((Subject(kind, "x", limits),), 0, START) for kind in ("key", "team")]
    assert all(isinstance(hit, LimitHit) for hit in result)
    assert node.table.claimed == 2


def test_a_worker_number_outside_the_table_is_refused(node: Node) -> None:
    with pytest.raises(ValueError, match="no worker 2"):
        LimitTable.open(node.path, worker=2)
