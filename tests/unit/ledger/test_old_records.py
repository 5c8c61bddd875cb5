"""Logs written before a field was added stay readable: fields are only appended, with defaults."""

import msgspec
import pytest

from interlock.ledger.format import decode, encode
from interlock.types.record import Attempt, Intent, Judgement, Outcome, Record
from interlock.types.usage import Cost, Energy
from tests.unit.ledger.support import attempt, intent, outcome

BEFORE = {Intent: 26, Attempt: 11, Outcome: 20}
"""Elements of a record (its kind among them) in release 0.1."""


@pytest.mark.parametrize("record", [intent(1), attempt(1), outcome(1)], ids=lambda r: type(r).__name__)
def test_a_record_of_the_first_release_is_read_with_defaults(record: Record) -> None:
    now = msgspec.msgpack.decode(encode(record))
    assert len(now) >= BEFORE[type(record)]
    usage = [each[:4] if each == [10, 0, 5, "engine", 0] else each for each in now]  # `Usage` had four fields
    assert decode(encode(usage[: BEFORE[type(record)]])) == record


def test_defaults_say_that_nothing_was_known() -> None:
    assert outcome(1).cost == Cost(0, "", "") and outcome(1).energy == Energy(0, 0, 0, "")
    assert attempt(1).reserved == Cost(0, "", "") and intent(1).request_class == ""


def test_what_was_written_before_there_were_judges_is_of_none() -> None:
    assert not intent(1).unasked and outcome(1).judged is None
    for record, fields in ((intent(1), 3), (outcome(1), 1)):
        now = msgspec.msgpack.decode(encode(record))
        assert decode(encode(now[:-fields])) == record
    judged = msgspec.structs.replace(outcome(1), judged=Judgement(1, 300_000, control=True))
    asked = msgspec.structs.replace(intent(1), judge_of="req_1", judge_against="req_2")
    assert decode(encode(judged)) == judged and decode(encode(asked)) == asked and asked.unasked
    assert msgspec.structs.replace(intent(1), challenger_of="req_1").unasked


def test_a_record_with_cost_and_energy_comes_back_as_it_was() -> None:
    record = msgspec.structs.replace(
        outcome(3), cost=Cost(12, "list", "genai-prices 1"), energy=Energy(5, 2, 9, "ecologits 1", 400)
    )
    assert decode(encode(record)) == record
