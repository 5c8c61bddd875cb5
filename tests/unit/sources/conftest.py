"""What the tests of the transport share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a coroutine on either loop: the gateway's own and the standard one."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coroutine: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as it:
            it.run(coroutine)  # type: ignore[arg-type]

    return runner
