"""The fold holds running calls up to a limit, and tells the same of those that it reads again."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from interlock.ledger.fold import INTENT_BYTES, EpochFold, records_of
from interlock.ledger.format import encode
from interlock.ledger.reader import CallRecords
from interlock.ledger.segment import Frame
from interlock.types.record import Attempt, Chunk, Intent, Outcome, Record, request_id
from tests.unit.ledger.support import intent, outcome

EPOCH = "0123456789abcdef"


def records(call: int, chunks: int) -> list[Record]:
    tried = Attempt(call, 0, 5, "src_1", "local", "m", "vllm", "0.32", "", False)
    said = [Chunk(call, index, "word " * 20) for index in range(chunks)]
    return [intent(call), tried, *said, outcome(call)]


def interleaved(calls: dict[int, list[Record]], random_: random.Random) -> list[Record]:
    """Records of calls that run at the same time."""
    waiting, out = {call: list(each) for call, each in calls.items()}, []
    while waiting:
        call = random_.choice(list(waiting))
        out.append(waiting[call].pop(0))
        if not waiting[call]:
            del waiting[call]
    return out


def folded(log: list[Record], calls: dict[int, list[Record]], bytes_max: int) -> tuple[list[Any], list[str]]:
    """What the fold hands over, and the calls that it looked up."""
    asked: list[str] = []
    by_request = {request_id(EPOCH, call): records_of(EPOCH, call, each) for call, each in calls.items()}

    def find(request: str) -> CallRecords | None:
        asked.append(request)
        return by_request.get(request)

    fold = EpochFold(EPOCH, find, floor_ns=0, bytes_max=bytes_max)
    found: list[Any] = []
    for seq, record in enumerate(log, 1):
        completed = fold.feed(Frame(0, seq, 0, encode(record)))
        if completed is not None:
            found.append(completed)
    found += fold.interrupted({})
    return found, asked


@pytest.mark.parametrize("seed", range(8))
def test_a_call_is_the_same_whether_it_was_held_or_read_again(seed: int) -> None:
    random_ = random.Random(seed)
    calls = {call: records(call, random_.randrange(6)) for call in range(1, 20)}
    for call in random_.sample(sorted(calls), 4):
        calls[call].pop()  # its worker died
    log = interleaved(calls, random_)
    held, none = folded(log, calls, 1 << 30)
    assert not none and {each.call for _, each in held} == calls.keys()
    for bytes_max in (0, INTENT_BYTES + 800, 4 * INTENT_BYTES):
        again, asked = folded(log, calls, bytes_max)
        assert again == held and asked


def test_what_is_held_counts_the_intent_as_it_is_in_memory_and_is_given_back() -> None:
    calls = {call: records(call, 1) for call in range(1, 31)}
    one = INTENT_BYTES + sum(len(encode(each)) for each in calls[30][:-1])
    log = [each for call in calls.values() for each in call]
    assert folded(log, calls, one)[1] == [], "one after the other they need no more than one"
    assert len(folded(log, calls, one - 1)[1]) == len(calls)


def test_records_of_a_call_are_sorted_by_kind() -> None:
    given = records(7, 3)
    found = records_of(EPOCH, 7, [*given[::-1], msgspec.structs.replace(intent(7), team_id="team_later")])
    first, tried, *said, end = given
    assert isinstance(first, Intent) and isinstance(end, Outcome)
    assert (found.intent, found.outcome, found.attempts) == (first, end, (tried,))
    assert found.chunks == tuple(said[::-1])
