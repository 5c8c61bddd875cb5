"""A call that waits for an engine which is starting, because no other source may take it.

It waits for at most `cold_start_wait_ms`, with at most `cold_start_calls_max` others, after all checks and within its
limits, and before its intent: nothing has been decided for it yet. When an engine it waits for is ready, it begins
again under the snapshot then in force, as if it had been asked just then: what was revoked meanwhile is refused. It
keeps its number, and what it was admitted with.

The caller of a stream gets comments meanwhile (`keepalive_comment_ms`), when a `Held` record is durable that says so;
from then on its call is refused in the stream. Of a call that has a receipt coming nothing leaves before its intent.

A call with an idempotency key does not wait so: whoever has one can ask again without being answered twice.

A call that was made already, and found that nothing listens where an engine of ours was (`Parked`), waits in the same
bounds, until its supervisor has said that the engine is down and then that it is ready; it is tried there again under
the snapshot that it began with. What an engine has seen of a call is not sent to it again: a request that crashes it
would do so each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.errors import LogError
from interlock.gateway.call import Call
from interlock.gateway.http.exchange import EVENT_STREAM
from interlock.gateway.idempotency import IDEMPOTENCY_KEY
from interlock.gateway.stages.record import record_held
from interlock.gateway.waiting import ClientGone
from interlock.types.source import ENGINE_COLD, EngineState

if TYPE_CHECKING:
    from interlock.errors import EngineStarting, InterlockError
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.http.exchange import Exchange, Headers, Sink
    from interlock.gateway.runtime import Runtime


def may_wait(call: Call, runtime: Runtime) -> bool:
    """Whether this call may wait for an engine."""
    settings = runtime.settings
    if IDEMPOTENCY_KEY in call.request.headers or not settings.cold_start_wait_ms:
        return False
    if call.cold_until_ns and runtime.clock.mono_ns() >= call.cold_until_ns:
        return False
    return runtime.cold < settings.cold_start_calls_max


UNSEEN_CODE = "connect_failed"
"""An attempt's failure of which the engine has seen nothing."""
NOTICE_NS = 3_000_000_000
"""How long it may take until everybody knows that an engine is down. If it is not said by then, it was not."""


class Parked:
    """A made call's wait for an engine that was there a moment ago."""

    def __init__(self, attempt: Attempt, runtime: Runtime, until_ns: int) -> None:
        self.attempt = attempt
        """The one that failed."""
        self.until_ns = until_ns
        self._runtime = runtime
        self._since_ns = runtime.clock.mono_ns()
        self._was_down = False
        runtime.cold += 1

    @classmethod
    def of(cls, attempt: Attempt, runtime: Runtime, until_ns: int) -> Parked | None:
        """The wait for the engine of a failed attempt, None when there is none to wait for. `until_ns`: of an earlier
        wait of the same call, else 0."""
        settings, now_ns = runtime.settings, runtime.clock.mono_ns()
        until_ns = until_ns or now_ns + settings.cold_start_wait_ms * 1_000_000
        if not attempt.link.source.engine_state or runtime.cold >= settings.cold_start_calls_max or now_ns >= until_ns:
            return None
        return cls(attempt, runtime, until_ns)

    def wish(self, now_ns: int) -> str:
        """ "": wait on; "again": the engine is there again; "over": it is not to be waited for any more."""
        link = self._runtime.state.links.get(self.attempt.link.source.id)
        if link is None or now_ns >= self.until_ns:
            return "over"
        state = link.source.engine_state
        if state == EngineState.ready:
            if not self._was_down:
                return "over" if now_ns - self._since_ns >= NOTICE_NS else ""
            board = self._runtime.board
            well = board.reading(link.row, now_ns).healthy and board.open_until(link.row) <= now_ns
            return "again" if well else ""
        self._was_down = True
        return "" if state in ENGINE_COLD else "over"

    def end(self) -> None:
        """It does not wait any more."""
        self._runtime.cold -= 1


class Begun:
    """A sink whose head has left."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.write = sink.write
        self.write_chunks = sink.write_chunks
        self.end = sink.end
        self.abort = sink.abort

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:  # noqa: ARG002
        """See Sink. What is no stream cannot be told any more: the caller sees that it has not got everything."""
        self._sink.abort()


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
        self.call_number = call.number
        self._runtime = runtime
        self._error = error
        self._again = again
        self._refuse = refuse
        self._exchange: Exchange | None = None
        self._paused = False
        self._over = False
        self._told = call.begun
        """It was asked, or need not be, whether comments may leave."""
        self._last_sent_ns = call.started_ns

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
        elif now_ns - self._last_sent_ns >= self._runtime.settings.keepalive_comment_ms * 1_000_000:
            self._keep_open()

    def _keep_open(self) -> None:
        """The caller has heard nothing for long. What is sent is durable first: that the call waits."""
        call, log = self._call, self._runtime.log
        if call.parsed is None or not call.parsed.stream or not call.face.keepalive or call.receipt is not None:
            return
        if call.begun and not self._paused:
            self._comment()
        elif not self._told:
            self._told = True
            with contextlib.suppress(LogError):  # which ends the wait itself
                log.on_durable(record_held(call, log), self._held)

    def _held(self, error: LogError | None) -> None:
        call = self._call
        if error is not None or self._over:
            return
        self._runtime.metrics.early_heads.add(("engine",))
        call.begun = True
        limits = call.limit_lines() if call.limit_lines is not None else b""
        call.sink.start(200, EVENT_STREAM + call.id_headers() + limits)
        call.sink = Begun(call.sink)
        self._comment()

    def _comment(self) -> None:
        self._call.sink.write(self._call.face.keepalive)
        self._last_sent_ns = self._runtime.swept_ns

    def told(self) -> tuple[Call, str]:
        """See Waits."""
        return self._call, "an engine that is starting"

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
        call = Call(old.operation, old.face, old.request, old.sink, runtime.state, old.epoch, old.number)
        call.wall_ns = runtime.clock.wall_ns()
        call.seed = old.seed
        call.admission, old.admission = old.admission, None
        call.reserved_tokens, call.limit_lines = old.reserved_tokens, old.limit_lines
        call.admitted, call.begun = True, old.begun
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
