"""route: the ordered candidates, from what is known of the sources right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.routing.choose import decide
from interlock.routing.explain import no_candidate

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.types.source import LoadReading


def route(call: Call, runtime: Runtime) -> None:
    """Fill `call.route`. Raises NoCandidate when no allowed source can answer."""
    features, target, authorization = call.features, call.target, call.authorization
    assert features is not None and target is not None and authorization is not None  # noqa: S101 - stage order
    allowed = authorization.allowed
    offers = call.offers
    if len(allowed) != len(offers):
        permitted = frozenset(allowed)
        offers = tuple(offer for offer in offers if offer.key in permitted)
    now_ns = runtime.clock.mono_ns()
    board = runtime.board
    links = call.state.links
    readings: dict[str, LoadReading] = {}
    open_breakers: list[str] = []
    for offer in offers:
        source_id = offer.source.id
        if source_id not in readings:
            row = links[source_id].row
            readings[source_id] = board.reading(row, now_ns)
            if board.open_until(row) > now_ns:
                open_breakers.append(source_id)
    decision = decide(
        features,
        target,
        offers,
        readings,
        open_breakers=open_breakers,
        latencies=runtime.latencies,
        candidates_max=runtime.settings.candidates_max,
        router_version=call.state.view.router_version,
        seed=call.seed,
    )
    call.route = decision
    if not decision.candidates:
        raise no_candidate(decision)
