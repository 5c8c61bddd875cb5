"""What a call that a full disk cut off had reserved comes back when the log says what it was charged."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from interlock.errors import LogError
from interlock.gateway.runtime import Runtime, Unsettled


class Log:
    refusal: LogError | None = None
    appended_seq = 9

    def __init__(self, lost: set[int]) -> None:
        self._lost = lost
        self.waiting: list[Callable[[LogError | None], None]] = []

    def on_durable(self, seq: int, then: Callable[[LogError | None], None]) -> None:
        assert seq == self.appended_seq
        self.waiting.append(then)

    def lost(self, seq: int) -> bool:
        return seq in self._lost


@pytest.mark.parametrize(("lost", "charged"), [(set[int](), (3,)), ({5}, (0,))], ids=["recorded", "never made"])
def test_what_was_reserved_comes_back(lost: set[int], charged: tuple[int, ...]) -> None:
    corrected: list[Any] = []
    log, hold = Log(lost), object()
    treasury = SimpleNamespace(correct=lambda *given: corrected.append(given))
    runtime = cast("Any", SimpleNamespace(log=log, treasury=treasury, unsettled=[]))
    runtime._settled_late = lambda late, error: Runtime._settled_late(runtime, late, error)
    runtime.unsettled.append(Unsettled(5, cast("Any", hold), (10,), (3,)))
    log.refusal = LogError("full")
    Runtime.settle_late(runtime)
    assert not log.waiting, "the log still takes nothing"
    log.refusal = None
    Runtime.settle_late(runtime)
    log.waiting.pop()(LogError("full again"))
    assert not corrected and len(runtime.unsettled) == 1
    Runtime.settle_late(runtime)
    log.waiting.pop()(None)
    assert corrected == [(hold, (10,), charged)] and not runtime.unsettled
