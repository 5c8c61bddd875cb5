"""Server-sent events of a page, and what they stand for ending with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    """Server-sent events. However it ends, the call behind it ends too, and `done` is called once."""

    def __init__(self, events: Any, done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await cast("AsyncGenerator[bytes, None]", self.body_iterator).aclose()
            finally:
                self._done()


def event(kind: str, value: dict[str, Any]) -> bytes:
    """One event: what it is called, and its value as JSON, each on a line of its own."""
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"
