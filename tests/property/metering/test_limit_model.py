"""The limit table against a plain list of what was admitted, and against a kill at every single write."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.metering.limits import RING, RING_MASK, WINDOW_S, Admission, LimitHit, LimitTable, Subject
from interlock.metering.shared import WORD
from interlock.types.identity import LimitSet

S = 1_000_000_000
WORKERS = 3
SUBJECTS = (
    Subject("key", "key_a", LimitSet(requests_per_minute=6, tokens_per_minute=60, concurrency=4)),
    Subject("principal", "prn_a", LimitSet(tokens_per_minute=90)),
    Subject("team", "team_a", LimitSet(requests_per_minute=9, concurrency=5)),
    Subject("team", "team_b", LimitSet()),
)


@contextlib.contextmanager
def node(slots: int = 8, workers: int = WORKERS, changes_max: int = 0) -> Iterator[list[LimitTable]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder, "limits.shm")
        stack.enter_context(LimitTable.create(path, slots=slots, workers=workers))
        yield [stack.enter_context(LimitTable.open(path, worker=i, changes_max=changes_max)) for i in range(workers)]


@dataclass
class Call:
    """One admitted call, as the model remembers it."""

    at_ns: int
    tokens: int
    subjects: tuple[Subject, ...]
    worker: int
    admission: Admission
    running: bool = True


@dataclass
class Model:
    """What the table must agree with: every admitted call, looked at anew for each question."""

    calls: list[Call] = field(default_factory=list)

    def admits(self, subjects: tuple[Subject, ...], tokens: int, now_ns: int) -> bool:
        return all(self._fits(subject, tokens, now_ns) for subject in subjects)

    def _fits(self, subject: Subject, tokens: int, now_ns: int) -> bool:
        counted = [
            call
            for call in self.calls
            if subject in call.subjects and now_ns // S - call.at_ns // S <= WINDOW_S  # the 61 seconds that count
        ]
        limits = subject.limits
        running = sum(call.running for call in self.calls if subject in call.subjects)
        return (
            (limits.requests_per_minute is None or len(counted) < limits.requests_per_minute)
            and (
                limits.tokens_per_minute is None or sum(c.tokens for c in counted) + tokens <= limits.tokens_per_minute
            )
            and (limits.concurrency is None or running < limits.concurrency)
        )

    def worst_window(self, subject: Subject) -> tuple[int, int]:
        """The most requests, and the most tokens, within any window of 60 seconds."""
        mine = [call for call in self.calls if subject in call.subjects]
        windows = [[c for c in mine if first.at_ns <= c.at_ns < first.at_ns + WINDOW_S * S] for first in mine]
        return (
            max((len(window) for window in windows), default=0),
            max((sum(c.tokens for c in window) for window in windows), default=0),
        )


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 3_000) | st.sampled_from([59_999, 60_000, 61_000, 200_000])),
        st.tuples(
            st.just("admit"),
            st.integers(0, WORKERS - 1),
            st.integers(0, 40),
            st.sets(st.sampled_from(range(4))),
            st.sampled_from([0, 0, 0, 1, 600, 5_000]),
        ),
        st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 100)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("workers, changes_max", [(WORKERS, 0), (1, 64)], ids=["three workers", "changes wait"])
@given(steps=steps, now_ns=st.integers(0, 5 * S))
@example(steps=[("admit", 0, 40, {0}, 0), ("settle", 0, 0), ("admit", 0, 40, {0}, 0)], now_ns=0)
def test_admits_exactly_what_the_model_admits(
    workers: int, changes_max: int, steps: list[tuple[Any, ...]], now_ns: int
) -> None:
    model = Model()
    newest_s = 0
    with node(workers=workers, changes_max=changes_max) as tables:
        for step in steps:
            if step[0] == "wait":
                now_ns += step[1] * 1_000_000
            elif step[0] == "admit":
                _, worker, tokens, chosen, late_ms = step
                worker %= workers
                subjects = tuple(SUBJECTS[i] for i in sorted(chosen))
                read_ns = max(0, now_ns - late_ms * 1_000_000)  # it was held up after it had read the clock
                at_ns = max(read_ns, newest_s * S)
                result = tables[worker].admit(subjects, tokens, read_ns)
                assert isinstance(result, Admission) == model.admits(subjects, tokens, at_ns), result
                if chosen - {3}:
                    newest_s = max(newest_s, read_ns // S)
                    if isinstance(result, Admission):
                        assert result.at_ns == at_ns
                        model.calls.append(Call(at_ns, tokens, subjects, worker, result))
            else:
                running = [call for call in model.calls if call.running]
                if running:
                    call = running[step[1] % len(running)]
                    used = call.tokens * step[2] // 100  # never more than reserved
                    tables[call.worker].settle(call.admission, used, now_ns)
                    call.running = False
                    if now_ns // S - call.at_ns // S <= WINDOW_S:
                        call.tokens = used
        for subject in SUBJECTS:
            requests, tokens = model.worst_window(subject)
            assert requests <= (subject.limits.requests_per_minute or requests)
            assert tokens <= (subject.limits.tokens_per_minute or tokens)


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 30)), min_size=1, max_size=40), st.integers(1, 60))
def test_the_wait_that_is_told_is_enough_and_not_a_millisecond_more(calls: list[tuple[int, int]], asked: int) -> None:
    subject = Subject("key", "key_a", LimitSet(tokens_per_minute=60))
    now_ns = 100 * S
    with node() as (table, *_):
        for wait_ms, tokens in calls:
            now_ns += wait_ms * 1_000_000
            table.admit((subject,), tokens, now_ns)
        hit = table.admit((subject,), asked, now_ns)
        if isinstance(hit, LimitHit):
            wait_ns = hit.retry_after_ms * 1_000_000
            assert isinstance(table.admit((subject,), asked, now_ns + wait_ns - 1_000_000), LimitHit)
            assert isinstance(table.admit((subject,), asked, now_ns + wait_ns), Admission)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100_000)), max_size=200))
def test_a_small_table_never_gives_two_subjects_one_place(asks: list[tuple[int, int]]) -> None:
    """With far more subjects than places: whoever is admitted is counted by itself, or told that the table is full."""
    admitted: dict[int, list[int]] = {}
    now_ns = 0
    with node(slots=8) as (table, *_):
        for who, wait_ms in asks:
            now_ns += wait_ms * 1_000_000
            subject = Subject("key", str(who), LimitSet(requests_per_minute=2))
            recent = [at for at in admitted.get(who, []) if now_ns // S - at // S <= WINDOW_S]
            result = table.admit((subject,), 0, now_ns)
            if isinstance(result, Admission):
                assert len(recent) < 2
                admitted.setdefault(who, []).append(now_ns)
            elif result.code == "limit_table_full":
                assert not recent, "a subject that counts keeps its place"
            else:
                assert len(recent) == 2


class Killed(BaseException):
    """Stands for SIGKILL: raised instead of a write."""


class Fuse:
    """Lets a number of writes through, then none."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class Words:
    """Shared words of a process that is killed before its n-th write; a block write may stop in the middle."""

    def __init__(self, target: Any, fuse: Fuse, unit: int) -> None:
        self._target, self._fuse, self._unit = target, fuse, unit

    def __getitem__(self, key: Any) -> Any:
        return self._target[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            for at in range(key.start, key.stop, self._unit):
                self._fuse.burn()
                self._target[at : at + self._unit] = value[: self._unit]
            return
        self._fuse.burn()
        self._target[key] = value


def kill_after(table: LimitTable, writes: int) -> None:
    """Let `table` make `writes` more writes. Reads by `struct` still see the memory itself."""
    fuse = Fuse(writes)
    buffer, read, read_ring = table._buffer, table._read, table._read_ring
    table._words = cast("memoryview[int]", Words(table._words, fuse, 1))
    table._buffer = cast(Any, Words(buffer, fuse, WORD))
    table._read = cast(Any, lambda _, at: read(buffer, at))
    table._read_ring = cast(Any, lambda _, at: read_ring(buffer, at))


def assert_whole(table: LimitTable, now_ns: int) -> None:
    """Every slot's total is the sum of its buckets, buckets outside the window are empty, each place has its digest."""
    words = table._words
    seen = set()
    for slot in table._taken():
        base = table._body + slot * table._stride
        ring = [words[base + table._ring + i] for i in range(RING)]
        head = words[base + 1]
        window = {second & RING_MASK for second in range(head - WINDOW_S, head + 1)}
        assert words[base + 2] == sum(ring)
        assert all(count == 0 for i, count in enumerate(ring) if i not in window)
        digest = words[512 + 2 * slot], words[512 + 2 * slot + 1]
        assert digest == (words[base + table._digest], words[base + table._digest + 1])
        assert digest not in seen
        seen.add(digest)


@pytest.mark.parametrize("slots", [1, 2, 64])
@pytest.mark.parametrize("pause_s", [0, 1, 30, 61, 62, 300])
@pytest.mark.parametrize("what", ["admit", "settle", "refuse"])
def test_killed_at_every_write_nothing_is_counted_too_low(what: str, pause_s: int, slots: int) -> None:
    """A process dies before its n-th write, for every n; another then finds counts that cover all admitted calls."""
    mine = Subject("key", "key_a", LimitSet(requests_per_minute=50, tokens_per_minute=500, concurrency=9))
    other = Subject("team", "team_a", LimitSet(requests_per_minute=50, tokens_per_minute=500, concurrency=0))
    subjects = (mine,) if what != "refuse" else (mine, other)
    writes = 0
    while True:
        with node(slots=slots, workers=2) as (victim, witness):
            now_ns = 500 * S
            old = Subject("key", "key_old", LimitSet(requests_per_minute=50, tokens_per_minute=500))
            kept: Admission | None = None
            if slots > 2 or what != "admit":
                before = victim.admit((mine,), 100, now_ns)
                assert isinstance(before, Admission)
                kept = before
            else:
                witness.admit((old,), 100, now_ns)  # in the way: its place is taken over when it is idle
            now_ns += pause_s * S
            kill_after(victim, writes)
            died = False
            try:
                if what == "settle":
                    assert kept is not None
                    victim.settle(kept, 40, now_ns)
                else:
                    victim.admit(subjects, 7, now_ns)
            except Killed:
                died = True

            counted = witness.used("key", "key_a", now_ns)
            still = kept is not None and pause_s <= WINDOW_S
            if what == "settle":
                assert counted.tokens in ((40, 100) if still else (0,))
                assert counted.requests == (1 if still else 0)
            elif not died and what == "admit" and victim._places.get("key_a"):
                assert counted.requests == still + 1
            else:
                assert still <= counted.requests <= still + 1
            probe = witness.admit((mine,), 1, now_ns)
            if isinstance(probe, Admission):
                assert witness.used("key", "key_a", now_ns).requests == counted.requests + 1
            witness.admit((old,), 1, now_ns)
            witness.clear_worker(0)
            assert witness.used("key", "key_a", now_ns).concurrency == isinstance(probe, Admission)
            assert_whole(witness, now_ns)
            # One more minute, and nothing of it is left: no count has leaked.
            later_ns = now_ns + 62 * S
            for subject in (mine, old):
                used = witness.used(subject.kind, subject.id, later_ns)
                assert (used.requests, used.tokens) == (0, 0)
        if not died:
            assert writes > (4 if slots == 64 and pause_s <= WINDOW_S else 0), "it was killed before it got through"
            return
        writes += 1


def test_settling_into_a_place_whose_taking_over_was_cut_short() -> None:
    """The settling worker read its clock a minute ago; meanwhile another took the place over, and died doing so."""
    limits = LimitSet(requests_per_minute=5, tokens_per_minute=500)
    old, new = Subject("key", "key_old", limits), Subject("key", "key_new", limits)
    for writes in range(90):
        with node(slots=1, workers=2) as (victim, witness):
            admission = witness.admit((old,), 100, 500 * S)
            assert isinstance(admission, Admission)
            kill_after(victim, writes)
            with contextlib.suppress(Killed):
                victim.admit((new,), 7, 570 * S)
            counted = witness.used("key", "key_new", 570 * S)
            witness.settle(admission, 40, 500 * S)
            assert_whole(witness, 570 * S)
            assert witness.used("key", "key_new", 570 * S) == counted
