"""Answers that go on: server-sent events, to readers that read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

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
        left = asyncio.ensure_future(_left(receive))
        written = asyncio.ensure_future(self.stream_response(_bounded(send)))
        try:
            await asyncio.wait((left, written), return_when=asyncio.FIRST_COMPLETED)
            if written.done():
                written.result()
        except TimeoutError:
            logger.info("a page that does not read its stream is let go")
        finally:
            left.cancel()
            written.cancel()
            await asyncio.gather(left, written, return_exceptions=True)
            self._ended()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _bounded(send: Send) -> Send:
    async def bounded(message: Message) -> None:
        async with asyncio.timeout(SEND_S):
            await send(message)

    return bounded
