"""Calls that are also sent to their alias's shadow, whose answer nobody but the comparison sees.

A shadow call is a call of its own beside the first (see `interlock.gateway.aside`), with `shadow_of` the call that it
is compared with. A call with an idempotency key has no shadow: its answer is kept for others already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.gateway.aside import Aside, Beside, Copy, Dropped
from interlock.gateway.call import Call
from interlock.gateway.compare import compare, said
from interlock.gateway.http.exchange import Request
from interlock.gateway.idempotency import IDEMPOTENCY_KEY
from interlock.gateway.stages.resolve import stand_for
from interlock.metering.book import TenantBook
from interlock.routing.canary import SHADOW, shadowed
from interlock.types.identity import Workload

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.run import Run
    from interlock.gateway.runtime import Runtime
    from interlock.types.record import Comparison, Outcome

OPERATIONS = frozenset(("chat", "completions"))


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
    call.beside = Shadowed(call, runtime)


class Shadowed(Aside, Beside):
    """One call and its shadow, until both are over."""

    kind = "shadow"

    def __init__(self, first: Call, runtime: Runtime) -> None:
        super().__init__(first, runtime, lambda reason: runtime.metrics.shadows_dropped.add((reason,)))
        self._most = runtime.settings.shadow_answer_bytes_max
        first.answer = self._answer = Copy(self._most, first.answer)
        runtime.shadows.add(self)

    def over(self, attempt: Attempt | None) -> None:  # noqa: ARG002 - a shadow asks the same, whoever answered
        """See Beside."""
        self._first.beside = None
        if not self._answer.whole:
            self.done()
        elif self._answer.larger:
            self.drop("answer_too_large")
        else:
            self.soon()

    def done(self) -> None:
        """See Aside."""
        self._runtime.shadows.discard(self)

    def heard(self, run: Run, kept: Copy) -> None:
        """See Aside."""
        run.compared = self._compare(kept)

    def ended(self, outcome: Outcome) -> None:
        """See Aside."""
        self._runtime.metrics.shadow_calls.add((outcome.state,))

    def _compare(self, kept: Copy) -> Comparison | None:
        """How the shadow's answer compares; None when it is too large or cannot be read."""
        assert self._first.parsed is not None  # noqa: S101 - it ran
        streamed = self._first.parsed.stream
        if kept.larger:
            return None
        first, other = (said(each.data, streamed=streamed) for each in (self._answer, kept))
        return None if first is None or other is None else compare(first, other)

    def make(self) -> Call:
        """What its caller asked, under the snapshot that holds now. See Aside."""
        first, runtime, state = self._first, self._runtime, self._runtime.state
        identity = first.identity
        assert identity is not None and first.alias is not None  # noqa: S101 - it ran
        alias = state.view.catalog(identity.tenant_id).aliases.get(first.alias.name)
        if alias is None or alias.shadow != first.alias.shadow:
            raise Dropped("changed")
        book = state.view.book.of(identity.tenant_id)
        call = again(first, runtime, Copy(self._most))
        call.shadow_of = first.id
        call.identity = identity._replace(
            budgets=book.of_shadow(identity.tenant_id, alias.name), book=TenantBook(book.zone)
        )
        call.alias = alias
        stand_for(call, None, SHADOW)
        if call.target is None or call.target.canary != SHADOW:
            raise Dropped("changed")
        return call


def again(first: Call, runtime: Runtime, kept: Copy) -> Call:
    """A call of its own that asks what `first` asked, under the snapshot that holds now. `kept` takes its answer. It
    has no identity, alias and target yet."""
    asked, features, parsed = first.request, first.features, first.parsed
    assert features is not None and parsed is not None  # noqa: S101 - it ran
    request = Request(asked.method, asked.path, {}, asked.body, asked.peer, runtime.clock.mono_ns())
    log = runtime.log
    call = Call(first.operation, first.face, request, kept, runtime.state, log.epoch, log.next_call())
    call.unasked = True
    call.wall_ns = runtime.clock.wall_ns()
    call.seed = runtime.seed(call.number)
    # In the pivot, whatever the caller speaks: that is what can be compared.
    call.parsed = msgspec.structs.replace(parsed, native=None) if parsed.native else parsed
    call.data_class = first.data_class
    call.workload = Workload.background  # whoever waits for an answer comes first
    call.recording, call.request_class = first.recording, first.request_class
    call.completion_tokens_max = first.completion_tokens_max
    call.features = msgspec.structs.replace(features, slo=None) if features.slo is not None else features
    call.reserved_tokens = features.prompt_tokens_max + features.completion_tokens_max
    return call
