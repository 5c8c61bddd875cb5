"""What is asked: another configuration and other ways to decide, and what decisions are made from under it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from interlock.control.whatif import Ground
from interlock.errors import BadRequest
from interlock.policy.engine import PolicyEngine
from interlock.routing.catalog import Catalog, offers_of
from interlock.routing.resolve import MODES
from interlock.routing.score import MICRO, Weights
from interlock.types.source import Source

MILLI = 1000
SHARE_MILLI_MAX, MONEY_MILLI_MAX = 500, 100_000


class ModeWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights that calls are decided by, at least 0; what counts is how they stand to each other. `mode`: of this mode
    only, "": of every one."""

    quality: float = 0.0
    cost: float = 0.0
    latency: float = 0.0
    energy: float = 0.0
    mode: str = ""


class Otherwise(msgspec.Struct, frozen=True):
    """Ways to decide besides the configuration. `mode`: that every call is decided in; "": its own. `share_milli`,
    `money_milli`: of trying others (`explore_share_milli`, `explore_money_milli`), in place of what was published;
    None: as it was. `without`: `SOURCE` or `SOURCE::MODEL` that are not there."""

    mode: str = ""
    weights: ModeWeights | None = None
    share_milli: int | None = None
    money_milli: int | None = None
    without: tuple[str, ...] = ()


NOTHING_ELSE = Otherwise()


class Ways(NamedTuple):
    """One side of the comparison. `learning`: what the tenant says of it."""

    ground: Ground
    engine: PolicyEngine
    catalog: Catalog
    learning: str
    otherwise: Otherwise

    def weights(self, mode: str) -> Weights | None:
        """The weights for a mode; None: its own."""
        given = self.otherwise.weights
        if given is None or given.mode not in ("", mode):
            return None
        return normal(given)


def checked(otherwise: Otherwise) -> Otherwise:
    """It, when it can be decided by. Raises BadRequest."""
    weights = otherwise.weights
    for name, mode in (("mode", otherwise.mode), ("weights", weights.mode if weights is not None else "")):
        if mode and mode not in MODES:
            raise BadRequest(f"{name}: {mode!r} is no mode: {', '.join(MODES)}", param=name)
    if weights is not None:
        normal(weights)
    for name, value, most in (
        ("explore_share_milli", otherwise.share_milli, SHARE_MILLI_MAX),
        ("explore_money_milli", otherwise.money_milli, MONEY_MILLI_MAX),
    ):
        if value is not None and not 0 <= value <= most:
            raise BadRequest(f"{name} is from 0 to {most}", param=name)
    return otherwise


def normal(given: ModeWeights) -> Weights:
    """The weights in millionths that add up to one million. Raises BadRequest."""
    parts = (given.quality, given.cost, given.latency, given.energy)
    total = sum(parts)
    if not all(0 <= part < float("inf") for part in parts) or not 0 < total < float("inf"):
        raise BadRequest("weights are numbers from 0 on, and not all of them 0", param="weights")
    quality, cost, latency = (round(MICRO * part / total) for part in parts[:3])
    return Weights(quality, cost, latency, MICRO - quality - cost - latency)


def ways(ground: Ground, tenant_id: str, otherwise: Otherwise = NOTHING_ELSE) -> Ways:
    """One side. Raises BadRequest when the tenant is not there, or what is to be left out."""
    tenant = next((t for t in ground.tenants if t.id == tenant_id), None)
    if tenant is None:
        raise BadRequest("under this change there is no such tenant", param="tenant")
    ground = msgspec.structs.replace(ground, sources=_without(ground.sources, otherwise.without))
    catalog = Catalog(tenant_id, offers_of(ground.sources), ground.aliases)
    return Ways(ground, ground.engine(ground.policies), catalog, tenant.learning, otherwise)


def _without(sources: Iterable[Source], left_out: Iterable[str]) -> tuple[Source, ...]:
    found = list(sources)
    for name in left_out:
        source_name, _, model_name = name.partition("::")
        kept = []
        hit = False
        for source in found:
            if source.name != source_name:
                kept.append(source)
                continue
            models = tuple(m for m in source.models if model_name and m.name != model_name)
            hit = hit or len(models) < len(source.models) or not model_name
            if model_name:
                kept.append(msgspec.structs.replace(source, models=models))
        if not hit:
            raise BadRequest(f"without: there is no {name!r}", param="without")
        found = kept
    return tuple(found)
