"""Errors in Anthropic's form: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

Source: Anthropic API reference, "Errors". Our own code stands beside the message, as `code`.
"""

from __future__ import annotations

import msgspec

from interlock.errors import InterlockError
from interlock.wire.errors import Answer, error_headers

OVERLOADED = 529
"""The dialect's status for what is 503 elsewhere: nobody has room at the moment."""
TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
"""Status -> the error's type; others below 500 are `invalid_request_error`, above `api_error`."""


def error_status(error: InterlockError) -> int:
    """The status that the dialect has for an error."""
    return OVERLOADED if error.status == 503 else error.status


def error_type(status: int) -> str:
    """The error's type for a status."""
    return TYPES.get(status) or ("invalid_request_error" if status < 500 or status == 501 else "api_error")


def error_body(error: InterlockError) -> bytes:
    """The JSON body of an error answer."""
    told = {"type": error_type(error_status(error)), "message": error.message, "code": error.code}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": error.request_id or None})


def error_answer(error: InterlockError) -> Answer:
    """Status, headers and body of an error answer."""
    return error_status(error), error_headers(error), error_body(error)


def error_event(error: InterlockError) -> bytes:
    """The same as the last event of a stream that has begun."""
    return b"event: error\ndata: %b\n\n" % error_body(error)
