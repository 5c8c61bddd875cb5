"""Calls that are made beside another one when that has ended: nobody waits for them, and their answers go to nobody.

Each is a call of its own: with its number, intent, attempts and outcome, and the id of the call that it is beside. It
begins when the first one's caller has got everything, so that it delays nothing and has an answer to work with. It
passes policy and routing like any other, in the name of that caller and under the snapshot of then, and counts on no
limits, and on no budgets but its own and those on its tenant as a whole. What cannot be sent is dropped and counted,
never waited for by anybody.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from interlock.errors import InterlockError, LogError
from interlock.gateway.http.exchange import unchunked
from interlock.gateway.run import Run
from interlock.gateway.stages.authorize import authorize
from interlock.gateway.stages.budget import affordable, reserve
from interlock.gateway.stages.record import record_intent
from interlock.gateway.stages.route import route
from interlock.gateway.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interlock.gateway.attempt import Attempt
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers, Sink
    from interlock.gateway.relay import Relay
    from interlock.gateway.runtime import Runtime
    from interlock.types.record import Outcome
    from interlock.types.source import Offer

log = logging.getLogger("interlock.gateway")


class Dropped(InterlockError):
    """Why a call is not sent beside."""

    level = logging.INFO

    def __init__(self, why: str) -> None:
        super().__init__(f"Nothing was sent beside the call: {why}.", code=why)


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


class Beside(ABC):
    """What a call has besides: told when the call has ended and its caller has been told."""

    @abstractmethod
    def over(self, attempt: Attempt | None) -> None:
        """`attempt`: the one that answered, or failed last; None when there was none."""


class Both(Beside):
    """Two of them."""

    def __init__(self, one: Beside, other: Beside) -> None:
        self._each = one, other

    def over(self, attempt: Attempt | None) -> None:
        """See Beside."""
        for each in self._each:
            each.over(attempt)


class Aside(ABC):
    """One call that is made beside another. Who inherits says what it asks, and what becomes of its answer."""

    kind = ""
    """Of the budgets that are its own."""

    def __init__(self, first: Call, runtime: Runtime, dropped: Callable[[str], None]) -> None:
        """`dropped` counts why it is not made."""
        self._first = first
        self._runtime = runtime
        self._dropped = dropped

    @abstractmethod
    def make(self) -> Call:
        """The call, resolved, in the name of the first one's caller. Raises what refuses it."""

    def may_answer(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Of the candidates those that may answer it. Raises Dropped when there is none."""
        return offers

    @abstractmethod
    def heard(self, run: Run, kept: Copy) -> None:
        """Its answer is here: put into the run what its outcome is to say of it."""

    @abstractmethod
    def ended(self, outcome: Outcome) -> None:
        """It has ended: count it."""

    @abstractmethod
    def done(self) -> None:
        """Nothing more is to be done for it."""

    def drop(self, reason: str) -> None:
        """Give it up, and count why."""
        self._dropped(reason)
        self.done()

    def soon(self) -> None:
        """Begin when what is under way is done."""
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        try:
            self._launch()
        except InterlockError as error:
            self.drop(error.code)
        except Exception:
            log.exception("call beside not begun", extra={"request_id": self._first.id})
            self.drop("defect")

    def _launch(self) -> None:
        """The stages, as far as such a call passes them. Raises what refuses it."""
        runtime = self._runtime
        if runtime.draining:
            raise Dropped("draining")
        if runtime.log.refusal is not None:
            raise runtime.log.refusal
        if len(runtime.runs) + len(runtime.waiting) >= runtime.settings.calls_max:
            raise Dropped("overloaded")
        call = self.make()
        authorize(call, runtime)
        route(call, runtime)
        self._narrow(call)
        assert call.identity is not None  # noqa: S101 - `make`
        if call.identity.budgets:
            short = reserve(call, runtime)
            if short is not None:
                Waiting(call, runtime, self._run, lambda _call, error, _runtime: self.drop(error.code)).begin(short)
                return
        self._run(call, runtime)

    def _narrow(self, call: Call) -> None:
        """Leave out candidates that may not answer. Without a budget of its own the call may go only where it costs
        nothing. Raises Dropped."""
        assert call.identity is not None  # noqa: S101 - `make`
        offers = affordable(call)
        left = list(self.may_answer(offers))
        if not any(budget.kind == self.kind for budget in call.identity.budgets):
            left = self._free_only(call, left)
        if len(left) < len(offers):
            call.affordable = frozenset(offer.key for offer in left)

    def _free_only(self, call: Call, offers: list[Offer]) -> list[Offer]:
        left = free(call, offers)
        if not left:
            raise Dropped("no_budget")
        return left

    def _run(self, call: Call, runtime: Runtime) -> Run | None:
        try:
            record_intent(call, runtime.log)
        except LogError as error:
            if call.hold is not None:
                runtime.treasury.release(call.hold)
            self.drop(error.code)
            return None
        run = AsideRun(call, runtime, self)
        try:
            run.begin()
        except Exception:
            log.exception("call beside not begun", extra={"request_id": call.id})
            run.cut(Dropped("defect"))
        return run


def free(call: Call, offers: Sequence[Offer]) -> list[Offer]:
    """The offers at which a call as large as this one costs nothing."""
    features, links = call.features, call.state.links
    assert features is not None  # noqa: S101 - it was resolved
    prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
    return [o for o in offers if not links[o.source.id].meters(o).rates.bound(prompt, completion).nusd]


class AsideRun(Run):
    """The exchange of such a call: its answer goes to nobody."""

    def __init__(self, call: Call, runtime: Runtime, of: Aside) -> None:
        super().__init__(call, runtime)
        self._aside = of

    def _heard(self, relay: Relay | None, body: bytes) -> None:
        sink = self.call.sink
        if isinstance(sink, Copy):
            sink.write(relay.unsent() + relay.held if relay is not None else body)
            self._aside.heard(self, sink)

    def _count(self, outcome: Outcome, first_ns: int) -> None:
        self._aside.ended(outcome)
        super()._count(outcome, first_ns)

    def _leave(self) -> None:
        super()._leave()
        self._aside.done()
