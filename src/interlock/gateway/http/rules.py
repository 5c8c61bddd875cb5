"""What the HTTP server holds by heart: fields that are unique, status lines, the path of a request target."""

from __future__ import annotations

import httptools

from interlock.errors import BadRequest

UNIQUE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-length",
        b"content-type",
        b"transfer-encoding",
        b"x-api-key",
        b"api-key",
        b"x-interlock-assert-user",
        b"x-interlock-data-class",
        b"x-interlock-recording",
        b"x-interlock-workload",
        b"x-interlock-purpose",
        b"x-interlock-slo",
        b"x-interlock-weights",
    }
)
"""Header fields that a request may carry only once: two values would be read differently by different readers."""

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
STATUS_LINES = {status: b"HTTP/1.1 %d %s\r\n" % (status, reason) for status, reason in REASONS.items()}


def status_line(status: int) -> bytes:
    """The status line of a status that has no reason here."""
    return b"HTTP/1.1 %d \r\n" % status


def absolute_path(url: bytes) -> str:
    """The path of a request target in absolute form (RFC 9112 section 3.2.2); any other is left as it is."""
    if b"://" not in url:
        return url.decode("latin-1")
    try:
        path = httptools.parse_url(url).path
    except httptools.HttpParserInvalidURLError:
        raise BadRequest("The request target is not a valid URL.", code="malformed_http") from None
    return path.decode("latin-1") if path else "/"
