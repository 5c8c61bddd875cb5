"""A routing decision in words: as a response header, as the error when nothing is left, and in full from its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from interlock.errors import BadRequest, InterlockError, ModelNotFound, NoCandidate
from interlock.routing.score import MICRO, OWN, WEIGHTS, Weights, weights_of
from interlock.routing.slo import asked_words, verdict_words
from interlock.types.decision import RouteDecision
from interlock.types.record import Attempt, AttemptEnd, Intent, Outcome, StepEnd
from interlock.types.request import Features, Target
from interlock.types.slo import MISSED, VERDICTS, tighter
from interlock.types.source import LoadReading

REASONS_SHOWN_MAX = 8
"""Reasons that an error to a caller names; the record holds all."""
_NO_NAMES: Mapping[str, str] = {}
_ARMS = {
    "canary": ", its canary",
    "stable": ", not its canary",
    "off": ", its canary having been taken back",
    "barred": ", its canary being of no use to this call",
    "shadow": ", its shadow, only to compare",
}
"""What `Target.canary` means, in words."""


class Explanation(msgspec.Struct, frozen=True):
    """Why a call went where it went. Each field is sentences, in the order they are to be read.

    `asked`: what the name stood for. `permitted`: what policy allows, by which rules. `order`: each candidate, first
    to last, and why it stands there. `rejected`: each other offer, and why. `readings`: what was known of each source's
    load. `tried`: what became of the attempts.
    """

    asked: str
    chosen: str
    order: tuple[str, ...]
    rejected: tuple[str, ...]
    readings: tuple[str, ...]
    tried: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The whole explanation as lines of text."""
        sections = (
            ("Permitted:", self.permitted),
            ("Candidates, first to last:", self.order),
            ("Rejected:", self.rejected),
            ("Load when it was decided:", self.readings),
            ("Tried:", self.tried),
        )
        lines = [self.asked, self.chosen]
        for title, sentences in sections:
            if sentences:
                lines.append(title)
                lines.extend(f"  {sentence}" for sentence in sentences)
        return lines


def header(decision: RouteDecision, number: int) -> str:
    """The value of `x-interlock-decision` for the candidate that was tried as attempt `number` (from 0).

    Like "offer=local::smollm2; mode=balanced; score=0.625; rank=1/3; overflow; router=0".
    Printable ASCII: any other character of a name is replaced by "?".
    """
    candidates = decision.candidates
    c = candidates[number]
    overflow = "; overflow" if c.overflow else ""
    slo = f"; slo={VERDICTS[decision.foreseen[number].verdict]}" if decision.foreseen else ""
    text = (
        f"offer={c.offer}; mode={decision.mode}; score={(c.score_micro + 500) // 1000 / 1000:.3f}; "
        f"rank={number + 1}/{len(candidates)}{overflow}{'; tried' if decision.best and not number else ''}; "
        f"router={decision.router_version}{slo}"
    )
    if text.isascii() and text.isprintable():
        return text
    return "".join(ch if " " <= ch <= "~" else "?" for ch in text)


def brief(target: Target | None, decision: RouteDecision | None, rank: int) -> str:
    """In a few words, how the candidate of this rank (from 0; -1: none yet) was found: "alias fast; 2 of 3; overflow".

    The whole decision is in the call's record.
    """
    if target is None:
        return ""
    if target.alias:
        words = f"alias {target.alias}{_ARMS.get(target.canary, '')}"
    elif target.kind == "auto":
        words = f"chosen: {target.mode}"
    else:
        words = "asked for by name" if target.kind == "model" else "asked for at this source"
    if decision is None or not 0 <= rank < len(decision.candidates):
        return words
    chosen = decision.candidates[rank]
    place = f"; {rank + 1} of {len(decision.candidates)}" if len(decision.candidates) > 1 else ""
    return words + place + ("; overflow" if chosen.overflow else "")


def no_candidate(decision: RouteDecision) -> InterlockError:
    """The error for a decision without candidates.

    BadRequest (code `model_cannot`) when no allowed offer is able to do what the request needs, ModelNotFound (code
    `version_not_found`) when none serves the version asked for, else NoCandidate: it may be tried again later.
    """
    rejected = decision.rejected
    words = _joined(r.words for r in rejected)
    if rejected and all(r.stage == "capability" or not r.offer for r in rejected):
        if all(r.code == "version" or not r.offer for r in rejected):
            message = f"The version asked for is not served: {words}."
            return ModelNotFound(message, code="version_not_found", param="model")
        code = "context_length_exceeded" if all(r.code == "context_length" for r in rejected) else "model_cannot"
        return BadRequest(f"The model cannot answer this request: {words}.", code=code, param="model")
    return NoCandidate(f"No source can take this call now: {words or 'none is allowed'}.")


