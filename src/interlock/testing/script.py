"""The vocabulary of scripted answers: what a request looks like to a script, and the steps a script is made of."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass(slots=True)
class Received:
    """One request as it arrived. `headers` in order, names lower-cased. `connection` counts connections from 0.

    `ended` is "" while the script runs, then "done" (all steps made), "closed" (by the script) or "gone" (the client
    left before the end). `at_ns` is the monotonic arrival time.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    at_ns: int
    ended: str = ""

    def header(self, name: str) -> str | None:
        """The first header of this name, or None."""
        return next((v for k, v in self.headers if k == name.lower()), None)

    @property
    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it is not."""
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for `ms` milliseconds."""

    ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """Send nothing until the test calls `event.set()` (on the engine's own loop)."""

    event: asyncio.Event


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Stop here. `how`: "close" (FIN), "reset" (RST) or "hang" (nothing more until the client leaves)."""

    how: str = "close"


CLOSE, RESET, HANG = End("close"), End("reset"), End("hang")
Step = bytes | Pause | Gate | End
Script = Callable[[Received], Iterable[Step]]


@dataclasses.dataclass
class Load:
    """What the engine's `/metrics` page reports; tests change it. `kv_ratio` in [0, 1]."""

    running: int = 0
    waiting: int = 0
    kv_ratio: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0


def steps(*made: Step) -> Script:
    """The script that makes exactly these steps, whatever is asked."""

    def script(_received: Received) -> Iterable[Step]:
        return made

    return script


def http(status: int, body: bytes, content_type: str = "application/json", headers: Iterable[str] = ()) -> bytes:
    """A whole HTTP/1.1 answer with a content length. `headers`: further header lines, without line ends."""
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. Empty data is the last chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event, as a chunk of a chunked body."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return chunk(b"data: " + text.encode() + b"\n\n")


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
"""Head of a streamed answer."""

DONE = event("[DONE]")
"""The event that ends an OpenAI stream."""

REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 408: "Request Timeout",
    413: "Content Too Large", 422: "Unprocessable Content", 429: "Too Many Requests", 500: "Internal Server Error",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
