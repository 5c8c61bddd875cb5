"""A worker that only speaks the link, for the node's tests: it accepts, answers with its process id, and obeys.

What a client sends decides: "pid", "crash", "freeze", "config", "version", "keys". Run as a module by the node.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from interlock.gateway.link import Configure, NewSnapshot, Ready, RefreshKeys, Rejected, Reload, Runs, Stop, worker_end
from interlock.gateway.snapshot_folder import SnapshotFolder


async def serve() -> None:
    configured: asyncio.Future[Configure] = asyncio.get_running_loop().create_future()
    stopped = asyncio.Event()
    heard: list[NewSnapshot | Reload | Stop] = []

    def on_message(message: Configure | NewSnapshot | Reload | Stop) -> None:
        if isinstance(message, Configure):
            configured.set_result(message)
            return
        heard.append(message)
        if isinstance(message, Stop):
            stopped.set()
        elif isinstance(message, NewSnapshot):
            take(message)

    end = await worker_end(on_message, lambda _error: stopped.set())
    config = await configured
    folder = SnapshotFolder(Path(config.snapshot_dir), deltas_max=8)
    crash_file = Path(config.run_dir) / f"crash-{config.slot}"
    if crash_file.exists():
        sys.exit(3)
    view = folder.load(16)

    def take(message: NewSnapshot) -> None:
        nonlocal view
        newer = folder.advance(view, message.file, 16)
        if newer is None or "refused" in {t.name for t in newer.teams}:
            end.send(Rejected(message.version, view.version if view else 0, "it names a refused team"))
            return
        view = newer
        end.send(Runs(newer.version))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.read(100)).decode()
        if asked == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if asked == "freeze":
            time.sleep(60)  # noqa: ASYNC251 - to stand still is the point
        if asked == "keys":
            end.send(RefreshKeys("iss_1"))
        answers = {
            "config": msgspec.json.encode(config),
            "version": str(view.version if view else 0).encode(),
            "environment": msgspec.json.encode(dict(os.environ)),
        }
        writer.write(answers.get(asked, str(os.getpid()).encode()))
        await writer.drain()
        writer.close()

    sock = socket.socket(fileno=config.listen_fd)
    server = await asyncio.start_server(answer, sock=sock)
    end.send(Ready(view.version if view else 0))
    await stopped.wait()
    server.close()
    end.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvloop.run(serve())
