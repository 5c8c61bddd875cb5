"""Errors in the shape of the dialect that was spoken, with our code inside.

OpenAI: `{"error": {"message", "type", "param", "code"}}` (OpenAI API reference, "Error codes").
"""

from __future__ import annotations

import json

from interlock.errors import InterlockError

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def error_body(error: InterlockError, dialect: str) -> bytes:
    """The JSON body of an error answer. `dialect` is "openai", the only one spoken so far."""
    if dialect != "openai":
        raise ValueError(f"unknown dialect {dialect!r}")
    return json.dumps(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}},
        ensure_ascii=False,
    ).encode()


def error_answer(error: InterlockError, dialect: str) -> Answer:
    """Status, headers and body of an error answer. A refusal that will not change says so: `x-should-retry: false`."""
    headers = [(b"content-type", b"application/json")]
    if not error.retryable:
        headers.append((b"x-should-retry", b"false"))
    headers.extend((name.encode("latin-1"), _safe(value)) for name, value in error.headers.items())
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="interlock"'))
    return error.status, headers, error_body(error, dialect)


def error_event(error: InterlockError, dialect: str) -> bytes:
    """The same error as the last server-sent event of a stream that has begun."""
    return b"data: " + error_body(error, dialect) + b"\n\n"


def _safe(value: str) -> bytes:
    """A header value without line breaks, whatever the message held."""
    return "".join(c if c.isprintable() else " " for c in value).encode("latin-1", "replace")
