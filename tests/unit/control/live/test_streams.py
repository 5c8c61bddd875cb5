"""Streams to open pages: who reads too slowly is let go, and nothing is kept for them without bound."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from interlock.control.console import stream
from interlock.control.live.hub import END, EVENTS_MAX, Event, Subscriber
from interlock.control.live.view import Scope


def on_loop(case: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that works on a loop of its own."""

    @functools.wraps(case)
    def run(*args: Any, **given: Any) -> None:
        asyncio.run(case(*args, **given))

    return run


def subscriber() -> Subscriber:
    return Subscriber(Scope("", "source"), "olga", lambda _scope, _view: {})


@on_loop
async def test_events_come_in_their_order() -> None:
    page = subscriber()
    for number in range(EVENTS_MAX):
        page.put(Event(b"%d" % number))
    assert [(await page.get(1) or END).data for _ in range(EVENTS_MAX)] == [b"%d" % n for n in range(EVENTS_MAX)]
    assert await page.get(0.01) is None and not page.lost


@on_loop
async def test_a_page_that_does_not_read_holds_no_more_than_a_few_events() -> None:
    page = subscriber()
    for _ in range(1000):
        page.put(Event(b"x" * 1000))
        assert len(page._events) <= EVENTS_MAX
    assert page.lost and not page._events, "what it did not read is gone"
    assert await page.get(1) is None


@on_loop
async def test_the_end_wakes_who_waits() -> None:
    page = subscriber()
    waiting = asyncio.create_task(page.get(30))
    await asyncio.sleep(0)
    page.put(END)
    assert await asyncio.wait_for(waiting, 20) is None and page.lost


async def forever() -> AsyncIterator[bytes]:
    while True:
        yield b"data: x\n\n"
        await asyncio.sleep(0)


async def connected() -> dict[str, Any]:
    """The next thing that a client does which stays: nothing."""
    await asyncio.Event().wait()
    return {}


@on_loop
async def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SEND_S", 0.05)
    ended: list[str] = []
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        if len(sent) >= 3:
            await asyncio.Event().wait()
        sent.append(message)

    answer = stream.EventStream(forever(), lambda: ended.append("ended"))
    await asyncio.wait_for(answer({"type": "http"}, connected, send), 60)
    assert len(sent) == 3 and ended == ["ended"]


@on_loop
async def test_a_reader_that_leaves_ends_its_stream() -> None:
    ended: list[str] = []

    async def leaves() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        await asyncio.sleep(0)

    answer = stream.EventStream(forever(), lambda: ended.append("ended"))
    await asyncio.wait_for(answer({"type": "http"}, leaves, send), 60)
    assert ended == ["ended"]


@on_loop
async def test_a_stream_that_fails_fails_loudly_and_is_counted_out() -> None:
    ended: list[str] = []

    async def broken() -> AsyncIterator[bytes]:
        yield b"data: x\n\n"
        raise ValueError("broken")

    async def send(_: Any) -> None:
        await asyncio.sleep(0)

    with pytest.raises(ValueError, match="broken"):
        await stream.EventStream(broken(), lambda: ended.append("ended"))({"type": "http"}, connected, send)
    assert ended == ["ended"]
