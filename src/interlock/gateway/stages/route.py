"""route: the ordered candidates, from what is known of the sources right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.errors import EngineStarting, NoCandidate
from interlock.gateway.affinity import affinity_of
from interlock.gateway.stages.authorize import authorize
from interlock.gateway.stages.bar import barred
from interlock.routing.choose import decide
from interlock.routing.constraints import cold_sources
from interlock.routing.explain import no_candidate
from interlock.routing.facts import slate_of
from interlock.routing.slo import NO_PACES, refused, unmet, within
from interlock.routing.steps import decide_steps
from interlock.types.slo import tighter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.types.decision import RouteDecision
    from interlock.types.slo import Pace
    from interlock.types.source import LoadReading, Offer

COLD_RETRY_AFTER_S = 10
"""When to ask again for an engine that is starting: within what client libraries wait by themselves."""
TOGETHER = 5
"""From so many offers on, looking at their sources together is quicker than one by one (measured)."""


def route(call: Call, runtime: Runtime) -> None:
    """Fill `call.route`. Raises NoCandidate when no allowed source can answer, EngineStarting when one is about to."""
    target, offers, parsed = call.target, call.allowed, call.parsed
    estimates = runtime.learned.estimates(call) if len(offers) > 1 else None
    features = call.features
    assert features is not None and target is not None and parsed is not None  # noqa: S101 - stage order
    text_bytes_max = runtime.settings.placement_text_bytes_max
    if text_bytes_max and len(offers) > 1 and not features.affinity and slate_of(offers).replicated:
        affinity = affinity_of(call, text_bytes_max)
        features = call.features = msgspec.structs.replace(features, affinity=affinity)
    readings, open_breakers = _look(call, runtime, offers)
    decision = (decide_steps if target.steps else decide)(
        features,
        target,
        offers,
        readings,
        open_breakers=open_breakers,
        latencies=runtime.latencies,
        candidates_max=runtime.settings.candidates_max,
        estimates=estimates,
        seed=call.seed,
        placement=runtime.placement,
        paces=_paces(call, runtime) if features.slo is not None or target.slo is not None else NO_PACES,
    )
    call.route = decision
    if decision.candidates:
        if decision.foreseen:
            _hold(call, decision)
        if decision.placement is not None and decision.candidates[0].place:
            runtime.metrics.placements.add(("home" if decision.candidates[0].place == 1 else "away",))
        parsed.messages = ()
        return
    error = no_candidate(decision)
    if call.trial is not None and isinstance(error, NoCandidate):
        call.trial.failed(error.code)
    if not barred(call):
        raise _nowhere(error, decision, offers)
    authorize(call, runtime)
    route(call, runtime)


def _look(call: Call, runtime: Runtime, offers: Sequence[Offer]) -> tuple[dict[str, LoadReading], list[str]]:
    """(what is known of the load of each source, those that get nothing now), by source id."""
    board, now_ns = runtime.board, runtime.clock.mono_ns()
    if len(offers) >= TOGETHER:
        source_ids, rows = call.state.rows(offers, board)
        looked, shut = board.look(rows, now_ns)
        return dict(zip(source_ids, looked, strict=True)), [source_ids[at] for at in shut]
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
    return readings, open_breakers


def _paces(call: Call, runtime: Runtime) -> Mapping[str, Pace]:
    learned = runtime.learned.paces(call)
    found = ((offer.key, runtime.paces.of(offer.key, learned.get(offer.key))) for offer in call.allowed)
    return {key: pace for key, pace in found if pace is not None}


def _hold(call: Call, decision: RouteDecision) -> None:
    """Remember what is asked; where that is strict, leave out what is predicted to miss it. Raises SloUnmet when
    everything is."""
    assert call.features is not None and call.target is not None  # noqa: S101 - stage order
    slo = call.slo = tighter(call.features.slo, call.target.slo)
    if slo is None or not slo.strict:
        return
    if refused(slo, decision):
        raise unmet(slo, decision)
    call.affordable = within(decision)


def _nowhere(error: InterlockError, decision: RouteDecision, offers: Sequence[Offer]) -> InterlockError:
    cold = cold_sources(decision.rejected, offers)
    if cold and isinstance(error, NoCandidate):
        starting = EngineStarting(error.message, headers={"retry-after": str(COLD_RETRY_AFTER_S)})
        starting.sources = cold
        return starting
    return error
