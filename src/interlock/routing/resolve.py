"""A model name, as a caller wrote it, becomes a target.

In this order: an exact model name; an alias; `auto`, `auto:eco`, `auto:balanced`, `auto:quality`; a pin
`source::model`; a version `model@version` (of a plain or a pinned model). A name that exists only at sources the
tenant was not granted resolves too: authorization then refuses it, and the record holds the reason.
"""

from __future__ import annotations

from datetime import UTC, datetime

from interlock.errors import ModelNotFound
from interlock.routing.catalog import Catalog
from interlock.types.request import Target
from interlock.types.snapshot import Alias, AliasTarget

MODES = ("eco", "balanced", "quality")
NAME_SHOWN_MAX = 200
"""Characters of an unknown name that an error repeats."""

_AUTO = {"auto": Target(kind="auto"), **{f"auto:{mode}": Target(kind="auto", mode=mode) for mode in MODES}}
_MASK = (1 << 64) - 1


def resolve(asked: str, catalog: Catalog, *, now_s: int, seed: int) -> Target:
    """What `asked` stands for. `now_s`: Unix seconds, for aliases with a sunset; `seed`: draws an alias's target.

    Raises ModelNotFound when nothing has that name (code `model_not_found`), when an alias is past its sunset
    (`alias_sunset`) or has no target that can be drawn (`alias_without_target`).
    """
    exact = catalog.exact.get(asked)
    if exact is not None:
        return exact
    alias = catalog.aliases.get(asked)
    if alias is not None:
        return _from_alias(alias, catalog, now_s, seed)
    auto = _AUTO.get(asked)
    if auto is not None:
        return auto
    named = _named(asked, catalog)
    if named is not None:
        return named
    if asked in catalog.hidden_by_model:
        return Target(kind="model", model=asked)
    raise not_found(asked)


def not_found(asked: str) -> ModelNotFound:
    """The answer for a name that does not exist, or that this caller may not know of: the same words for both."""
    shown = asked if len(asked) <= NAME_SHOWN_MAX else asked[:NAME_SHOWN_MAX] + "..."
    return ModelNotFound(f"The model {shown!r} does not exist or you do not have access to it.", param="model")


def mix(seed: int, salt: int) -> int:
    """SplitMix64's finaliser over seed and salt: 64 well-spread bits, the same on every machine and in every run."""
    z = (seed + salt * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


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


def _from_alias(alias: Alias, catalog: Catalog, now_s: int, seed: int) -> Target:
    if alias.sunset_s and now_s >= alias.sunset_s:
        day = datetime.fromtimestamp(alias.sunset_s, UTC).date().isoformat()
        raise ModelNotFound(
            f"The alias {alias.name!r} ended on {day}; ask for another model.", code="alias_sunset", param="model"
        )
    if not alias.targets:
        return Target(kind="alias", alias=alias.name, mode=alias.mode)
    drawn = draw(alias.targets, seed)
    if drawn is None:
        raise ModelNotFound(
            f"The alias {alias.name!r} has no target with a weight above zero.",
            code="alias_without_target",
            param="model",
        )
    model, version = _model_and_version(drawn.model, catalog)
    return Target(kind="alias", model=model, source=drawn.source, version=version, alias=alias.name, mode=alias.mode)


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
