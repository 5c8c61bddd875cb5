"""The link: messages both ways, the end of the other side, and an other side that misbehaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from interlock.gateway import link
from interlock.gateway.link import (
    Configure,
    LinkError,
    NewSnapshot,
    NodeEnd,
    Ping,
    Pong,
    Ready,
    RefreshKeys,
    Rejected,
    Reload,
    Runs,
    Stop,
    WorkerEnd,
)

CONFIGURE = Configure({"workers": 2}, "n", 0, 2, 0, "r", "s", "j", "l", 5, 8080)


class Pair:
    """Both ends of a link and what each has heard."""

    node: NodeEnd
    worker: WorkerEnd

    def __init__(self) -> None:
        self.at_node: list[object] = []
        self.at_worker: list[object] = []

    async def open(self) -> Pair:
        ours, theirs = socket.socketpair()
        self.node = await link.node_end(ours, self.at_node.append, self.at_node.append)
        self.worker = await link.worker_end(self.at_worker.append, self.at_worker.append, fd=theirs.detach())
        return self

    def close(self) -> None:
        self.node.close()
        self.worker.close()


def with_pair(test: Callable[[Pair], Awaitable[None]]) -> None:
    async def run() -> None:
        pair = await Pair().open()
        try:
            await test(pair)
        finally:
            pair.close()
            await asyncio.sleep(0)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is heard by several
            await asyncio.sleep(0.001)


def test_every_message_arrives_as_it_was_sent() -> None:
    down: list[link.ToWorker] = [CONFIGURE, NewSnapshot(3, "00000003.delta"), Reload("jwks", "iss_1"), Stop(8000)]
    up: list[link.ToNode] = [Ready(3), Runs(4), Rejected(5, 4, 'because "of this"\n'), RefreshKeys("iss_1")]

    async def test(pair: Pair) -> None:
        assert all(pair.node.send(m) for m in down) and all(pair.worker.send(m) for m in up)
        await until(lambda: len(pair.at_worker) == len(down) and len(pair.at_node) == len(up))
        assert pair.at_worker == down and pair.at_node == up

    with_pair(test)


def test_a_ping_is_answered_by_the_workers_end_itself() -> None:
    async def test(pair: Pair) -> None:
        pair.node.send(Ping())
        await until(lambda: len(pair.at_node) == 1)
        assert pair.at_node == [Pong()] and pair.at_worker == []

    with_pair(test)


def test_the_end_of_the_other_side_is_told_once() -> None:
    async def test(pair: Pair) -> None:
        pair.node.send(Stop(1))
        pair.node.close()
        await until(lambda: len(pair.at_worker) == 2)
        assert pair.at_worker == [Stop(1), None] and pair.at_node == []
        assert not pair.worker.send(Ready(1)) and not pair.node.send(Stop(1))

    with_pair(test)


@pytest.mark.parametrize("sent", [b"nonsense\n", b'{"is":"unknown"}\n', b'{"is":"ready"}\n', b"x" * (1 << 20) + b"yy"])
def test_what_is_no_message_ends_the_link(sent: bytes) -> None:
    async def run() -> None:
        heard: list[object] = []
        ours, theirs = socket.socketpair()
        with theirs:
            end = await link.node_end(ours, heard.append, heard.append)
            theirs.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(theirs, sent)
            await until(lambda: len(heard) == 1)
            assert isinstance(heard[0], LinkError) and not end.send(Stop(1))

    asyncio.run(run())


def test_messages_in_pieces_and_in_one_piece() -> None:
    async def run() -> None:
        heard: list[object] = []
        ours, theirs = socket.socketpair()
        with theirs:
            end = await link.node_end(ours, heard.append, heard.append)
            wire = b'{"is":"ready","snapshot":1}\n{"is":"runs","snapshot":2}\n{"is":"pong"}\n'
            for i in range(0, len(wire), 5):
                theirs.send(wire[i : i + 5])
                await asyncio.sleep(0)
            theirs.send(wire)
            await until(lambda: len(heard) == 6)
            assert heard == [Ready(1), Runs(2), Pong()] * 2
            end.close()
            await asyncio.sleep(0)

    asyncio.run(run())


def test_an_end_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "UNREAD_BYTES_MAX", 10_000)

    async def run() -> None:
        heard: list[object] = []
        ours, theirs = socket.socketpair()
        with theirs:
            end = await link.node_end(ours, heard.append, heard.append)
            message = Reload("jwks", "x" * 5000)
            sent = 0
            while end.send(message):
                sent += 1
                assert sent < 10_000
            await until(lambda: len(heard) == 1)
            assert isinstance(heard[0], LinkError) and "does not read" in heard[0].message

    asyncio.run(run())


def test_the_workers_end_is_standard_input_by_default() -> None:
    assert link.LINK_FD == 0
