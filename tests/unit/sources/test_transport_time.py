"""The pool's time-outs: never early, at most one sweep late; and how long idle connections are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from interlock.settings import Settings
from interlock.sources.transport import Deadlines
from tests.unit.sources.upstream import OK, Script, answers, exchange, pool_to, read_request, send, until, upstream

Run = Callable[[Awaitable[None]], None]


def _head_then(*pieces: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await reader.read()

    return script


def test_first_event_timeout_counts_from_sending_and_is_never_early(run: Run) -> None:
    async def main() -> None:
        async with upstream(_head_then()) as server, pool_to(server.port) as pool:
            _, got = send(pool, Deadlines(3, 5, 2, 100))
            await until(lambda: got.status)
            for now in (10.0, 14.9):
                pool.sweep(now)
            assert not got.over.done()
            pool.sweep(15.0)
            assert (got.code, got.ends, pool.active) == ("first_event_timeout", 0, 0)
            assert got.error is not None
            assert got.error.status == 504
            await until(lambda: server.closed == 1)

    run(main())


def test_between_events_timeout(run: Run) -> None:
    async def main() -> None:
        async with upstream(_head_then(b"one")) as server, pool_to(server.port) as pool:
            _, got = send(pool, Deadlines(3, 5, 2, 100))
            pool.sweep(10.0)
            await until(lambda: got.body)
            for now in (14.0, 15.9):
                pool.sweep(now)
            assert not got.over.done()
            pool.sweep(16.0)
            assert got.code == "between_events_timeout"

    run(main())


def test_comments_do_not_count_when_the_handler_counts_events(run: Run) -> None:
    async def main() -> None:
        async with upstream(_head_then(b": still here\n\n")) as server, pool_to(server.port) as pool:
            call, got = send(pool, Deadlines(3, 5, 2, 100), count_bytes=False)
            pool.sweep(10.0)
            await until(lambda: got.body)
            pool.sweep(14.0)
            pool.sweep(15.0)
            assert got.code == "first_event_timeout"
            call, got = send(pool, Deadlines(3, 5, 2, 100), count_bytes=False)
            pool.sweep(20.0)
            await until(lambda: got.body)
            call.event()
            pool.sweep(21.0)
            pool.sweep(23.0)
            assert got.code == "between_events_timeout"

    run(main())


def test_total_timeout_whatever_arrives(run: Run) -> None:
    async def main() -> None:
        async with upstream(_head_then(b"one")) as server, pool_to(server.port) as pool:
            call, got = send(pool, Deadlines(3, 50, 50, 7))
            await until(lambda: got.body)
            for now in range(10, 17):
                call.bytes_seen = True
                pool.sweep(now)
            assert not got.over.done()
            pool.sweep(17.0)
            assert got.code == "total_timeout"

    run(main())


def test_connect_timeout(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async def stuck(*_: object) -> None:
            started.set()
            await asyncio.sleep(60)

        async with pool_to(1) as pool:
            monkeypatch.setattr("interlock.sources.transport.dial", stuck)
            _, got = send(pool, Deadlines(3, 50, 50, 70))
            await started.wait()
            pool.sweep(10.0)
            pool.sweep(12.9)
            assert not got.over.done()
            pool.sweep(13.0)
            assert got.code == "connect_timeout"
            await asyncio.sleep(0)

    run(main())


def test_idle_connections_go_after_their_time_or_the_sources(run: Run) -> None:
    async def main() -> None:
        hint = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=5, max=100\r\ncontent-length: 2\r\n\r\nok"
        for reply, last in ((OK, 29.9), (hint, 4.4)):
            async with upstream(answers(reply)) as server, pool_to(server.port) as pool:
                await exchange(pool)
                pool.sweep(100.0)
                pool.sweep(100.0 + last)
                assert pool.idle == 1
                pool.sweep(100.2 + last)
                assert pool.idle == 0
                await until(lambda: server.closed == 1)

    run(main())


def test_the_pool_keeps_no_more_idle_connections_than_it_may(run: Run) -> None:
    async def main() -> None:
        settings = Settings(pool_idle_max=1)
        gate = asyncio.Event()

        async def together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await gate.wait()
            writer.write(OK)
            await reader.read()

        async with upstream(together) as server, pool_to(server.port, settings) as pool:
            calls = [send(pool) for _ in range(4)]
            await until(lambda: all(call.sent for call, _ in calls))
            gate.set()
            await asyncio.gather(*(got.over for _, got in calls))
            assert pool.idle == 1

    run(main())
