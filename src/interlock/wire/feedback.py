"""`POST /v1/feedback`: the body, read and checked. Pure.

    {"request_id": "req_...", "thumb": "up"|"down", "score": 0..1, "corrected": "text",
     "reason": "wrong"|..., "comment": "text"}

At least one of thumb, score and corrected. A thumb up beside a score below a half, or a thumb down beside one above it,
contradict each other and are refused, because nobody could say which was meant.
"""

from __future__ import annotations

import json
from typing import Any

from interlock.errors import BadRequest
from interlock.types.feedback import DOWN, KINDS, MICRO, NO_SCORE, REASONS, UP, Given

FIELDS = ("request_id", *KINDS, "reason", "comment")
REQUEST_ID_MAX = 128
"""Longest request id that is looked at, characters; ours have about 30."""


def parse(body: bytes, corrected_bytes_max: int, comment_bytes_max: int) -> Given:
    """The feedback in a body. Raises BadRequest, naming the field at fault."""
    fields = _object(body)
    for name in fields:
        if name not in FIELDS:
            raise BadRequest(f"Field {name[:64]!r} is not taken; known are {', '.join(FIELDS)}.", param=name[:64])
    request = _text(fields, "request_id", REQUEST_ID_MAX)
    if not request:
        raise BadRequest("Field 'request_id' must be the id of a call of yours.", param="request_id")
    given = Given(
        request,
        _one_of(fields, "thumb", (UP, DOWN)),
        _score(fields),
        _text(fields, "corrected", corrected_bytes_max),
        _one_of(fields, "reason", REASONS),
        _text(fields, "comment", comment_bytes_max),
    )
    if not given.kinds:
        raise BadRequest(f"Give at least one of {', '.join(KINDS)}.", code="no_feedback", param="thumb")
    if given.thumb and given.score_micro != NO_SCORE and _contradict(given):
        raise BadRequest(
            "Fields 'thumb' and 'score' contradict each other: up goes with 0.5 and more, down with 0.5 and less.",
            code="contradictory_feedback",
            param="score",
        )
    return given


def _contradict(given: Given) -> bool:
    half = MICRO // 2
    return given.score_micro < half if given.thumb == UP else given.score_micro > half


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body, object_pairs_hook=_no_name_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequest("The request body must be a JSON object.", code="invalid_json")
    return fields


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("A field is given twice.", code="invalid_json")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _text(fields: dict[str, Any], name: str, bytes_max: int) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or (name in fields and not value):
        raise BadRequest(f"Field {name!r} must be text that is not empty.", param=name)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        raise BadRequest(f"Field {name!r} is not valid Unicode text.", param=name) from None
    if size > bytes_max:
        raise BadRequest(f"Field {name!r} may have {bytes_max} bytes at most.", code="feedback_too_large", param=name)
    return value


def _one_of(fields: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    value = fields.get(name, "")
    if name in fields and value not in choices:
        raise BadRequest(f"Field {name!r} must be one of {', '.join(choices)}.", param=name)
    return str(value)


def _score(fields: dict[str, Any]) -> int:
    if "score" not in fields:
        return NO_SCORE
    value = fields["score"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRequest("Field 'score' must be a number from 0 to 1.", param="score")
    return round(value * MICRO)
