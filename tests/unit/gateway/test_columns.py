"""Snapshots that wait for what they need to start beside the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from interlock.gateway import columns
from interlock.gateway.columns import Columns
from interlock.gateway.link import NewSnapshot
from tests.unit.gateway.snapshots import small

VIEW = small().view()


class Scene:
    """What a worker would be told, with a start that ends when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str = "") -> None:
        self.told: list[tuple[int, str]] = []
        self.go = threading.Event()
        self.starts = 0
        self.needed = True
        self.error = error
        monkeypatch.setattr(columns, "missing", lambda _: self.needed)
        monkeypatch.setattr(columns, "start_columns", self._start)

    def _start(self) -> None:
        self.starts += 1
        assert self.go.wait(30)
        if self.error:
            raise ImportError(self.error)
        self.needed = False

    def run(self, play: Callable[[Columns], None]) -> list[tuple[int, str]]:
        """`play` in a loop that goes on meanwhile; then the start may end."""

        async def life() -> None:
            waits = Columns(
                asyncio.get_running_loop(),
                lambda message: self.told.append((message.version, "")),
                lambda message, why: self.told.append((message.version, why)),
            )
            play(waits)
            await asyncio.sleep(0)
            assert self.starts <= 1
            self.go.set()
            if waits._starting is not None:
                await asyncio.wait([waits._starting])

        asyncio.run(life())
        return self.told


def test_the_newest_that_waited_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(waits: Columns) -> None:
        assert waits.must_wait(VIEW, NewSnapshot(2, "2"))
        assert waits.must_wait(VIEW, NewSnapshot(3, "3"))

    assert Scene(monkeypatch).run(play) == [(3, "")]


def test_one_that_was_overtaken_by_one_that_need_not_wait_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)

    def play(waits: Columns) -> None:
        assert waits.must_wait(VIEW, NewSnapshot(2, "2"))
        scene.needed = False
        assert not waits.must_wait(VIEW, NewSnapshot(3, "3"))

    assert scene.run(play) == []


def test_one_that_need_not_wait_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.needed = False
    assert scene.run(lambda waits: waits.must_wait(VIEW, NewSnapshot(2, "2")) and None) == []
    assert scene.starts == 0


def test_a_start_that_fails_refuses_the_snapshot_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(waits: Columns) -> None:
        assert waits.must_wait(VIEW, NewSnapshot(2, "2"))

    assert Scene(monkeypatch, "no such file").run(play) == [(2, "no such file")]
