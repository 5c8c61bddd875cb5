"""A call in the Responses dialect as one turn of a conversation: what it goes on from, and whether it is stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import BadRequest, InterlockError, LimitExceeded, Unavailable
from interlock.gateway.http.exchange import Request
from interlock.gateway.link import StateAnswer
from interlock.gateway.states import SEALED_MAX, Owner, StateKey, Stored, owner_of
from interlock.gateway.waiting import ClientGone
from interlock.ledger.vault import VaultError
from interlock.types.identity import DataClass, Recording
from interlock.wire.responses import request as responses
from interlock.wire.responses.answer import Ids

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Exchange
    from interlock.gateway.link import StatePart
    from interlock.gateway.runtime import Runtime

SECONDS_PER_DAY = 86_400
PREVIOUS = "previous_response_id"
ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
"""What may be the id of a response."""
SHOWN_MAX = 128
"""Characters of another id that an error repeats."""
SHRINKS_MAX = 16
"""A response that would have to shrink to less than 1/16 to be stored is not tried: compressing takes its time."""


class Turn:
    """One turn. `items`: what this call adds to the conversation; `data_class`: of what it goes on from; `store`: the
    response is to be stored, `insists`: because the request says so."""

    echo: dict[str, Any]
    """What the response says of its request."""
    key: StateKey | None = None
    data_class = DataClass.public

    def __init__(self, call: Call, runtime: Runtime, head: responses.Head) -> None:
        assert call.identity is not None  # noqa: S101 - stage order
        settings = runtime.settings
        self.runtime = runtime
        self.owner: Owner = owner_of(call.identity)
        self.items = [bytes(item) for item in head.items]
        self.previous = head.previous
        stem = call.id.removeprefix("req_")
        self.ids = Ids(f"resp_{stem}_{runtime.states.tag(call.id)}", stem)
        self.insists = head.store is True
        possible = settings.responses_keep_days > 0
        if self.insists and not possible:
            raise BadRequest("Responses are not stored here; send store: false.", code="store_off", param="store")
        self.store = possible and (settings.responses_store_default > 0 if head.store is None else head.store)

    def settle(self, call: Call) -> None:
        """What is kept of the call is known: where its content is not, it is not stored either. Raises BadRequest."""
        if self.store and call.recording != Recording.full:
            if self.insists:
                kept = Recording(call.recording).name
                raise BadRequest(
                    f"A call of which only {kept} is recorded cannot be stored; send store: false.",
                    code="store_not_recorded",
                    param="store",
                )
            self.store = False

    def keep_s(self, call: Call) -> int:
        """How long the response is kept, seconds: as the settings say, and no longer than the tenant keeps contents."""
        tenant = call.state.view.tenant(self.owner.tenant_id)
        days = self.runtime.settings.responses_keep_days
        if tenant is not None and tenant.retention is not None and call.data_class is not None:
            limit = tenant.retention.days(call.data_class)
            days = min(days, limit) if limit else days
        return days * SECONDS_PER_DAY


def recall(
    call: Call,
    runtime: Runtime,
    go: Callable[[Call, Runtime], Exchange | None],
    refuse: Callable[[Call, InterlockError, Runtime], None],
) -> Exchange | None:
    """Fill `call.turn`, and make the call's request whole: the conversation that it goes on with is put before its own
    input. `go` takes the call on, at once when nothing of the kind is asked for. Raises BadRequest."""
    head = responses.head(call.request.body)
    turn = call.turn = Turn(call, runtime, head)
    if not turn.store and not turn.previous:
        return go(call, runtime)
    if turn.previous and not ID.fullmatch(turn.previous):
        raise _not_found(turn.previous)
    try:
        room(runtime, turn.owner)
    except (LimitExceeded, Unavailable):
        if turn.insists or turn.previous:
            raise
        turn.store = False  # nobody asked for it in words
        return go(call, runtime)
    recalling = Recalling(call, turn, head, go, refuse)
    recalling.begin()
    return recalling


def room(runtime: Runtime, owner: Owner) -> None:
    """Raise when too much waits for stored responses already: LimitExceeded when it is the owner's, Unavailable when it
    is everybody's, or the worker is stopping."""
    if runtime.draining:
        raise Unavailable("This gateway is shutting down; try again.", code="draining")
    if runtime.states.waiting_of(owner) >= runtime.settings.responses_waiting_own_max:
        raise LimitExceeded(
            "Too many of your calls wait for stored responses; try again.", headers={"retry-after": "1"}
        )
    busy = len(runtime.runs) + len(runtime.waiting) >= runtime.settings.calls_max
    if busy or runtime.states.waiting >= runtime.settings.responses_waiting_max:
        raise Unavailable(
            "Too many calls wait for stored responses; try again.", code="overloaded", headers={"retry-after": "1"}
        )