def explain(
    target: Target,
    asked: str,
    decision: RouteDecision,
    tried: Sequence[str] = (),
    names: Mapping[str, str] = _NO_NAMES,
    features: Features | None = None,
) -> Explanation:
    """A decision in words. `asked`: the model name as the caller wrote it; `tried`: what became of the attempts.

    `names`: of sources, by id; one without a name is told by its id. `features`: of the call, where it may have brought
    objectives or weights of its own.
    """
    weights = weights_of(features, target) if features is not None else WEIGHTS.get(target.mode) or WEIGHTS["balanced"]
    steps = bool(target.steps)
    return Explanation(
        asked=_asked(target, asked, decision) + _objectives(features, target, decision),
        chosen=_chosen(decision),
        order=tuple(_place(i, decision, weights, steps) for i in range(len(decision.candidates))),
        rejected=tuple(f"{r.offer or 'others'}: {r.words} ({r.stage}: {r.code})." for r in decision.rejected),
        readings=tuple(f"{names.get(of, of)}: {reading_words(reading)}." for of, reading in decision.readings),
        tried=tuple(tried),
    )


def explain_call(intent: Intent, after: Iterable[object] = (), names: Mapping[str, str] = _NO_NAMES) -> Explanation:
    """The decision of a recorded call. `after`: the call's other records in order; the attempts among them are told.

    `names`: as for `explain`.
    """
    tried = [s for r in after if (s := _tried(r))]
    permits = tuple(f"{reason.words}." for reason in intent.permits)
    told = explain(intent.target, intent.features.asked, intent.route, tried, names, intent.features)
    return msgspec.structs.replace(told, permitted=permits)


def reading_words(reading: LoadReading) -> str:
    """What was known of a source's load, in words."""
    if reading.waiting < 0:
        load = "load unknown"
    else:
        load = f"{reading.waiting} waiting, {max(reading.running, 0)} running {reading.age_ms} ms before"
    kv = f", KV cache {reading.kv_permille / 10:.1f} % in use" if reading.kv_permille >= 0 else ""
    state = ", saturated" if reading.saturated else ""
    health = "" if reading.healthy else ", unhealthy"
    ours = f", {reading.inflight} of ours in flight"
    if reading.waiting >= 0 and reading.inflight_since:
        ours += f" ({reading.inflight_since} of them not in these figures)"
    if reading.stay_ms >= 0:
        ours += f", there for {reading.stay_ms} ms on average"
    loaded = f", models loaded: {reading.loaded.bit_count()}" if reading.loaded >= 0 else ""
    return f"{load}{ours}{kv}{loaded}{state}{health}"


def _asked(target: Target, asked: str, decision: RouteDecision) -> str:
    version = f" version {target.version}" if target.version else ""
    mode = "by weights of its own" if decision.mode == OWN else f"mode {decision.mode}"
    if target.kind == "pin":
        return f"{asked!r} names {target.model}{version} at {target.source} only."
    if target.kind == "auto":
        return f"{asked!r} stands for any model that policy allows, in {mode}."
    if target.kind == "alias":
        if not target.model:
            return f"The alias {target.alias!r} stands for any model that policy allows, in {mode}."
        where = f" at {target.source}" if target.source else ""
        preferred = f", preferably version {target.preferred_version}" if target.preferred_version else ""
        drew = f"drew {target.model}{version}{preferred}{where} (seed {decision.seed:x})"
        return f"The alias {target.alias!r} {drew}{_ARMS.get(target.canary, '')}, {mode}."
    return f"{asked!r} names {target.model}{version} at any source, {mode}."


def _objectives(features: Features | None, target: Target, decision: RouteDecision) -> str:
    """What is asked of where the call goes, and what comes of that."""
    slo = tighter(features.slo if features is not None else None, target.slo)
    if slo is None:
        return ""
    kind = "strictly asks" if slo.strict else "asks"
    words = f" It {kind} for: {asked_words(slo)}."
    if decision.foreseen and all(seen.verdict == MISSED for seen in decision.foreseen):
        words += " No candidate is predicted to meet that."
    return words


