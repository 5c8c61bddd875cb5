"""Records for people: no content unless asked, no control characters ever."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from interlock.ledger.reader import Stored, Tailed, find_call
from interlock.ledger.render import as_dict, as_line
from interlock.types.record import (
    AttemptEnd,
    Chunk,
    EpochClose,
    EpochOpen,
    EpochRecovered,
    Held,
    Intent,
    Interrupted,
    Outcome,
    Record,
    request_id,
)

from .support import attempt, intent, open_log, outcome, refusal, run, written

EPOCH = "01jzzzzzzzzzzzzz"
SECRET = "the patient's name"

RECORDS: list[Record] = [
    EpochOpen(EPOCH, "node", 0, 1, 1, 1, "1"),
    intent(1, body=SECRET.encode()),
    refusal(2),
    attempt(1),
    AttemptEnd(1, 0, 1, "upstream_error", 502, "no"),
    Chunk(1, 0, SECRET, SECRET.encode()),
    outcome(1, body=SECRET.encode()),
    EpochClose(EPOCH, 1, 7),
    Interrupted(EPOCH, 1, 1, 0, 1, 2, 3, True),
    EpochRecovered(EPOCH, 1, 7, 1, 5),
    Held(3, 1, "ten_acme", "pri_alice", "", "auto"),
]


def tailed(record: Record) -> Tailed:
    return Tailed(EPOCH, Stored(5, record, 0, 64), 1_753_000_000_123_000_000)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_kind_is_shown_and_content_only_when_asked(record: Record) -> None:
    line, values = as_line(tailed(record)), as_dict(tailed(record))
    assert SECRET not in line and SECRET not in json.dumps(values)
    assert line.startswith("2025-07-20T08:26:40.123Z zzzzzz#5 ") and type(record).__name__ in line
    assert values["kind"] == type(record).__name__ and values["time"].endswith("Z")
    full_line, full = as_line(tailed(record), content=True), json.dumps(as_dict(tailed(record), content=True))
    if isinstance(record, (Chunk, Intent, Outcome)):
        assert SECRET in full_line and SECRET in full
    else:
        assert full_line == line


def test_names_from_outside_cannot_move_the_cursor() -> None:
    record = msgspec.structs.replace(refusal(1), asked="m\x1b[2J\nfake line\u202e", words="a\rb")
    line = as_line(tailed(record))
    assert line.isprintable() and "\\x1b[2J\\nfake line" in line


def test_a_call_is_shown_whole(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        log.append(intent(1, body=b"\xff\x00"))
        log.append(outcome(1))
        await written(log)
        found = find_call(tmp_path, request_id(log.epoch, 1))
        assert found is not None
        shown = [as_dict(Tailed(found.epoch, stored, 0), content=True) for stored in found.stored]
        assert found.state == "completed" and [each["kind"] for each in shown] == ["Intent", "Outcome"]
        assert shown[0]["body"] == {"base64": "/wA="}
        assert shown[0]["body_sha256"] == "01" * 32
        json.dumps(shown)
        await log.close()

    run(main)