class Recalling:
    """The exchange of a call that waits for what it goes on from. Once that is there, what the caller does reaches what
    has become of the call."""

    def __init__(
        self,
        call: Call,
        turn: Turn,
        head: responses.Head,
        go: Callable[[Call, Runtime], Exchange | None],
        refuse: Callable[[Call, InterlockError, Runtime], None],
    ) -> None:
        """`go` takes the call on; `refuse` answers with an error. One of them is called, once."""
        self._call = call
        self.call_number = call.number
        self._turn = turn
        self._head = head
        self._go = go
        self._refuse = refuse
        self._runtime = runtime = turn.runtime
        self._exchange: Exchange | None = None
        self._paused = False
        self._over = False
        self._number = 0
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.responses_wait_ms * 1_000_000

    def begin(self) -> None:
        """Ask for it."""
        runtime, turn = self._runtime, self._turn
        runtime.waiting.add(self)
        self._number = runtime.states.want(turn.owner, turn.previous, self, alone=False, make_key=turn.store)

    def told(self) -> tuple[Call, str]:
        """See Waits."""
        return self._call, "the conversation that it goes on with"

    def answered(self, answer: StateAnswer, parts: list[StatePart]) -> None:
        """What there is."""
        if self._over:
            return
        try:
            result = self._take(answer, parts)
        except InterlockError as error:
            self._count(error.code)
            self.end(error)
            return
        self._count(result)
        self._leave()
        self._call.wall_ns = self._runtime.clock.wall_ns()  # it is admitted when it is whole
        exchange = self._exchange = self._go(self._call, self._runtime)
        if self._paused and exchange is not None:
            exchange.on_pause()

    def sweep(self, now_ns: int) -> None:
        """Give up after a while."""
        if now_ns >= self._deadline_ns and not self._over:
            self._runtime.states.forget(self._number)
            self.answered(_unavailable_answer(self._runtime), [])

    def end(self, error: InterlockError) -> None:
        """Refuse the call now."""
        if not self._over:
            self._leave()
            self._runtime.states.forget(self._number)
            self._refuse(self._call, error, self._runtime)

    def on_disconnect(self) -> None:
        """See Exchange."""
        if self._exchange is not None:
            self._exchange.on_disconnect()
        else:
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

    def _take(self, answer: StateAnswer, parts: list[StatePart]) -> str:
        """Make the call whole. Returns what is counted."""
        turn, runtime = self._turn, self._runtime
        try:
            turn.key = runtime.states.key(turn.owner, answer)
        except VaultError:
            answer = _unavailable_answer(runtime)
        if turn.store and (turn.key is None or answer.state == "unavailable"):
            if turn.insists:
                raise unavailable()
            turn.store = False
        if not turn.previous:
            return "found" if turn.store else "unavailable"
        if answer.state == "unavailable":
            raise unavailable()
        if answer.state == "broken":
            raise _not_found(turn.previous, "a response that it goes on from was deleted, or has expired")
        if answer.state == "too_long":
            raise _too_long("more stored responses, or larger ones, than are read")
        if answer.state != "found" or turn.key is None:
            raise _not_found(turn.previous)
        self._go_on_from(turn.key, parts)
        return "found"

    def _go_on_from(self, key: StateKey, parts: list[StatePart]) -> None:
        call, turn, settings = self._call, self._turn, self._runtime.settings
        items: list[msgspec.Raw] = []
        size = len(call.request.body)
        for part in parts:
            try:
                stored = key.open(part, settings.body_bytes_max + settings.response_bytes_max)
            except VaultError:
                raise unavailable() from None
            answer = msgspec.json.decode(stored.response, type=_Answer)
            added = [msgspec.Raw(item) for item in stored.items] + answer.output
            size += sum(len(memoryview(item)) for item in added)
            if size > settings.body_bytes_max:
                raise _too_long(f"more than {settings.body_bytes_max} bytes")
            items += added
            turn.data_class = max(turn.data_class, DataClass(stored.data_class))
        before = call.request
        body = responses.with_items(self._head.fields, items + self._head.items)
        call.request = Request(
            before.method, before.path, before.headers, body, before.peer, before.received_ns, before.head
        )

    def _count(self, result: str) -> None:
        self._runtime.metrics.responses.add(("recall", result))

    def _leave(self) -> None:
        self._over = True
        self._runtime.waiting.discard(self)


