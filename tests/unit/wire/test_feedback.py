"""The body of feedback: what is taken, and what is refused with which field named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interlock.errors import BadRequest
from interlock.types.feedback import Given
from interlock.wire.feedback import parse


def read(body: Any) -> Given:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(data, 100, 20)


def test_what_is_taken() -> None:
    assert read({"request_id": "req_1", "thumb": "up"}) == Given("req_1", "up")
    everything = {"thumb": "down", "score": 0.25, "corrected": "so", "reason": "wrong", "comment": "no"}
    assert read({"request_id": "req_1", **everything}) == Given("req_1", "down", 250_000, "so", "wrong", "no")
    assert read({"request_id": "req_1", "score": 0}).score_micro == 0
    assert read({"request_id": "req_1", "score": 1}).score_micro == 1_000_000
    for thumb in ("up", "down"):
        assert read({"request_id": "req_1", "thumb": thumb, "score": 0.5}).thumb == thumb, "in the middle is both"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"thumb": "up"}, "invalid_request", "request_id"),
        ({"request_id": 7, "thumb": "up"}, "invalid_request", "request_id"),
        ({"request_id": "", "thumb": "up"}, "invalid_request", "request_id"),
        ({"request_id": "r" * 129, "thumb": "up"}, "feedback_too_large", "request_id"),
        ({"request_id": "r"}, "no_feedback", "thumb"),
        ({"request_id": "r", "reason": "wrong", "comment": "x"}, "no_feedback", "thumb"),
        ({"request_id": "r", "thumb": None}, "invalid_request", "thumb"),
        ({"request_id": "r", "thumb": "UP"}, "invalid_request", "thumb"),
        ({"request_id": "r", "thumb": ["up"]}, "invalid_request", "thumb"),
        ({"request_id": "r", "score": True}, "invalid_request", "score"),
        ({"request_id": "r", "score": "1"}, "invalid_request", "score"),
        ({"request_id": "r", "score": -0.1}, "invalid_request", "score"),
        ({"request_id": "r", "score": 1.01}, "invalid_request", "score"),
        (b'{"request_id": "r", "score": NaN}', "invalid_json", None),
        (b'{"request_id": "r", "score": Infinity}', "invalid_json", None),
        ({"request_id": "r", "thumb": "up", "score": 0.49}, "contradictory_feedback", "score"),
        ({"request_id": "r", "thumb": "down", "score": 0.51}, "contradictory_feedback", "score"),
        ({"request_id": "r", "corrected": ""}, "invalid_request", "corrected"),
        ({"request_id": "r", "corrected": "ä" * 51}, "feedback_too_large", "corrected"),
        ({"request_id": "r", "thumb": "up", "comment": "x" * 21}, "feedback_too_large", "comment"),
        (b'{"request_id": "r", "corrected": "\\ud800"}', "invalid_request", "corrected"),
        ({"request_id": "r", "thumb": "up", "reason": "because"}, "invalid_request", "reason"),
        ({"request_id": "r", "thumb": "up", "stars": 5}, "invalid_request", "stars"),
        (b'{"request_id": "r", "thumb": "up", "thumb": "down"}', "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
    ],
)
def test_what_is_refused(body: Any, code: str, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, param, 400)