def _chosen(decision: RouteDecision) -> str:
    if not decision.candidates:
        return "Nothing was chosen: no offer was left."
    first = decision.candidates[0]
    others = len(decision.candidates) - 1
    behind = "it was the only candidate" if not others else f"before {others} other{'s' if others > 1 else ''}"
    overflow = ", taking the excess of a saturated one that is preferred" if first.overflow else ""
    return f"{first.offer} was chosen, {behind}{overflow}.{_learned(decision)}"


def _learned(decision: RouteDecision) -> str:
    if not decision.router_version:
        return ""
    task = f", for task {decision.task}" if decision.task >= 0 else ""
    words = f" Qualities are what version {decision.router_version} of the router's state expects{task}."
    if decision.best:
        words += f" It was tried to learn about it, with a chance of {decision.chance_micro / 1e4:.2f} %,"
        words += f" in the place of {decision.best}."
    return words


def _place(i: int, decision: RouteDecision, weights: Weights, steps: bool) -> str:
    candidates = decision.candidates
    c = candidates[i]
    quality, cost, latency, energy = weights
    parts = (
        f"quality {c.quality_micro / MICRO:.2f} x {quality / MICRO:.2f}, "
        f"cost {c.cost_micro / MICRO:.2f} x {cost / MICRO:.2f}, "
        f"latency {c.latency_micro / MICRO:.2f} x {latency / MICRO:.2f}, "
        f"energy {c.energy_micro / MICRO:.2f} x {energy / MICRO:.2f}"
    )
    load = f"load {c.load_micro / MICRO:.2f}"
    slo = f"; {verdict_words(decision.foreseen[i])}" if decision.foreseen else ""
    why = slo + _why(i, decision, steps=steps)
    return f"{i + 1}. {c.offer}: score {c.score_micro / MICRO:.3f} ({parts}), {load}{why}."


_PLACES = {1: "the home", 2: "the next place", 3: "the third place"}
_BEYOND = {
    "load": ", and behind its replicas because it has more than its share of the load",
    "wait": ", and behind its replicas because the predicted wait there is too long",
    "kv": ", and behind its replicas because its KV cache is full",
}


def _why(i: int, decision: RouteDecision, *, steps: bool = False) -> str:
    candidates, foreseen = decision.candidates, decision.foreseen
    c = candidates[i]
    if c.overflow:
        return "; overflow: a preferred source is saturated"
    if c.place:
        return f"; {_PLACES.get(c.place, f'place {c.place}')} of its conversation{_BEYOND.get(c.beyond, '')}"
    if i == 0:
        return ""
    before = candidates[i - 1]
    if steps and before.offer.partition("::")[2] != c.offer.partition("::")[2]:
        return "; of a later step"
    if foreseen and foreseen[i].verdict != foreseen[i - 1].verdict:
        return f"; behind those that are predicted {VERDICTS[foreseen[i - 1].verdict]}"
    if c.score_micro > before.score_micro:
        return "; behind because its source is saturated, its context tight, or its version another"
    if c.score_micro == before.score_micro and c.load_micro > before.load_micro:
        return "; equal score, longer queue"
    return ""


def _tried(record: object) -> str:
    if isinstance(record, Attempt):
        engine = f" ({record.engine} {record.engine_version})".replace(" )", ")") if record.engine else ""
        return f"attempt {record.number}: {record.source}::{record.model}{engine}"
    if isinstance(record, AttemptEnd):
        status = f" status {record.status}" if record.status else ""
        return f"attempt {record.number} failed before its first byte: {record.code}{status}: {record.words}"
    if isinstance(record, StepEnd):
        found = ", ".join(record.checks) or record.code or "not checked"
        return f"step {record.step + 1} in attempt {record.attempt}: {found}, {record.cost.nusd} nano-USD"
    if isinstance(record, Outcome):
        code = f" ({record.code}: {record.words})" if record.code else ""
        return f"{record.state} by {record.source}::{record.model} in attempt {record.attempt}{code}"
    return ""


def _joined(words: Iterable[str]) -> str:
    different = list(dict.fromkeys(words))
    shown = "; ".join(different[:REASONS_SHOWN_MAX])
    more = len(different) - REASONS_SHOWN_MAX
    return f"{shown}; and {more} more reasons" if more > 0 else shown
