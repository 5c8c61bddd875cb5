"""The pool: answers by the rules of RFC 9112, connections that are kept or not, time-outs, cancelling and pausing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from interlock.errors import UpstreamError
from interlock.settings import Settings
from interlock.sources.fetch import fetch
from interlock.sources.transport import Deadlines, Pool
from interlock.types.source import Source, SourceKind
from tests.unit.sources.upstream import (
    OK,
    PATIENT,
    Recorder,
    answers,
    exchange,
    pool_to,
    read_request,
    request,
    send,
    until,
    upstream,
)

Run = Callable[[Awaitable[None]], None]


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def test_answers_are_delivered_and_the_connection_is_kept(run: Run) -> None:
    async def main() -> None:
        chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
        chunked += b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"
        async with upstream(answers(OK, chunked, OK)) as server, pool_to(server.port) as pool:
            first = await exchange(pool)
            second = await exchange(pool, [request()[:20], request()[20:]])
            third = await exchange(pool)
            assert (first.status, first.body, first.ends) == (200, b"ok", 1)
            assert first.headers == [(b"content-length", b"2")]
            assert (second.status, second.pieces) == (201, [b"abc", b"de"])
            assert second.headers == [(b"transfer-encoding", b"chunked"), (b"x-a", b"b")]
            assert third.body == b"ok"
            assert (server.accepted, pool.connections, pool.idle, pool.active) == (1, 1, 1, 0)

    run(main())


def test_an_answer_in_single_bytes_is_the_same(run: Run) -> None:
    async def main() -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            for i in range(len(OK)):
                writer.write(OK[i : i + 1])
                await asyncio.sleep(0.001)
            await reader.read()

        async with upstream(drip) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.status, got.body, pool.idle) == (200, b"ok", 1)

    run(main())


def test_interim_answers_are_skipped(run: Run) -> None:
    async def main() -> None:
        reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK
        async with upstream(answers(reply)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.status, got.headers, got.body) == (200, [(b"content-length", b"2")], b"ok")
            assert pool.idle == 1

    run(main())


def test_a_body_without_length_ends_with_the_connection(run: Run) -> None:
    async def main() -> None:
        reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end"
        async with upstream(answers(reply, close=True)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.code, got.body) == ("", b"to the end")
            assert pool.idle == 0

    run(main())


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
        OK + b"HT",
        OK + b"\0\0\0",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nokmore",
    ],
    ids=["close", "http/1.0", "second answer", "part of an answer", "noise", "bytes after close"],
)
def test_connections_that_must_not_be_used_again(run: Run, reply: bytes) -> None:
    async def main() -> None:
        async with upstream(answers(reply), answers(OK)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.code, got.status, got.body, got.ends) == ("", 200, b"ok", 1)
            assert pool.idle == 0
            assert (await exchange(pool)).body == b"ok"
            assert server.accepted == 2

    run(main())


INVALID = {
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http/2": b"HTTP/2 200 OK\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
    "length twice": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
    "folded header": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "other coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
    "upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
    "bad chunk size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
    "chunk too long": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 50_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 300 + b"content-length: 2\r\n\r\nok",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
}


@pytest.mark.parametrize("reply", INVALID.values(), ids=INVALID.keys())
def test_invalid_answers_are_refused(run: Run, reply: bytes) -> None:
    async def main() -> None:
        async with upstream(answers(reply)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.code, got.ends) == ("upstream_invalid_response", 0)
            assert got.error is not None
            assert got.error.message.startswith("source 'local' ")
            assert str(server.port) not in got.error.message
            assert pool.idle == 0

    run(main())


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["length", "inside a chunk", "no last chunk", "inside the head", "only interim"],
)
def test_a_cut_answer_is_an_error(run: Run, reply: bytes) -> None:
    async def main() -> None:
        async with upstream(answers(reply, close=True)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert (got.code, got.ends) == ("upstream_cut_off", 0)

    run(main())


def test_a_fresh_connection_closed_without_an_answer_is_not_tried_again(run: Run) -> None:
    async def main() -> None:
        async with upstream(answers(b"", close=True)) as server, pool_to(server.port) as pool:
            got = await exchange(pool)
            assert got.code == "upstream_closed"
            assert server.accepted == 1

    run(main())


async def _stale(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK)
    await read_request(reader)  # and closes without a word, as an idle time-out does


def test_a_stale_connection_is_told_apart_and_nothing_is_sent_again(run: Run) -> None:
    async def main() -> None:
        async with upstream(_stale) as server, pool_to(server.port) as pool:
            await exchange(pool)
            assert (await exchange(pool)).code == "upstream_stale"
            assert server.accepted == 1

    run(main())


def test_a_connection_lost_long_after_sending_was_not_stale(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.sources.connection.STALE_WINDOW_S", -1.0)

    async def main() -> None:
        async with upstream(_stale) as server, pool_to(server.port) as pool:
            await exchange(pool)
            assert (await exchange(pool)).code == "upstream_closed"
            assert server.accepted == 1

    run(main())


def test_a_fresh_connection_is_opened_beside_idle_ones_while_there_is_room(run: Run) -> None:
    async def main() -> None:
        settings = Settings(pool_connections_max=2)
        async with upstream(answers(OK, OK)) as server, pool_to(server.port, settings) as pool:
            await exchange(pool)
            assert (await exchange(pool, fresh=True)).body == b"ok"
            assert (server.accepted, pool.idle) == (2, 2)
            assert (await exchange(pool, fresh=True)).body == b"ok"
            assert (server.accepted, pool.idle) == (2, 2)

    run(main())


def test_an_idempotent_fetch_is_sent_again_once_when_its_connection_was_stale(run: Run) -> None:
    async def main() -> None:
        async with upstream(_stale, answers(OK)) as server, pool_to(server.port) as pool:
            for _ in range(2):
                assert (await fetch(pool, request(), timeout_s=30, bytes_max=10)).body == b"ok"
            assert server.accepted == 2
        async with upstream(_stale, answers(b"", close=True)) as server, pool_to(server.port) as pool:
            await fetch(pool, request(), timeout_s=30, bytes_max=10)
            with pytest.raises(UpstreamError) as caught:
                await fetch(pool, request(), timeout_s=30, bytes_max=10)
            assert (caught.value.code, server.accepted) == ("upstream_closed", 2)

    run(main())


def test_bytes_on_an_idle_connection_end_it(run: Run) -> None:
    async def main() -> None:
        async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnot you")
            await reader.read()

        async with upstream(talkative, answers(OK)) as server, pool_to(server.port) as pool:
            await exchange(pool)
            await until(lambda: server.closed == 1)
            assert (await exchange(pool)).body == b"ok"
            assert server.accepted == 2

    run(main())


def test_nobody_listens_and_unknown_names(run: Run) -> None:
    async def main() -> None:
        async with upstream(answers(OK)) as server:
            port = server.port
        async with pool_to(port) as pool:
            assert (await exchange(pool)).code == "connect_failed"
        source = Source("src_1", "local", SourceKind.openai, "http://no-such-host.invalid:1")
        async with pool_to(0, source=source) as pool:
            assert (await exchange(pool)).code == "name_not_resolved"

    run(main())


def test_a_full_pool_refuses_and_never_from_inside_send(run: Run) -> None:
    async def main() -> None:
        hold = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await hold.wait()
            writer.write(OK)
            await reader.read()

        async with upstream(slow) as server, pool_to(server.port, Settings(pool_connections_max=2)) as pool:
            first, a = send(pool)
            second, b = send(pool)
            _, c = send(pool)
            assert c.error is None
            await asyncio.wait_for(c.over, 30)
            assert c.code == "upstream_pool_full"
            await until(lambda: first.sent and second.sent)
            hold.set()
            await asyncio.gather(a.over, b.over)
            assert (a.body, b.body, pool.connections) == (b"ok", b"ok", 2)

    run(main())


def test_a_call_that_waits_takes_the_first_connection_that_is_free(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def never(*_: object) -> None:
            await asyncio.sleep(60)

        async with upstream(answers(OK, OK, OK)) as server, pool_to(server.port) as pool:
            await exchange(pool)
            _, first = send(pool)
            monkeypatch.setattr("interlock.sources.transport.dial", never)
            _, second = send(pool)
            await asyncio.wait_for(asyncio.gather(first.over, second.over), 30)
            assert (first.body, second.body, server.accepted) == (b"ok", b"ok", 1)

    run(main())


def test_cancel_closes_the_connection_and_silences_the_handler(run: Run) -> None:
    async def main() -> None:
        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while not reader.at_eof():
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)

        async with upstream(endless) as server, pool_to(server.port) as pool:
            call, got = send(pool)
            await until(lambda: got.body)
            call.cancel()
            call.cancel()
            size = len(got.body)
            await until(lambda: server.closed == 1)
            assert (len(got.body), got.over.done(), pool.active, pool.connections) == (size, False, 0, 0)
            waiting, silent = send(pool)
            waiting.cancel()
            await asyncio.sleep(0.02)
            assert not silent.over.done()

    run(main())


def test_cancel_inside_a_callback(run: Run) -> None:
    async def main() -> None:
        class Once(Recorder):
            def on_body(self, data: bytes) -> None:
                super().on_body(data)
                call.cancel()

        two = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
        async with upstream(answers(two), answers(OK)) as server, pool_to(server.port) as pool:
            once = Once()
            call = pool.send(request(), once, deadlines=PATIENT)
            await until(lambda: once.body)
            await asyncio.sleep(0.01)
            assert (once.body, once.over.done(), pool.idle) == (b"a", False, 0)
            assert (await exchange(pool)).body == b"ok"

    run(main())


@pytest.mark.filterwarnings("ignore")
def test_a_handler_that_raises_ends_its_own_call_only(run: Run) -> None:
    async def main() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

        class InBody(Recorder):
            def on_body(self, data: bytes) -> None:
                raise RuntimeError("body")

        class InEnd(Recorder):
            def on_end(self) -> None:
                raise RuntimeError("end")

        async with upstream(answers(OK, OK, OK)) as server, pool_to(server.port) as pool:
            body, end = InBody(), InEnd()
            pool.send(request(), body, deadlines=PATIENT)
            await asyncio.wait_for(body.over, 30)
            assert body.code == "internal_error"
            pool.send(request(), end, deadlines=PATIENT)
            await asyncio.wait_for(end.over, 30)
            assert end.code == "internal_error", "whoever cannot take the end is told that the call failed"
            assert (await exchange(pool)).body == b"ok"
            assert server.accepted == 2
            assert [str(p) for p in problems] == ["body", "end"]

    run(main())


@pytest.mark.filterwarnings("ignore")
def test_a_handler_that_raises_at_a_time_out_keeps_no_other_call_from_its_own(run: Run) -> None:
    async def main() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

        class InError(Recorder):
            def on_error(self, error: UpstreamError) -> None:
                raise RuntimeError("error")

        async with upstream(_silent, _silent) as server, pool_to(server.port) as pool:
            first, second = InError(), Recorder()
            for each in (first, second):
                pool.send(request(), each, deadlines=Deadlines(9, 1, 9, 9))
            await until(lambda: server.accepted == 2)
            pool.sweep(100.0)
            pool.sweep(102.0)
            assert second.code == "first_event_timeout" and [str(p) for p in problems] == ["error"]

    run(main())


@pytest.mark.filterwarnings("ignore")
def test_an_end_that_is_the_connections_and_cannot_be_taken_fails_the_call(run: Run) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)

        class InEnd(Recorder):
            def on_end(self) -> None:
                raise RuntimeError("end")

        async with upstream(answers(b"HTTP/1.1 200 OK\r\n\r\nall", close=True)) as server, pool_to(server.port) as pool:
            end = InEnd()
            pool.send(request(), end, deadlines=PATIENT)
            await asyncio.wait_for(end.over, 30)
            assert end.code == "internal_error"

    run(main())


def test_pausing_stops_the_source_and_loses_nothing(run: Run) -> None:
    async def main() -> None:
        size, sent = 24_000_000, 0

        async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(b"y" * 100_000)
                sent += 100_000
                await writer.drain()
            await reader.read()

        async with upstream(big, answers(OK)) as server, pool_to(server.port) as pool:
            call, got = send(pool, Deadlines(9, 9, 9, 99))
            await until(lambda: got.size)
            call.pause()
            call.pause()
            for now in range(0, 60, 5):
                pool.sweep(now)
            held = stopped = -1
            while (held, stopped) != (got.size, sent):  # the kernel's buffers fill
                held, stopped = got.size, sent
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.05)
            assert got.size == held < size
            assert sent == stopped < size
            call.resume()
            pool.sweep(60)  # the silence was ours: it does not count
            assert not got.over.done()
            await asyncio.wait_for(got.over, 30)
            assert (got.size, got.ends, pool.idle) == (size, 1, 1)

    run(main())


def test_a_request_larger_than_the_socket_buffer(run: Run) -> None:
    async def main() -> None:
        body = b"z" * 5_000_000
        got: list[int] = []

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(len(await read_request(reader)))
            writer.write(OK)
            await reader.read()

        async with upstream(count) as server, pool_to(server.port) as pool:
            assert (await exchange(pool, request(body))).body == b"ok"
            assert got == [len(request(body))]

    run(main())


def test_an_answer_before_the_request_is_through_ends_the_connection(run: Run) -> None:
    async def main() -> None:
        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.2)

        async with upstream(early) as server, pool_to(server.port) as pool:
            got = await exchange(pool, request(b"z" * 20_000_000))
            assert (got.status, got.ends, pool.idle) == (413, 1, 0)

    run(main())


# -- the end of a pool


def test_retire_lets_running_calls_end(run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await gate.wait()
            writer.write(OK)
            await reader.read()

        async with upstream(slow) as server, pool_to(server.port) as pool:
            _, got = send(pool)
            await until(lambda: pool.connections == 1)
            pool.retire()
            assert (await exchange(pool)).code == "upstream_pool_closed"
            gate.set()
            await asyncio.wait_for(got.over, 30)
            assert got.body == b"ok"
            await until(lambda: pool.connections == 0)

    run(main())


def test_close_cuts_what_runs(run: Run) -> None:
    async def main() -> None:
        async with upstream(_silent) as server, pool_to(server.port) as pool:
            _, sent = send(pool)
            await until(lambda: pool.connections == 1)
            _, dialing = send(pool)
            await pool.close()
            assert (sent.code, dialing.code) == ("upstream_pool_closed",) * 2

    run(main())


def test_renew_uses_no_old_connection(run: Run) -> None:
    async def main() -> None:
        async with upstream(answers(OK, OK)) as server, pool_to(server.port) as pool:
            await exchange(pool)
            _, running = send(pool)
            pool.renew()
            await asyncio.wait_for(running.over, 30)
            assert running.body == b"ok"
            assert pool.idle == 0
            await exchange(pool)
            assert server.accepted == 2

    run(main())


def test_many_at_once(run: Run) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                body = (await read_request(reader)).partition(b"\r\n\r\n")[2]
                await asyncio.sleep(0)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

        async def caller(pool: Pool, name: int) -> None:
            for i in range(5):
                body = b"%d-%d" % (name, i)
                assert (await exchange(pool, request(body))).body == body

        async with upstream(serve) as server, pool_to(server.port) as pool:
            await asyncio.gather(*(caller(pool, n) for n in range(40)))
            assert pool.connections <= 40
            assert pool.idle == pool.connections

    run(main())
