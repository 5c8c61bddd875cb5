"""Calls that are also sent to their alias's shadow, whose answer nobody but the comparison sees.

A shadow call is a call of its own: with its number, intent, attempts and outcome, and `shadow_of` the call that it is
compared with. It begins when the caller has got everything, so that it delays nothing and has an answer to be
compared with. It passes policy and routing like any other, in the name of its caller and under the snapshot of then,
and counts on no limits, and on no budgets but its own and those on its tenant as a whole. What cannot be sent is
dropped and counted, never waited for by anybody. A call with an idempotency key has no shadow: its answer is kept for
others already.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import InterlockError, LogError
from interlock.gateway.call import Call
from interlock.gateway.compare import compare, said
from interlock.gateway.http.exchange import Request, unchunked
from interlock.gateway.idempotency import IDEMPOTENCY_KEY
from interlock.gateway.run import Run
from interlock.gateway.stages.authorize import authorize
from interlock.gateway.stages.budget import affordable, reserve
from interlock.gateway.stages.record import record_intent
from interlock.gateway.stages.resolve import stand_for
from interlock.gateway.stages.route import route
from interlock.gateway.waiting import Waiting
from interlock.metering.book import TenantBook
from interlock.routing.canary import SHADOW, shadowed
from interlock.types.identity import Workload

if TYPE_CHECKING:
    from interlock.gateway.http.exchange import Headers, Sink
    from interlock.gateway.runtime import Runtime
    from interlock.types.record import Comparison, Outcome
    from interlock.types.usage import Usage

log = logging.getLogger("interlock.gateway")

OPERATIONS = frozenset(("chat", "completions"))


class Dropped(InterlockError):
    """Why a call is not sent to its shadow."""

    level = logging.INFO

    def __init__(self, why: str) -> None:
        super().__init__(f"The shadow was not sent its call: {why}.", code=why)


class Copy:
    """A sink that keeps what it takes, at most `most` bytes, and hands it on to another one, if there is one."""

    def __init__(self, most: int, to: Sink | None = None) -> None:
        self.whole = False
        """An answer was given to its end."""
        self.larger = False
        """It was larger than is kept."""
        self._to = to
        self._parts: list[bytes] = []
        self._room = most

    @property
    def data(self) -> bytes:
        """What was kept."""
        return b"".join(self._parts)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink."""
        if status == 200:
            self.whole = True
            self._keep(body)
        if self._to is not None:
            self._to.respond(status, headers, body)

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        if self._to is not None:
            self._to.start(status, headers)

    def write(self, data: bytes) -> None:
        """See Sink."""
        self._keep(data)
        if self._to is not None:
            self._to.write(data)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        if not self.larger:
            self._keep(unchunked(chunks))
        if self._to is not None:
            self._to.write_chunks(chunks)

    def end(self) -> None:
        """See Sink."""
        self.whole = True
        if self._to is not None:
            self._to.end()

    def abort(self) -> None:
        """See Sink."""
        if self._to is not None:
            self._to.abort()

    def _keep(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self.larger = True
            self._parts.clear()
        else:
            self._parts.append(data)


def beside(call: Call, runtime: Runtime) -> None:
    """See to it that a call which is about to run goes to its alias's shadow too, if it is drawn and there is room."""
    alias = call.alias
    if alias is None or alias.shadow is None or call.operation not in OPERATIONS:
        return
    if not shadowed(alias.shadow, call.seed) or IDEMPOTENCY_KEY in call.request.headers:
        return
    if len(runtime.shadows) >= runtime.settings.shadows_max:
        runtime.metrics.shadows_dropped.add(("saturated",))
        return
    call.beside = Beside(call, runtime)


class Beside:
    """One call and its shadow, until both are over."""

    def __init__(self, first: Call, runtime: Runtime) -> None:
        self._first = first
        self._runtime = runtime
        self._most = runtime.settings.shadow_answer_bytes_max
        first.answer = self._answer = Copy(self._most, first.answer)
        runtime.shadows.add(self)

    def over(self) -> None:
        """The first call has ended, and its caller has been told."""
        self._first.beside = None
        if not self._answer.whole:
            self.done()
        elif self._answer.larger:
            self.drop("answer_too_large")
        else:
            asyncio.get_running_loop().call_soon(self._begin)

    def done(self) -> None:
        """Nothing more is to be done here."""
        self._runtime.shadows.discard(self)

    def drop(self, reason: str) -> None:
        """Give the shadow up, and count why."""
        self._runtime.metrics.shadows_dropped.add((reason,))
        self.done()

    def compare(self, kept: Copy) -> Comparison | None:
        """How the shadow's answer compares; None when it is too large or cannot be read."""
        assert self._first.parsed is not None  # noqa: S101 - it ran
        streamed = self._first.parsed.stream
        if kept.larger:
            return None
        first, other = (said(each.data, streamed=streamed) for each in (self._answer, kept))
        return None if first is None or other is None else compare(first, other)

    def _begin(self) -> None:
        try:
            self._launch()
        except InterlockError as error:
            self.drop(error.code)
        except Exception:
            log.exception("shadow not begun", extra={"request_id": self._first.id})
            self.drop("defect")

    def _launch(self) -> None:
        """The stages, as far as a shadow passes them. Raises what refuses it."""
        runtime = self._runtime
        if runtime.draining:
            raise Dropped("draining")
        if runtime.log.refusal is not None:
            raise runtime.log.refusal
        if len(runtime.runs) + len(runtime.waiting) >= runtime.settings.calls_max:
            raise Dropped("overloaded")
        call = self._call()
        stand_for(call, None, SHADOW)
        if call.target is None or call.target.canary != SHADOW:
            raise Dropped("changed")
        authorize(call, runtime)
        route(call, runtime)
        assert call.identity is not None  # noqa: S101 - `_call`
        if not any(budget.kind == "shadow" for budget in call.identity.budgets):
            self._free_only(call)
        if call.identity.budgets:
            short = reserve(call, runtime)
            if short is not None:
                Waiting(call, runtime, self._run, lambda _call, error, _runtime: self.drop(error.code)).begin(short)
                return
        self._run(call, runtime)

    def _call(self) -> Call:
        """The shadow's call: what its caller asked, under the snapshot that holds now."""
        first, runtime, state = self._first, self._runtime, self._runtime.state
        identity, features = first.identity, first.features
        assert identity is not None and features is not None and first.alias is not None  # noqa: S101 - it ran
        alias = state.view.catalog(identity.tenant_id).aliases.get(first.alias.name)
        if alias is None or alias.shadow != first.alias.shadow:
            raise Dropped("changed")
        asked, now_ns = first.request, runtime.clock.mono_ns()
        request = Request(asked.method, asked.path, {}, asked.body, asked.peer, now_ns)
        kept = Copy(self._most)
        call = Call(first.operation, first.face, request, kept, state, runtime.log.epoch, runtime.log.next_call())
        call.wall_ns = runtime.clock.wall_ns()
        call.seed = runtime.seed(call.number)
        call.shadow_of = first.id
        book = state.view.book.of(identity.tenant_id)
        call.identity = identity._replace(
            budgets=book.of_shadow(identity.tenant_id, alias.name), book=TenantBook(book.zone)
        )
        assert first.parsed is not None  # noqa: S101 - it ran
        # In the pivot, whatever the caller speaks: that is what can be compared.
        call.parsed = msgspec.structs.replace(first.parsed, native=None) if first.parsed.native else first.parsed
        call.alias, call.data_class = alias, first.data_class
        call.workload = Workload.background  # whoever waits for an answer comes first
        call.recording, call.request_class = first.recording, first.request_class
        call.completion_tokens_max = first.completion_tokens_max
        call.features = msgspec.structs.replace(features, slo=None) if features.slo is not None else features
        call.reserved_tokens = features.prompt_tokens_max + features.completion_tokens_max
        return call

    def _free_only(self, call: Call) -> None:
        """Without a budget of its own a shadow may go only where it costs nothing. Raises Dropped."""
        features, links = call.features, call.state.links
        assert features is not None  # noqa: S101 - `_call`
        prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
        offers = affordable(call)
        free = [o for o in offers if not links[o.source.id].meters(o).rates.bound(prompt, completion).nusd]
        if not free:
            raise Dropped("no_budget")
        call.affordable = frozenset(offer.key for offer in free)

    def _run(self, call: Call, runtime: Runtime) -> Run | None:
        try:
            record_intent(call, runtime.log)
        except LogError as error:
            if call.hold is not None:
                runtime.treasury.release(call.hold)
            self.drop(error.code)
            return None
        run = ShadowRun(call, runtime, self)
        try:
            run.begin()
        except Exception:
            log.exception("shadow not begun", extra={"request_id": call.id})
            run.cut(Dropped("defect"))
        return run


class ShadowRun(Run):
    """The exchange of a shadow's call: its answer is compared and goes nowhere."""

    def __init__(self, call: Call, runtime: Runtime, of: Beside) -> None:
        super().__init__(call, runtime)
        self._beside = of

    def _end(self, state: str, status: int, usage: Usage, **more: Any) -> None:
        sink = self.call.sink
        if state == "completed" and isinstance(sink, Copy):
            relay = more.get("relay")
            if relay is not None:
                sink.write(relay.unsent() + relay.held)
            else:
                sink.write(more["body"])
            self.compared = self._beside.compare(sink)
        super()._end(state, status, usage, **more)

    def _count(self, outcome: Outcome, first_ns: int) -> None:
        self.runtime.metrics.shadow_calls.add((outcome.state,))
        super()._count(outcome, first_ns)

    def _leave(self) -> None:
        super()._leave()
        self._beside.done()
