"""What one tenant can name. Built once per tenant and snapshot, shared by all its calls."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.types.request import Target, TargetStep
from interlock.types.snapshot import Alias
from interlock.types.source import Offer, Source

EVERY_TENANT = "*"


def offers_of(sources: Iterable[Source]) -> tuple[Offer, ...]:
    """Every model of every source as an offer, in the order given. `Offer.key` is "source_name::model_name"."""
    return tuple(
        Offer(source=source, model=model, key=f"{source.name}::{model.name}")
        for source in sources
        for model in source.models
    )


def is_granted(source: Source, tenant_id: str) -> bool:
    """True when the source is the tenant's own, or the platform's and granted to it."""
    if source.tenant_id:
        return source.tenant_id == tenant_id
    return tenant_id in source.granted_to or EVERY_TENANT in source.granted_to


class Catalog:
    """The offers and aliases of one tenant, by every name that a request may use.

    A tenant's own source hides a platform source of the same name, and its own alias a platform alias: keys are
    unique inside a catalog. The tuples that `offers_for` returns are built once, so that their identity can key
    a cache. `hidden_models` are the names that exist only at sources which this tenant was not granted: asking for
    one resolves, so that the refusal is recorded with its reason, but nothing here offers it.
    """

    __slots__ = ("_pins", "_unions", "aliases", "by_key", "by_model", "exact", "hidden_by_model", "offers", "tenant_id")

    def __init__(self, tenant_id: str, offers: Iterable[Offer], aliases: Iterable[Alias]) -> None:
        self.tenant_id = tenant_id
        visible: dict[str, Offer] = {}
        hidden: list[Offer] = []
        for offer in offers:
            if not is_granted(offer.source, tenant_id):
                hidden.append(offer)
            elif offer.key not in visible or offer.source.tenant_id:
                visible[offer.key] = offer
        own_names = {o.source.name for o in visible.values() if o.source.tenant_id}
        self.offers: tuple[Offer, ...] = tuple(
            o for o in visible.values() if o.source.tenant_id or o.source.name not in own_names
        )
        self.by_key: dict[str, Offer] = {o.key: o for o in self.offers}
        self.by_model: dict[str, tuple[Offer, ...]] = _by_model(self.offers)
        self.hidden_by_model: dict[str, tuple[Offer, ...]] = _by_model(hidden)
        self._pins: dict[str, tuple[Offer, ...]] = {o.key: (o,) for o in self.offers}
        self._unions: dict[tuple[TargetStep, ...], tuple[Offer, ...]] = {}
        self.aliases: dict[str, Alias] = {}
        for alias in aliases:
            if alias.tenant_id == tenant_id or (not alias.tenant_id and alias.name not in self.aliases):
                self.aliases[alias.name] = alias
        self.exact: dict[str, Target] = {name: Target(kind="model", model=name) for name in self.by_model}

    def offers_for(self, target: Target) -> tuple[Offer, ...]:
        """The offers that a target names, before policy; empty when it names none of this tenant's.

        For a model that only ungranted sources have, those offers: authorization refuses them with stage "grant".
        """
        if target.steps:
            return self._of_steps(target.steps)
        if target.source:
            return self._pins.get(f"{target.source}::{target.model}", ())
        if target.model:
            return self.by_model.get(target.model) or self.hidden_by_model.get(target.model, ())
        return self.offers

    def _of_steps(self, steps: tuple[TargetStep, ...]) -> tuple[Offer, ...]:
        """The offers of all steps, each once. Kept: there are no more such tuples than aliases with a cascade."""
        found = self._unions.get(steps)
        if found is None:
            each = [self.offers_for(Target(kind="alias", model=s.model, source=s.source)) for s in steps]
            found = self._unions[steps] = tuple({offer.key: offer for offers in each for offer in offers}.values())
        return found


def _by_model(offers: Iterable[Offer]) -> dict[str, tuple[Offer, ...]]:
    grouped: dict[str, list[Offer]] = {}
    for offer in offers:
        grouped.setdefault(offer.model.name, []).append(offer)
    return {name: tuple(group) for name, group in grouped.items()}
