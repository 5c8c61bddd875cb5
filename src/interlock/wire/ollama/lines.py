"""Newline-delimited JSON: one object on each line, as Ollama streams."""

from __future__ import annotations

from interlock.errors import UpstreamError

TYPE = b"application/x-ndjson"


class Lines:
    """Cuts a byte stream into whole lines. `limit`: most bytes of one line, more raise UpstreamError."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends; empty ones are left out."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        self._check(self._rest)
        return self._whole(lines)

    def finish(self) -> list[bytes]:
        """At the end of the stream: a last line may come without its end."""
        rest, self._rest = self._rest, b""
        return self._whole([rest])

    def _whole(self, lines: list[bytes]) -> list[bytes]:
        found = []
        for line in lines:
            self._check(line)
            text = line.strip()
            if text:
                found.append(text)
        return found

    def _check(self, line: bytes) -> None:
        if len(line) > self._limit:
            raise UpstreamError(
                f"The source sent a line of more than {self._limit} bytes.", code="upstream_event_too_large"
            )
