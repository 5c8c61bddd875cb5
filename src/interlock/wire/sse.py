"""Server-sent events (WHATWG HTML, section 9.2): a splitter that holds back what is not a whole event.

Lines end with LF, CRLF or CR; events end with an empty line. The raw bytes of each event are kept, so that a
stream can be passed through as it came.
"""

from __future__ import annotations

import re

from interlock.errors import UpstreamError

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_BOUNDARY = re.compile(_LINE_END + _LINE_END)


class Splitter:
    """Cuts a byte stream into whole events. `limit`: most bytes of one event, more raise UpstreamError."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int) -> None:
        self._rest = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Whole events (raw, each with its closing empty line) that `data` completes."""
        if not self._rest and b"\r" not in data and data.find(b"\n\n") == len(data) - 2:
            return [data]  # one whole event, as engines write them
        return self._feed(self._rest + data)

    def _feed(self, data: bytes) -> list[bytes]:
        events = []
        start = 0
        for match in _BOUNDARY.finditer(data):
            if match.end() == len(data) and data.endswith(b"\r"):
                break  # an LF may follow and belong to this line end
            events.append(data[start : match.end()])
            start = match.end()
        self._rest = data[start:]
        if len(self._rest) > self._limit:
            raise UpstreamError(
                f"The source sent an event of more than {self._limit} bytes.", code="upstream_event_too_large"
            )
        return events

    @property
    def rest(self) -> bytes:
        """Bytes that do not make a whole event yet."""
        return self._rest

    def finish(self) -> bytes:
        """At the end of the stream: a last event that lacks its empty line, or nothing."""
        rest, self._rest = self._rest, b""
        return rest


def data_of(event: bytes) -> bytes | None:
    """The data of one raw event: its `data:` lines joined with LF, or None when it has none (a comment)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in re.split(rb"\r\n|\n|\r", event):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None