class _Answer(msgspec.Struct):
    """Of a response what its conversation goes on from."""

    output: list[msgspec.Raw]


class Keeping:
    """A response on its way to be stored, before the end of its answer leaves. `done` is called once, with whether it
    is stored."""

    call_number = 0

    def __init__(self, call: Call, turn: Turn, done: Callable[[bool], None]) -> None:
        self._call = call
        self._turn = turn
        self._done = done
        self._runtime = runtime = turn.runtime
        self._over = False
        self._number = 0
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.responses_wait_ms * 1_000_000

    def begin(self, response: bytes) -> None:
        """Seal it and send it. `response`: as JSON."""
        call, turn, runtime = self._call, self._turn, self._runtime
        assert turn.key is not None and call.data_class is not None  # noqa: S101 - what is stored has a key
        most = min(runtime.settings.responses_bytes_max, SEALED_MAX)
        if len(response) + sum(map(len, turn.items)) > most * SHRINKS_MAX:
            self._finish("too_large")
            return
        stored = Stored(int(max(call.data_class, turn.data_class)), turn.items, response)
        sealed = turn.key.seal(turn.ids.response, turn.previous, stored)
        if len(sealed) > most:
            self._finish("too_large")
            return
        runtime.waiting.add(self)
        self._number = runtime.states.keep(
            turn.owner, turn.ids.response, turn.previous, turn.key, sealed, turn.keep_s(call), self
        )

    def answered(self, answer: StateAnswer, parts: list[StatePart]) -> None:  # noqa: ARG002 - there are none
        """What came of it."""
        self._finish(answer.state)

    def sweep(self, now_ns: int) -> None:
        """Give up after a while."""
        if now_ns >= self._deadline_ns:
            self.end(unavailable())

    def end(self, error: InterlockError) -> None:
        """It is not stored, as far as we know."""
        self._runtime.states.forget(self._number)
        self._finish(error.code)

    def told(self) -> None:
        """See Waits: its call runs."""

    def _finish(self, result: str) -> None:
        if not self._over:
            self._over = True
            self._runtime.waiting.discard(self)
            self._runtime.metrics.responses.add(("keep", result))
            self._done(result == "kept")


def unavailable() -> Unavailable:
    """Stored responses cannot be had now."""
    return Unavailable(
        "Stored responses cannot be reached now; try again, or send the whole conversation with store: false.",
        code="responses_unavailable",
        headers={"retry-after": "1"},
    )


def _unavailable_answer(runtime: Runtime) -> StateAnswer:
    return StateAnswer(runtime.states.epoch, 0, "unavailable")


def _not_found(previous: str, why: str = "") -> BadRequest:
    words = f"Previous response with id {previous[:SHOWN_MAX]!r} not found"
    error = BadRequest(f"{words}: {why}." if why else f"{words}.", code="previous_response_not_found", param=PREVIOUS)
    error.status = 404
    return error


def _too_long(why: str) -> BadRequest:
    return BadRequest(f"The conversation has {why}; begin a new one.", code="conversation_too_long", param=PREVIOUS)
