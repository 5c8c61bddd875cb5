"""One logged call, decided three times: on its own snapshot, on what is stored now, and under a change.

The first has to come out as it was recorded; only then is it known which chance every model had, and the others are
made from the same recorded features, readings, breakers, latencies and seed. A source that the record has no reading
of counts as one that nothing is known of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from interlock.control.replay import Decided, Past, caller_of
from interlock.control.rerouting.change import MILLI, Ways
from interlock.errors import ModelNotFound, NotFound, SnapshotError
from interlock.routing.canary import UNDRAWN
from interlock.routing.catalog import Catalog, offers_of
from interlock.routing.choose import decide, spread
from interlock.routing.explore import MICRO
from interlock.routing.replay import replay as replay_route
from interlock.routing.resolve import CASCADING, resolve
from interlock.routing.score import OWN, Weights
from interlock.routing.slo import SloUnmet, recorded_paces, refused
from interlock.types.decision import Placement
from interlock.types.identity import Caller
from interlock.types.learned import Estimates, arm_of
from interlock.types.record import Intent, Refusal
from interlock.types.request import Features, Target
from interlock.types.slo import Pace, tighter
from interlock.types.source import LoadReading, Offer

if TYPE_CHECKING:
    from interlock.learning.published import Expectations

ERASED, SNAPSHOT, DIFFERS, UNDECIDED, OTHERWISE_REFUSED, SHADOW, CASCADE = (
    "erased",
    "snapshot_gone",
    "not_as_recorded",
    "undecided",
    "refused_otherwise",
    "shadow",
    "cascade",
)
"""Why a call is not decided again: what was recorded of it is gone; its snapshot is; that snapshot decides otherwise
than was recorded; it was refused before anything was decided, or for another reason than policy or routing; it is a
copy for comparison; it tried several models one after the other."""


class Choice(NamedTuple):
    """Where a call would go. `offer` "": nowhere, it is denied. `spread`: the chance of each arm, in millionths.
    `tried`: it is there to learn of it."""

    offer: str
    arm: str
    spread: Mapping[str, int]
    tried: bool = False


DENIED = Choice("", "", {})


class Again(NamedTuple):
    """A call that was decided again. `task`: what its prompt was taken for, "": it was not read. `read`: with signals.
    `logged`: the chance of each arm as it was; empty: it was denied. `first`: the arm that was put first,
    `chance_micro` its recorded chance. `expected`: outcome of each arm that may come first on any side, in millionths,
    by what was known of the models at that time. `verbosity`: as in `Known`."""

    task: str
    read: bool
    logged: Mapping[str, int]
    first: str
    chance_micro: int
    expected: Mapping[str, int]
    now: Choice
    then: Choice
    verbosity: Mapping[str, int]


class Known(NamedTuple):
    """A snapshot version as far as decisions need it. `verbosity`: how long each arm's answers were known to be, in
    thousandths of the mean."""

    past: Past
    catalog: Catalog
    expectations: Expectations | None
    verbosity: Mapping[str, int]


class Pasts:
    """Snapshot versions of one tenant, at most `most` at a time."""

    def __init__(self, tenant_id: str, load: Callable[[int], Past], most: int) -> None:
        self._tenant_id = tenant_id
        self._load = load
        self._most = most
        self._known: dict[int, Known | None] = {}

    def of(self, version: int) -> Known | None:
        """That version; None when it is gone, or cannot be trusted."""
        if version not in self._known:
            if len(self._known) >= self._most:
                self._known.pop(next(iter(self._known)))
            self._known[version] = self._read(version)
        return self._known[version]

    def _read(self, version: int) -> Known | None:
        from interlock.learning.published import Expectations  # numpy: only where it is asked for

        try:
            past = self._load(version)
            expectations = Expectations(past.weights) if past.weights is not None else None
        except (NotFound, SnapshotError, ValueError):
            return None
        catalog = Catalog(self._tenant_id, offers_of(past.sources), past.aliases)
        arms = past.weights.arms if past.weights is not None else ()
        return Known(past, catalog, expectations, {arm.arm: arm.verbosity_milli for arm in arms})


class _Call(NamedTuple):
    """What a call is decided on, under whatever ways."""

    record: Decided
    features: Features
    target: Target
    readings: Mapping[str, LoadReading]
    breakers: frozenset[str]
    latencies: Mapping[str, int]
    paces: Mapping[str, Pace]
    seed: int
    known: Known


def again(record: Decided | None, pasts: Pasts, now: Ways, then: Ways) -> Again | str:
    """The call decided again, or why it is not (`ERASED` and the others)."""
    if record is None:
        return ERASED
    if record.features is None or record.target is None or not record.parties:
        return UNDECIDED
    if isinstance(record, Intent) and record.unasked:
        return SHADOW
    if record.target.steps:
        return CASCADE
    if isinstance(record, Refusal) and record.permits and not _unrouted(record):
        return OTHERWISE_REFUSED
    known = pasts.of(record.snapshot_version)
    if known is None:
        return SNAPSHOT
    logged = _logged(record, known)
    if logged is None:
        return DIFFERS
    call = _call(record, record.features, record.target, known)
    route = record.route
    first = route.candidates[0].offer if route is not None and route.candidates and isinstance(record, Intent) else ""
    arm = arm_of(known.catalog.by_key[first].model) if first else ""
    chance = route.chance_micro if route is not None and first else MICRO
    by_now, by_then = _choice(call, now), _choice(call, then)
    arms = {arm, *logged, *by_now.spread, *by_then.spread}
    expected = _expected(call, arms, known.catalog, now.catalog, then.catalog)
    read = bool(record.features.signals)
    return Again(_task(record, known), read, logged, arm, chance, expected, by_now, by_then, known.verbosity)


def _unrouted(record: Refusal) -> bool:
    """It was refused because it could go nowhere: there was no candidate, or none for its strict objectives."""
    route = record.route
    return route is not None and (not route.candidates or record.code == SloUnmet.code)


def _task(record: Decided, known: Known) -> str:
    """Its number, of the reading of prompts that it is a task of: with another reading there are other tasks."""
    weights, route = known.past.weights, record.route
    if route is None or route.task < 0 or weights is None:
        return ""
    return f"{route.task} of reading {weights.words}"


def _expected(call: _Call, arms: set[str], *catalogs: Catalog) -> Mapping[str, int]:
    """One and the same expectation of each arm, whatever decides."""
    priors = {
        arm_of(o.model): o.model.quality_milli * 1000 for catalog in reversed(catalogs) for o in catalog.by_key.values()
    }
    known, features = call.known.expectations, call.features
    learned = known.estimates(features.signals, int(features.data_class)).quality_micro if known is not None else {}
    return {arm: learned.get(arm, priors.get(arm, MICRO // 2)) for arm in arms if arm}


def _logged(record: Decided, known: Known) -> Mapping[str, int] | None:
    """The chance that each arm had; None when the snapshot decides otherwise than was recorded."""
    route, features, target = record.route, record.features, record.target
    if route is None or features is None or target is None:
        return {}
    expected = None
    if route.router_version:
        if known.expectations is None or known.past.weights is None:
            return None
        if known.past.weights.version != route.router_version:
            return None
        expected = known.expectations.estimates(features.signals, int(features.data_class))
    if not replay_route(record, known.catalog.by_key, expected).same:
        return None
    if isinstance(record, Refusal):
        return {}
    names = {c.offer for c in route.candidates} | {r.offer for r in (*route.rejected, *record.permits)}
    offers = [known.catalog.by_key[name] for name in sorted(names) if name in known.catalog.by_key]
    call = _call(record, features, target, known)
    return _arms(_spread(call, target, offers, expected, None), known.catalog.by_key)


def _call(record: Decided, features: Features, target: Target, known: Known) -> _Call:
    route = record.route
    if route is None:
        return _Call(record, features, target, {}, frozenset(), {}, _learned(known), getattr(record, "seed", 0), known)
    by_key = known.catalog.by_key
    breakers = {by_key[r.offer].source.id for r in route.rejected if r.stage == "breaker" and r.offer in by_key}
    latencies = {c.offer: c.latency_micro for c in route.candidates}
    paces = {**_learned(known), **recorded_paces(route)}
    readings = dict(route.readings)
    return _Call(record, features, target, readings, frozenset(breakers), latencies, paces, route.seed, known)


def _learned(known: Known) -> Mapping[str, Pace]:
    """How quickly offers answered that the record says nothing of."""
    return known.expectations.paces if known.expectations is not None else {}


def _choice(call: _Call, side: Ways) -> Choice:
    record, features = call.record, call.features
    try:
        target = _target(call, side)
    except ModelNotFound:
        return DENIED
    offers = side.catalog.offers_for(target)
    allowed = set(side.engine.authorize(_caller(record, side), features, offers, record.wall_ns).allowed)
    offers = tuple(offer for offer in offers if offer.key in allowed)
    if not offers:
        return DENIED
    expected = _estimates(call, side, offers)
    if side.otherwise.mode and (features.weights or target.weights):  # every call is decided in that mode
        features = msgspec.structs.replace(features, weights=())
        target = msgspec.structs.replace(target, weights=())
        call = call._replace(features=features)
    weights = side.weights(OWN if features.weights or target.weights else target.mode)
    route = decide(
        features,
        target,
        offers,
        call.readings,
        open_breakers=call.breakers,
        latencies=call.latencies,
        candidates_max=1,
        estimates=expected,
        seed=call.seed,
        placement=_placement(call),
        weights=weights,
        paces=call.paces,
    )
    if not route.candidates or refused(tighter(features.slo, target.slo), route):
        return DENIED
    by_key = {offer.key: offer for offer in offers}
    arms = _arms(_spread(call, target, offers, expected, weights), by_key)
    first = route.candidates[0].offer
    return Choice(first, arm_of(by_key[first].model), arms, bool(route.best))


def _spread(
    call: _Call,
    target: Target,
    offers: tuple[Offer, ...] | list[Offer],
    expected: Estimates | None,
    weights: Weights | None,
) -> tuple[tuple[str, int], ...]:
    return spread(
        call.features,
        target,
        offers,
        call.readings,
        open_breakers=call.breakers,
        latencies=call.latencies,
        estimates=expected,
        seed=call.seed,
        placement=_placement(call),
        weights=weights,
        paces=call.paces,
    )


def _placement(call: _Call) -> Placement | None:
    route = call.record.route
    return route.placement if route is not None else None


def _arms(offers: tuple[tuple[str, int], ...], by_key: Mapping[str, Offer]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name, chance in offers:
        arm = arm_of(by_key[name].model)
        found[arm] = found.get(arm, 0) + chance
    return found


def _target(call: _Call, side: Ways) -> Target:
    """What the name stands for there. Raises ModelNotFound."""
    recorded, record = call.target, call.record

    def there(catalog: Catalog) -> Target:
        return resolve(
            call.features.asked,
            catalog,
            now_s=record.wall_ns // 1_000_000_000,
            seed=call.seed,
            principal_id=record.principal_id,
            canary_state=recorded.canary if recorded.canary in UNDRAWN else "",
            cascading=call.features.operation in CASCADING,
        )

    target = there(side.catalog)
    if target.steps:  # what else it would try depends on answers that nobody has
        step = target.steps[0]
        target = msgspec.structs.replace(target, model=step.model, source=step.source, version=step.version, steps=())
    try:
        before = there(call.known.catalog)
        own = (before.mode, before.weights) == (recorded.mode, recorded.weights)
    except ModelNotFound:
        own = True
    if not own:  # the request named one itself, which holds, and not its alias's weights
        target = msgspec.structs.replace(target, mode=recorded.mode, weights=())
    return msgspec.structs.replace(target, mode=side.otherwise.mode or target.mode)


def _caller(record: Decided, side: Ways) -> Caller:
    """Who called: as declared there, else as recorded."""
    recorded, known = caller_of(record), side.ground.principals
    delegator = recorded.delegator
    return msgspec.structs.replace(
        recorded,
        principal=known.get(recorded.principal.id, recorded.principal),
        delegator=known.get(delegator.id, delegator) if delegator is not None else None,
    )


def _estimates(call: _Call, side: Ways, offers: tuple[Offer, ...]) -> Estimates | None:
    """What was expected at that time, where the tenant lets it count and there is a choice."""
    expectations, weights = call.known.expectations, call.known.past.weights
    first = arm_of(offers[0].model)
    if side.learning != "on" or expectations is None or weights is None:
        return None
    if all(arm_of(offer.model) == first for offer in offers):
        return None
    data_class = int(call.features.data_class)
    found = expectations.estimates(call.features.signals, data_class)
    if data_class > weights.data_class_max:
        return found
    share, money = side.otherwise.share_milli, side.otherwise.money_milli
    if share is not None:
        found = found._replace(share_micro=share * MICRO // MILLI)
    if money is not None:
        found = found._replace(money_micro=money * MICRO // MILLI)
    return found
