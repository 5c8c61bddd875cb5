"""One call on its way: what each stage has found out. Fields are filled in the order of the stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import InterlockError
from interlock.types.identity import Workload
from interlock.types.record import request_id
from interlock.types.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.gateway.aside import Beside
    from interlock.gateway.canary import Trial
    from interlock.gateway.faces.base import Face
    from interlock.gateway.http.exchange import Request, Sink
    from interlock.gateway.identify import Identity
    from interlock.gateway.receipts import Promise
    from interlock.gateway.state import State
    from interlock.gateway.treasury import Hold
    from interlock.gateway.turn import Turn
    from interlock.metering.limits import Admission
    from interlock.types.decision import Authorization, RouteDecision, Tried
    from interlock.types.identity import DataClass
    from interlock.types.record import Work
    from interlock.types.request import Features, Target
    from interlock.types.slo import Slo
    from interlock.types.snapshot import Alias
    from interlock.types.source import Offer
    from interlock.wire.openai import Parsed


PIECES_UNBOUNDED = 1 << 62
PIECES_SPARE = 8
"""Events of a stream that hold no token, as some clouds send them before the text."""


class Call:
    """What is known of one call. `state` is the snapshot it began with and keeps to its end.

    `number` is the call's number in its worker's epoch; `id` is what the caller sees. `sink` is the caller's side, in
    the dialect of `face`; `answer` takes the answer in the pivot (see `interlock.wire.speech`).
    """

    wall_ns = 0
    seed = 0
    trace_id = ""
    identity: Identity | None = None
    parsed: Parsed | None = None
    target: Target | None = None
    alias: Alias | None = None
    trial: Trial | None = None
    """Of an alias with a running canary."""
    shadow_of = ""
    """Of a shadow: the id of the call that it is compared with."""
    judge_of = judge_against = challenger_of = ""
    """Of what is asked of a judge, and of a challenger: see Intent."""
    unasked = False
    """It is one of these: nobody asked for it, and nobody waits for it."""
    beside: Beside | None = None
    """What becomes of it at its alias's shadow, and at its tenant's judge."""
    data_class: DataClass | None = None
    completion_tokens_max = 0
    features: Features | None = None
    offers: tuple[Offer, ...] = ()
    authorization: Authorization | None = None
    allowed: tuple[Offer, ...] = ()
    trials: tuple[Tried, ...] = ()
    reserved_tokens = 0
    admission: Admission | None = None
    limit_lines: Callable[[], bytes] | None = None
    route: RouteDecision | None = None
    slo: Slo | None = None
    """What it asks of where it goes, by itself and by its alias."""
    affordable: frozenset[str] | None = None
    """Offers that its budgets, and its objectives where these are strict, allow; None: all candidates."""
    hold: Hold | None = None
    cold_until_ns = 0
    """Until when it waits for an engine that is starting; 0: it does not."""
    admitted = False
    """It was admitted before it waited for an engine."""
    begun = False
    """The head of its stream has left while it waited so: what is told from here on is told in the stream."""
    charged: bool | None = None
    """A source has worked on it, or may have; None: it is not settled."""
    intent_seq = -1
    request_class = ""
    work: Work | None = None
    """What it is a part of, in the caller's words."""
    receipt: Promise | None = None
    """A receipt that the caller asked for."""
    turn: Turn | None = None
    """What it is in its conversation, in the Responses dialect."""
    recording = -1
    """What of it is kept (`Recording`); -1 before that is known."""
    workload = Workload.interactive

    def __init__(
        self, operation: str, face: Face, request: Request, sink: Sink, state: State, epoch: str, number: int
    ) -> None:
        self.operation = operation
        self.face = face
        self.request = request
        self.sink = self.answer = sink
        self.state = state
        self.epoch = epoch
        self.number = number
        self.id = request_id(epoch, number)
        self.started_ns = request.received_ns

    def offer(self, key: str) -> Offer:
        """The allowed offer that a candidate names."""
        for offer in self.allowed:
            if offer.key == key:
                return offer
        raise KeyError(key)

    def unknown_usage(self) -> Usage:
        """What the call is charged when nobody tells what it used: all that it was admitted with."""
        features = self.features
        if features is None:
            return Usage(0, 0, 0, "reserved")
        return Usage(features.prompt_tokens_max, 0, features.completion_tokens_max, "reserved")

    def defect(self) -> InterlockError:
        """What is told of a defect of ours: a plain 500, without what it was."""
        return InterlockError(f"Interlock failed on this request; quote {self.id} to report it.")

    def pieces_max(self) -> int:
        """Pieces of streamed text after which a source has said more than its bound: each is a token at least. Only
        where a budget counts on the bound."""
        if self.hold is None or self.features is None:
            return PIECES_UNBOUNDED
        return self.features.completion_tokens_max + PIECES_SPARE

    def id_headers(self) -> bytes:
        """The answer's header lines that carry the request id, for us and for clients that look for the usual name."""
        value = self.id.encode()
        lines = b"x-request-id: %b\r\nx-interlock-request-id: %b\r\n" % (value, value)
        return lines if self.face.name == "openai" else b"%brequest-id: %b\r\n" % (lines, value)
