"""Answers that go on: server-sent events, to readers that read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

SEND_S = 15.0
"""A reader that takes nothing for so long is let go."""
BEAT = b": beat\n\n"
"""A comment, which keeps proxies from ending a silent stream and shows the page that it lives."""


class EventStream(StreamingResponse):
    """`events` until they end, the reader leaves, or it reads too slowly. `ended()` is called in each case, once."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._ended = ended

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                async def bounded(message: dict[str, object]) -> None:
                    async with asyncio.timeout(SEND_S):
                        await send(message)

                group.start_soon(leave)
                try:
                    await self.stream_response(bounded)  # type: ignore[arg-type]
                except TimeoutError:
                    logger.info("a page that does not read its stream is let go")
                group.cancel_scope.cancel()
        finally:
            self._ended()
