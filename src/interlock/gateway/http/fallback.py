"""uvicorn inside a worker: the fallback for the native server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

from interlock.errors import Unavailable

if TYPE_CHECKING:
    import socket

    from interlock.gateway.http.exchange import Application
    from interlock.settings import Settings
    from interlock.types.clock import Clock

START_S = 10.0
CLOSE_S = 3.0
_POLL_S = 0.01


class Fallback:
    """A uvicorn server on a bound socket, run by the worker's own event loop. Start it, then close it."""

    def __init__(self, app: Application, settings: Settings, clock: Clock, sock: socket.socket) -> None:
        import uvicorn

        from interlock.gateway.http.asgi import asgi

        class Quiet(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Generator[None, None, None]:
                yield  # the node tells us when to stop

        config = uvicorn.Config(
            asgi(app, settings, clock),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=settings.listen_backlog,
            timeout_keep_alive=settings.idle_timeout_ms // 1000,
            ssl_certfile=settings.tls_cert_file or None,
            ssl_keyfile=settings.tls_key_file or None,
        )
        self._server = Quiet(config)
        self._socket = sock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections. Raises Unavailable when that does not come about."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        try:
            async with asyncio.timeout(START_S):
                while not self._server.started:
                    if self._task.done():
                        await self._task
                        raise Unavailable("uvicorn ended while starting")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Unavailable("uvicorn did not start in time") from None

    def stop_accepting(self) -> None:
        """Take no more connections; running answers go on."""
        self._server.should_exit = True

    async def close(self) -> None:
        """End what is left."""
        self._server.force_exit = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_S)
