"""Server-sent events (WHATWG HTML, section 9.2): a splitter that holds back what is not a whole event.

Lines end with LF, CRLF or CR; events end with an empty line. The raw bytes of each event are kept, so that a
stream can be passed through as it came.
"""

from __future__ import annotations

import re

from interlock.errors import UpstreamError

_CR = 0x0D
"""As a number: `in` looks for one seven times as fast as for bytes of length one."""
_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_BOUNDARY = re.compile(_LINE_END + _LINE_END)


class Splitter:
    """Cuts a byte stream into whole events. `limit`: most bytes of one event, more raise UpstreamError."""

    __slots__ = ("_limit", "rest")

    def __init__(self, limit: int) -> None:
        self.rest = b""
        """What is held back: the beginning of an event."""
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Whole events (raw, each with its closing empty line) that `data` completes."""
        if not self.rest and _CR not in data and 0 <= data.find(b"\n\n") == len(data) - 2 <= self._limit:
            return [data]  # one whole event, as engines write them
        return self._feed(self.rest + data, max(len(self.rest) - 3, 0))

    def _feed(self, data: bytes, looked_at: int) -> list[bytes]:
        # What was looked at before holds no boundary, except that its last line end may be the start of one.
        events = []
        start = 0
        for match in _BOUNDARY.finditer(data, looked_at):
            end = match.end()
            if end == len(data) and data.endswith(b"\r"):
                break  # an LF may follow and belong to this line end
            self._check(end - start)
            events.append(data[start:end])
            start = end
        self.rest = data[start:]
        self._check(len(self.rest))
        return events

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise UpstreamError(
                f"The source sent an event of more than {self._limit} bytes.", code="upstream_event_too_large"
            )

    def finish(self) -> list[bytes]:
        """At the end of the stream: the last event, when only the LF that might have followed its CR was awaited.

        An event without its empty line is not whole and is dropped, as the standard asks.
        """
        rest, self.rest = self.rest, b""
        return [rest] if _BOUNDARY.search(rest) else []


def data_of(event: bytes) -> bytes | None:
    """The data of one raw event: its `data:` lines joined with LF, or None when it has none (a comment)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and _CR not in event:
        return event[6:-2]
    lines = []
    for line in re.split(rb"\r\n|\n|\r", event):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None
