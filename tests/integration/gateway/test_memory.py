"""A call that is over leaves nothing behind: no bytes that count as held, no objects that wait for the collector."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from interlock.gateway.http.protocol import HttpProtocol
from interlock.gateway.run import Run
from interlock.testing import answers, faults
from interlock.testing.script import Script
from tests.integration.gateway.client import (
    CHAT,
    ask,
    connected,
    eventually,
    raw_request,
    read_all,
    read_until,
    serving,
    when,
)

STREAM = {**CHAT, "stream": True}


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(type(o).__name__ for o in gc.get_objects() if type(o) in (Run, HttpProtocol))


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "script",
    [answers.answer(), answers.error(500), answers.error(400), faults.dies_mid_stream(), faults.closes_at_once()],
)
def test_no_call_and_no_connection_waits_for_the_garbage_collector(script: Script) -> None:
    with serving(breaker_failures=1000) as (gateway, engine):
        engine.default = script
        for body in (CHAT, STREAM, {"model": "nope"}) * 3:
            ask(gateway, body)
        eventually(lambda: not alive())


@pytest.mark.usefixtures("uncollected")
def test_neither_does_one_whose_reader_left() -> None:
    with serving() as (gateway, engine):
        engine.default = faults.endless(between_ms=5)
        for _ in range(3):
            with connected(gateway) as sock:
                sock.sendall(raw_request(gateway, STREAM))
                read_until(sock, b"word")
        eventually(lambda: not alive())


def test_bodies_that_are_held_are_counted_until_they_are_let_go() -> None:
    with serving() as (gateway, engine):
        server = gateway.worker.server
        assert server is not None
        go_on = [threading.Event() for _ in range(3)]
        engine.script(*(when(each, answers.answer()) for each in go_on))
        one = raw_request(gateway, CHAT)
        size = len(one.partition(b"\r\n\r\n")[2])
        with connected(gateway) as sock:
            sock.sendall(one * 3)
            eventually(lambda: len(engine.calls) == 1)
            eventually(lambda: gateway.call(lambda: server.held_bytes) == 3 * size)
            go_on[0].set()
            eventually(lambda: len(engine.calls) == 2)
            assert gateway.call(lambda: server.held_bytes) == 2 * size
            go_on[1].set()
            eventually(lambda: len(engine.calls) == 3)
            assert gateway.call(lambda: server.held_bytes) == size
            go_on[2].set()
            eventually(lambda: gateway.call(lambda: server.held_bytes) == 0)


def test_too_many_bodies_at_once_are_refused() -> None:
    with serving(bodies_bytes_max=2000, body_bytes_max=1500) as (gateway, engine):
        engine.default = faults.never_answers()
        big = {**CHAT, "messages": [{"role": "user", "content": "x" * 1200}]}
        with connected(gateway) as first, connected(gateway) as second:
            first.sendall(raw_request(gateway, big))
            eventually(lambda: engine.calls)
            second.sendall(raw_request(gateway, big))
            assert read_all(second).startswith(b"HTTP/1.1 503 ")
        server = gateway.worker.server
        assert server is not None
        eventually(lambda: gateway.call(lambda: server.held_bytes) == 0)
