"""Errors in the shape of the dialect that was spoken, with our code inside.

OpenAI: `{"error": {"message", "type", "param", "code"}}` (OpenAI API reference, "Error codes").
"""

from __future__ import annotations

import json

from interlock.errors import InterlockError

Answer = tuple[int, bytes, bytes]
"""Status, header lines (each ended by CR LF), body."""


def error_body(error: InterlockError, dialect: str) -> bytes:
    """The JSON body of an error answer. `dialect` is "openai", the only one spoken so far."""
    if dialect != "openai":
        raise ValueError(f"unknown dialect {dialect!r}")
    return json.dumps(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}},
        ensure_ascii=False,
    ).encode()


def error_answer(error: InterlockError, dialect: str) -> Answer:
    """Status, headers and body of an error answer."""
    return error.status, error_headers(error), error_body(error, dialect)


def error_headers(error: InterlockError) -> bytes:
    """The header lines of an error answer. A refusal that will not change says so: `x-should-retry: false`."""
    lines = [b"content-type: application/json\r\n"]
    if not error.retryable:
        lines.append(b"x-should-retry: false\r\n")
    lines.extend(b"%b: %b\r\n" % (name.encode("latin-1"), _safe(value)) for name, value in error.headers.items())
    if error.status == 401:
        lines.append(b'www-authenticate: Bearer realm="interlock"\r\n')
    return b"".join(lines)


def error_event(error: InterlockError, dialect: str) -> bytes:
    """The same error as the last server-sent event of a stream that has begun."""
    return b"data: " + error_body(error, dialect) + b"\n\n"


def _safe(value: str) -> bytes:
    """A header value without line breaks, whatever the message held."""
    return "".join(c if c.isprintable() else " " for c in value).encode("latin-1", "replace")
