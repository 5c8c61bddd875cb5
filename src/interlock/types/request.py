"""What is asked: the features of a call that decisions are made from. Integers and names, no content."""

from __future__ import annotations

import msgspec

from interlock.types.identity import DataClass, Workload
from interlock.types.slo import Slo


class Features(msgspec.Struct, frozen=True, array_like=True):
    """Everything about a request that policy and routing may look at (P4: decisions replay from this alone).

    `needs`: abilities (`interlock.types.source.Ability`) without which the answer would be wrong.
    `actions`: policy actions that the request's fields ask for beyond inference (see `interlock.wire.fields`).
    `prompt_tokens_max`: upper bound from UTF-8 bytes. `completion_tokens_max`: bound over all `n` answers.
    """

    operation: str
    """ "chat", "completions", "embeddings", "rerank" or "score". """
    asked: str
    """The model name as the caller wrote it."""
    data_class: DataClass
    needs: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    stream: bool = False
    prompt_bytes: int = 0
    prompt_tokens_max: int = 0
    completion_tokens_max: int = 0
    purpose: str = ""
    workload: Workload = Workload.interactive
    signals: bytes = b""
    """What the router reads of the prompt (`interlock.types.learned`): one signed byte each. Empty when it is not read:
    one model only, nothing learned, or a call of which no content is kept."""
    affinity: int = 0
    """Which calls are to find each other's prefix in an engine's cache: a slot from 1 to `SLOTS` of
    `interlock.routing.placement`, 0 for none. Known only where one model has several replicas."""
    slo: Slo | None = None
    """What its caller asks of where it goes; its alias may ask for more (`Target.slo`)."""
    weights: tuple[int, ...] = ()
    """Weights of its caller's own, in place of the alias's or the mode's: quality, cost, latency, energy, in millionths
    that add up to one million. Empty: none."""


class TargetStep(msgspec.Struct, frozen=True, array_like=True):
    """One step of a cascade: `model` at any source, or at `source`; of `version`, or of any."""

    model: str
    source: str = ""
    version: str = ""


class Target(msgspec.Struct, frozen=True, array_like=True):
    """What a model name resolved to. Exactly one of these forms:

    - `kind="model"`: `model` at any source. `kind="pin"`: `model` at `source` (a source name) only.
    - `kind="alias"`: `alias` drew `model` (and maybe `source`) by weight. `kind="auto"`: any model, by `mode`.
    """

    kind: str
    model: str = ""
    source: str = ""
    version: str = ""
    alias: str = ""
    mode: str = "balanced"
    """ "eco", "balanced" or "quality". """
    preferred_version: str = ""
    """Offers of this version come first."""
    canary: str = ""
    """Of an alias with a running canary, which arm the call is on and why: "canary" or "stable" as drawn; "off": the
    node had taken the canary back; "barred": the canary was drawn, and could not be used for this call. "shadow": a
    call that is only compared, at the alias's shadow."""
    steps: tuple[TargetStep, ...] = ()
    """Of an alias with a cascade, its steps in their order; `model` is "" then."""
    slo: Slo | None = None
    """What an alias asks for its calls."""
    weights: tuple[int, ...] = ()
    """Weights of an alias, as in `Features`."""
