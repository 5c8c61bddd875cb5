"""The node's keeper of stored responses: every question is answered, whatever the database and the workers do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from interlock.errors import Conflict, StoreError
from interlock.gateway import keeper as module
from interlock.gateway.keeper import UNSENT_MAX, Keeper
from interlock.gateway.link import StateAnswer, StateDropped, StateKept, StatePart, StateWanted
from interlock.settings import Settings
from interlock.storage import states

OWNER = ("ten_1", "prn_1")
QUESTIONS = (
    StateWanted("e", 1, *OWNER, "r1", False),
    StateKept("e", 2, *OWNER, "r2", "", b"n" * 16, b"sealed", 60),
    StateDropped("e", 3, *OWNER, "r3"),
)


class Slot:
    """A worker that hears what it is told."""

    def __init__(self) -> None:
        self.number = 0
        self.unsent = 0
        self.heard: list[StatePart | StateAnswer] = []

    def send(self, message: StatePart | StateAnswer, /) -> bool:
        self.heard.append(message)
        return True


class Connection:
    """A database that takes every statement."""

    @contextlib.asynccontextmanager
    async def transaction(self) -> Any:
        yield


class Database:
    """Where a keeper gets its connection from."""

    async def get(self) -> Connection:
        return Connection()

    async def close(self) -> None:
        pass


def serve(slot: Slot, url: str, act: Callable[[Keeper], None], until: Callable[[], bool]) -> None:
    async def main() -> None:
        keeper = Keeper(url, Settings(database_connect_timeout_ms=300), lambda: [slot])
        if not url:
            keeper._database = Database()  # type: ignore[assignment]
        task = asyncio.create_task(keeper.run())
        act(keeper)
        async with asyncio.timeout(60):
            while not until():  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def ask_all(keeper: Keeper) -> None:
    for question in QUESTIONS:
        keeper.ask(0, question)


def test_without_its_database_everything_is_unavailable() -> None:
    slot = Slot()
    serve(slot, "postgresql://127.0.0.1:1/none", ask_all, lambda: len(slot.heard) == 3)
    assert slot.heard == [StateAnswer("e", number, "unavailable") for number in (1, 2, 3)]


def test_a_question_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def conflict(*_: Any) -> bool:
        raise Conflict("an erasure at the same moment")

    async def done(*_: Any) -> bool:
        return True

    async def none(*_: Any) -> None:
        return None

    async def missing(*_: Any) -> tuple[str, list[str]]:
        return "missing", []

    for name, what in (("keep", conflict), ("drop", done), ("key", none), ("chain", missing)):
        monkeypatch.setattr(states, name, what)
    slot = Slot()
    serve(slot, "", ask_all, lambda: len(slot.heard) == 3)
    assert [m.state for m in slot.heard if isinstance(m, StateAnswer)] == ["missing", "unavailable", "dropped"]

    async def away(*_: Any) -> bool:
        raise StoreError("the database is away")

    monkeypatch.setattr(states, "keep", away)
    slot = Slot()
    serve(slot, "", ask_all, lambda: len(slot.heard) == 3)
    assert [m.state for m in slot.heard if isinstance(m, StateAnswer)] == ["missing", "unavailable", "unavailable"]


def test_a_worker_is_not_sent_more_than_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def key(*_: Any) -> states.Key:
        return states.Key(b"n" * 16, b"wrapped")

    async def chain(*_: Any) -> tuple[str, list[str]]:
        return "found", ["r0", "r1"]

    async def read(*_: Any) -> Any:
        for name in ("r0", "r1"):
            yield states.Row(name, "", b"x")

    for name, what in (("key", key), ("chain", chain), ("read", read)):
        monkeypatch.setattr(states, name, what)
    monkeypatch.setattr(module, "UNREAD_S", 0.2)
    slot = Slot()
    slot.unsent = UNSENT_MAX + 1

    def act(keeper: Keeper) -> None:
        keeper.ask(0, QUESTIONS[0])
        asyncio.get_running_loop().call_later(0.1, lambda: setattr(slot, "unsent", 0))

    serve(slot, "", act, lambda: len(slot.heard) == 3)
    assert [type(m) for m in slot.heard] == [StatePart, StatePart, StateAnswer]

    silent = Slot()
    silent.unsent = UNSENT_MAX + 1

    def never(keeper: Keeper) -> None:
        keeper.ask(0, QUESTIONS[0])
        asyncio.get_running_loop().call_later(0.7, lambda: setattr(silent, "unsent", 0))

    serve(silent, "", never, lambda: silent.unsent == 0)
    assert not silent.heard, "it is given up, and the worker's own deadline ends the call"
