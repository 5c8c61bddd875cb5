"""A call that waits for an engine which is starting, because no other source may take it.

It waits for at most `cold_start_wait_ms`, with at most `cold_start_calls_max` others, after all checks and within its
limits, and before its intent: nothing has been decided for it yet. When an engine it waits for is ready, it begins
again under the snapshot then in force, as if it had been asked just then: what was revoked meanwhile is refused. It
keeps its number, and what it was admitted with.

A call with an idempotency key does not wait: whoever has one can ask again without being answered twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.gateway.call import Call
from interlock.gateway.idempotency import IDEMPOTENCY_KEY
from interlock.gateway.waiting import ClientGone
from interlock.types.source import ENGINE_COLD, EngineState

if TYPE_CHECKING:
    from interlock.errors import EngineStarting, InterlockError
    from interlock.gateway.http.exchange import Exchange
    from interlock.gateway.runtime import Runtime


def may_wait(call: Call, runtime: Runtime) -> bool:
    """Whether this call may wait for an engine."""
    settings = runtime.settings
    if IDEMPOTENCY_KEY in call.request.headers or not settings.cold_start_wait_ms:
        return False
    if call.cold_until_ns and runtime.clock.mono_ns() >= call.cold_until_ns:
        return False
    return runtime.cold < settings.cold_start_calls_max


class ColdStart:
    """The exchange of such a call. Once it runs, what the caller does reaches the run."""

    def __init__(
        self,
        call: Call,
        runtime: Runtime,
        error: EngineStarting,
        again: Callable[[Call, Runtime], Exchange | None],
        refuse: Callable[[Call, InterlockError, Runtime], None],
    ) -> None:
        """`again` takes the call through the stages once more; `refuse` answers with an error. One of them is called,
        once; `error` is what is answered when the wait is over."""
        self._call = call
        self._runtime = runtime
        self._error = error
        self._again = again
        self._refuse = refuse
        self._exchange: Exchange | None = None
        self._paused = False
        self._over = False

    def begin(self) -> None:
        """Wait."""
        call, runtime = self._call, self._runtime
        if not call.cold_until_ns:
            call.cold_until_ns = runtime.clock.mono_ns() + runtime.settings.cold_start_wait_ms * 1_000_000
        runtime.waiting.add(self)
        runtime.cold += 1

    def sweep(self, now_ns: int) -> None:
        """Begin again when an engine is ready, or gone for good; refuse the call when it has waited for too long."""
        if now_ns >= self._call.cold_until_ns:
            self._runtime.metrics.cold_waits.add(("refused",))
            self.end(self._error)
        elif self._changed(now_ns):
            self._leave()
            self._runtime.metrics.cold_waits.add(("resumed",))
            exchange = self._exchange = self._again(self._renewed(), self._runtime)
            if self._paused and exchange is not None:
                exchange.on_pause()

    def _changed(self, now_ns: int) -> bool:
        """Whether one of the engines can take the call, or none is on its way any more."""
        links, board = self._runtime.state.links, self._runtime.board
        coming = False
        for source_id in self._error.sources:
            link = links.get(source_id)
            if link is None or link.source.drained:
                continue
            state = link.source.engine_state
            if state == EngineState.ready:
                if board.reading(link.row, now_ns).healthy and board.open_until(link.row) <= now_ns:
                    return True
                coming = True
            coming = coming or state in ENGINE_COLD
        return not coming

    def _renewed(self) -> Call:
        """The same call under the snapshot in force. What it was admitted with goes over to it."""
        old, runtime = self._call, self._runtime
        call = Call(old.operation, old.request, old.sink, runtime.state, old.epoch, old.number)
        call.wall_ns = runtime.clock.wall_ns()
        call.seed = old.seed
        call.admission, old.admission = old.admission, None
        call.reserved_tokens, call.limit_lines = old.reserved_tokens, old.limit_lines
        call.admitted = True
        call.cold_until_ns = old.cold_until_ns
        return call

    def end(self, error: InterlockError) -> None:
        """Refuse the call now."""
        if not self._over:
            self._leave()
            self._refuse(self._call, error, self._runtime)

    def on_disconnect(self) -> None:
        """See Exchange."""
        if self._exchange is not None:
            self._exchange.on_disconnect()
        elif not self._over:
            self._runtime.metrics.cold_waits.add(("gone",))
            self.end(ClientGone("The caller went away before the call was made."))

    def on_pause(self) -> None:
        """See Exchange."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.on_pause()

    def on_resume(self) -> None:
        """See Exchange."""
        self._paused = False
        if self._exchange is not None:
            self._exchange.on_resume()

    def _leave(self) -> None:
        self._over = True
        self._runtime.waiting.discard(self)
        self._runtime.cold -= 1
