"""One call on its way: what each stage has found out. Fields are filled in the order of the stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.types.record import request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.gateway.http.exchange import Request, Sink
    from interlock.gateway.identify import Identity
    from interlock.gateway.state import State
    from interlock.metering.limits import Admission
    from interlock.types.decision import Authorization, RouteDecision
    from interlock.types.identity import DataClass
    from interlock.types.request import Features, Target
    from interlock.types.snapshot import Alias
    from interlock.types.source import Offer
    from interlock.wire.openai import Parsed


class Call:
    """What is known of one call. `state` is the snapshot it began with and keeps to its end.

    `number` is the call's number in its worker's epoch; `id` is what the caller sees.
    """

    __slots__ = (
        "admission",
        "admission_headers",
        "alias",
        "authorization",
        "completion_tokens_max",
        "data_class",
        "epoch",
        "features",
        "id",
        "identity",
        "intent_seq",
        "number",
        "offers",
        "operation",
        "parsed",
        "request",
        "reserved_tokens",
        "route",
        "seed",
        "sink",
        "started_ns",
        "state",
        "target",
        "trace_id",
        "wall_ns",
    )

    def __init__(self, operation: str, request: Request, sink: Sink, state: State, epoch: str, number: int) -> None:
        self.operation = operation
        self.request = request
        self.sink = sink
        self.state = state
        self.epoch = epoch
        self.number = number
        self.id = request_id(epoch, number)
        self.started_ns = request.received_ns
        self.wall_ns = 0
        self.seed = 0
        self.trace_id = ""
        self.identity: Identity | None = None
        self.parsed: Parsed | None = None
        self.target: Target | None = None
        self.alias: Alias | None = None
        self.data_class: DataClass | None = None
        self.completion_tokens_max = 0
        self.features: Features | None = None
        self.offers: tuple[Offer, ...] = ()
        self.authorization: Authorization | None = None
        self.reserved_tokens = 0
        self.admission: Admission | None = None
        self.admission_headers: Callable[[], list[tuple[str, str]]] | None = None
        self.route: RouteDecision | None = None
        self.intent_seq = -1

    def id_headers(self) -> bytes:
        """The answer's header lines that carry the request id, for us and for clients that look for the usual name."""
        value = self.id.encode()
        return b"x-request-id: %b\r\nx-interlock-request-id: %b\r\n" % (value, value)
