"""What an offer cannot do for a request, whatever it costs: the capability stage, and the state of its source."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.types.decision import Reason
from interlock.types.request import Features, Target
from interlock.types.source import ENGINE_COLD, EngineState, LoadReading, Offer

COLD = "engine_cold"
"""The reason's code of an offer whose engine is on its way to answering."""
BYTES_PER_TOKEN_MAX = 8
"""A prompt of `b` bytes has at least b/8 tokens in common vocabularies (prose has one per 4, code one per 3 to 6)."""
BYTES_PER_TOKEN_TYPICAL = 3
"""Used for the likely length: on the safe side of prose."""


def unable(features: Features, target: Target, offer: Offer) -> Reason | None:
    """Why this offer cannot answer this request, or None. Looks only at declared facts, never at load.

    A prompt is refused for its length only when it cannot fit by any vocabulary: the engine itself counts exactly
    and says so. One that may not fit is put behind the offers where it does (`may_not_fit`).
    """
    model = offer.model
    abilities = model.abilities
    if features.operation not in abilities:
        return _reason(offer, features.operation, f"{model.name} does not do {features.operation}")
    for need in features.needs:
        if need not in abilities:
            return _reason(offer, need, f"{model.name} at {offer.source.name} cannot do {need}")
    if target.version and target.version != model.version:
        served = f"serves version {model.version}" if model.version else "declares no version"
        return _reason(offer, "version", f"{offer.key} {served}, not {target.version}")
    if 0 < model.context_length <= features.prompt_bytes // BYTES_PER_TOKEN_MAX:
        words = f"a prompt of {features.prompt_bytes} bytes cannot fit a context of {model.context_length} tokens"
        return _reason(offer, "context_length", f"{offer.key}: {words}")
    return None


def may_not_fit(features: Features, offer: Offer) -> bool:
    """True when the prompt's likely length and the answer's bound together exceed the context.

    The bound of the answer counts for at most half the context: it is a bound, often a default, and not a wish.
    """
    context = offer.model.context_length
    if features.prompt_tokens_max + features.completion_tokens_max <= context or not context:
        return False
    likely = min(features.prompt_tokens_max, features.prompt_bytes // BYTES_PER_TOKEN_TYPICAL)
    return likely + min(features.completion_tokens_max, context // 2) > context


def out_of_service(offer: Offer, reading: LoadReading, breaker_open: bool) -> Reason | None:
    """Why nothing may be sent to this offer's source now, or None: drained, not healthy, or its breaker is open."""
    source = offer.source
    if source.drained:
        return Reason(offer.key, "drained", "drained", f"{source.name} is drained")
    if source.engine_state and source.engine_state != EngineState.ready:
        code = COLD if source.engine_state in ENGINE_COLD else "engine_down"
        return Reason(offer.key, "engine", code, f"the engine of {source.name} is {source.engine_state}")
    if not reading.healthy:
        return Reason(offer.key, "health", "unhealthy", f"{source.name} does not answer its health probe")
    if breaker_open:
        return Reason(
            offer.key, "breaker", "breaker_open", f"{source.name} failed repeatedly; it is left alone for now"
        )
    return None


def cold_sources(rejected: Iterable[Reason], offers: Iterable[Offer]) -> tuple[str, ...]:
    """Ids of the sources among these offers that stand to answer soon: their engines are starting.

    An engine of ours that its supervisor calls ready, and a probe or the breaker does not, is one of them: it has just
    come up, or its supervisor is about to notice that it is gone.
    """
    by_key = {offer.key: offer.source for offer in offers}
    found = set()
    for reason in rejected:
        source = by_key.get(reason.offer)
        if source is None or not source.engine_state:
            continue
        if reason.code == COLD or (
            source.engine_state == EngineState.ready and reason.code in ("unhealthy", "breaker_open")
        ):
            found.add(source.id)
    return tuple(sorted(found))


def _reason(offer: Offer, code: str, words: str) -> Reason:
    return Reason(offer.key, "capability", code, words)
