"""A model name, as a caller wrote it, becomes a target.

In this order: an exact model name; an alias; `auto`, `auto:eco`, `auto:balanced`, `auto:quality`; a pin
`source::model`; a version `model@version` (of a plain or a pinned model). A name that exists only at sources the
tenant was not granted resolves too: authorization then refuses it, and the record holds the reason.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from interlock.errors import ModelNotFound
from interlock.routing.canary import CANARY, RUNNING, SHADOW, arm_of
from interlock.routing.catalog import Catalog
from interlock.routing.draws import mix
from interlock.routing.score import normal
from interlock.types.request import Target, TargetStep
from interlock.types.snapshot import Alias, AliasTarget, CascadeStep

CASCADING = frozenset(("chat", "completions"))
"""Operations that an alias's cascade is for."""
MODES = ("eco", "balanced", "quality")
NAME_SHOWN_MAX = 200
"""Characters of an unknown name that an error repeats."""

_AUTO = {"auto": Target(kind="auto"), **{f"auto:{mode}": Target(kind="auto", mode=mode) for mode in MODES}}


def resolve(
    asked: str,
    catalog: Catalog,
    *,
    now_s: int,
    seed: int,
    principal_id: str = "",
    canary_state: str = "",
    cascading: bool = True,
) -> Target:
    """What `asked` stands for. `now_s`: Unix seconds, for aliases with a sunset; `seed`: draws an alias's target.

    `principal_id`: who calls, for canaries that stay with a principal. `canary_state`: "off" or "barred" where the
    canary is not to be used, "shadow" for the alias's shadow (see `Target.canary`), "" to draw. `cascading`: whether an
    alias's cascade is for this operation.

    Raises ModelNotFound when nothing has that name (code `model_not_found`), when an alias is past its sunset
    (`alias_sunset`) or has no target that can be drawn (`alias_without_target`).
    """
    exact = catalog.exact.get(asked)
    if exact is not None:
        return exact
    alias = catalog.aliases.get(asked)
    if alias is not None:
        target = _from_alias(alias, catalog, now_s, seed, principal_id, canary_state, cascading)
        return target if alias.slo is None and alias.weights is None else _asking(alias, target)
    auto = _AUTO.get(asked)
    if auto is not None:
        return auto
    named = _named(asked, catalog)
    if named is not None:
        return named
    if asked in catalog.hidden_by_model:
        return Target(kind="model", model=asked)
    raise not_found(asked)


def _asking(alias: Alias, target: Target) -> Target:
    """With what the alias asks for its calls. Nobody waits for a shadow, or pays for being answered by it."""
    given = alias.weights
    weights = () if given is None else normal(given.quality, given.cost, given.latency, given.energy)
    slo = alias.slo.slo() if alias.slo is not None and target.canary != SHADOW else None
    return msgspec.structs.replace(target, slo=slo, weights=tuple(weights))


def not_found(asked: str) -> ModelNotFound:
    """The answer for a name that does not exist, or that this caller may not know of: the same words for both."""
    shown = asked if len(asked) <= NAME_SHOWN_MAX else asked[:NAME_SHOWN_MAX] + "..."
    return ModelNotFound(f"The model {shown!r} does not exist or you do not have access to it.", param="model")


def _named(asked: str, catalog: Catalog) -> Target | None:
    """`source::model`, `model@version` or `source::model@version`, of things that exist in the catalog."""
    pinned = catalog.by_key.get(asked)
    if pinned is not None:
        return Target(kind="pin", model=pinned.model.name, source=pinned.source.name)
    stem, at, version = asked.rpartition("@")
    if not at or not version:
        return None
    if stem in catalog.by_model:
        return Target(kind="model", model=stem, version=version)
    pinned = catalog.by_key.get(stem)
    if pinned is not None:
        return Target(kind="pin", model=pinned.model.name, source=pinned.source.name, version=version)
    return None


def _from_alias(
    alias: Alias, catalog: Catalog, now_s: int, seed: int, principal_id: str, canary_state: str, cascading: bool
) -> Target:
    if alias.sunset_s and now_s >= alias.sunset_s:
        day = datetime.fromtimestamp(alias.sunset_s, UTC).date().isoformat()
        instead = repr(alias.successor) if alias.successor else "another model"
        raise ModelNotFound(
            f"The alias {alias.name!r} ended on {day}; ask for {instead}.", code="alias_sunset", param="model"
        )
    if alias.cascade is not None:
        if cascading:
            steps = tuple(_step(step, catalog) for step in alias.cascade.steps)
            return Target(kind="alias", alias=alias.name, mode=alias.mode, steps=steps)
        if not alias.targets:
            first = alias.cascade.steps[0]
            return _target(alias, AliasTarget(first.model, first.source), catalog, "")
    if canary_state == SHADOW:
        if alias.shadow is None:
            raise ModelNotFound(f"The alias {alias.name!r} has no shadow.", code="alias_without_target", param="model")
        return _target(alias, alias.shadow.target, catalog, SHADOW)
    arm, canary = "", alias.canary
    if canary is not None and canary.state == RUNNING:
        arm = canary_state or arm_of(canary, now_s, seed, principal_id)
        if arm == CANARY:
            return _target(alias, canary.target, catalog, arm)
    if not alias.targets:
        return Target(kind="alias", alias=alias.name, mode=alias.mode, canary=arm)
    drawn = draw(alias.targets, seed)
    if drawn is None:
        raise ModelNotFound(
            f"The alias {alias.name!r} has no target with a weight above zero.",
            code="alias_without_target",
            param="model",
        )
    return _target(alias, drawn, catalog, arm)


def _step(step: CascadeStep, catalog: Catalog) -> TargetStep:
    model, version = _model_and_version(step.model, catalog)
    return TargetStep(model, step.source, version)


def _target(alias: Alias, drawn: AliasTarget, catalog: Catalog, arm: str) -> Target:
    model, version = _model_and_version(drawn.model, catalog)
    return Target(
        kind="alias",
        model=model,
        source=drawn.source,
        version="" if drawn.prefer_version else version,
        alias=alias.name,
        mode=alias.mode,
        preferred_version=version if drawn.prefer_version else "",
        canary=arm,
    )


def draw(targets: tuple[AliasTarget, ...], seed: int) -> AliasTarget | None:
    """One target by weight: the same one for the same seed. None when no weight is above zero."""
    total = 0
    for target in targets:
        if target.weight > 0:
            total += target.weight
    if not total:
        return None
    point = mix(seed, 1) % total
    for target in targets:
        if target.weight > 0:
            point -= target.weight
            if point < 0:
                return target
    raise AssertionError("the weights do not add up")


def _model_and_version(name: str, catalog: Catalog) -> tuple[str, str]:
    """An alias may target `model@version`; a model whose own name holds an "@" wins."""
    if name in catalog.by_model or "@" not in name:
        return name, ""
    stem, _, version = name.rpartition("@")
    return (stem, version) if stem in catalog.by_model else (name, "")
