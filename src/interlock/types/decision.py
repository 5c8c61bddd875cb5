"""What was decided and why: values that are written to the record and explained to people."""

from __future__ import annotations

import msgspec

from interlock.types.slo import Foreseen
from interlock.types.source import LoadReading


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """Why an offer was left out, or let in. `stage`: "policy", "capability", "grant", "health", "load", "breaker",
    "cap", "drained". `policy_ids`: the determining policies, in the order Cedar gave them. `words`: one sentence."""

    offer: str
    stage: str
    code: str
    words: str
    policy_ids: tuple[str, ...] = ()


class Authorization(msgspec.Struct, frozen=True):
    """The allowed offers of a request, by `Offer.key`, and the reasons both ways."""

    allowed: tuple[str, ...]
    permits: tuple[Reason, ...] = ()
    denials: tuple[Reason, ...] = ()


class Tried(msgspec.Struct, frozen=True, array_like=True):
    """What policies that only report would have made of a call. `digest`: of that set; `tenant_id` "": the platform's.
    `would`: "same", "denied", "permitted", or "other": another set of offers, which `allowed` then names."""

    digest: str
    would: str
    allowed: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    tenant_id: str = ""


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place the call may go. Lower `rank` first. `score_micro` and its parts are in millionths."""

    offer: str
    score_micro: int
    quality_micro: int = 0
    cost_micro: int = 0
    latency_micro: int = 0
    energy_micro: int = 0
    load_micro: int = 0
    overflow: bool = False
    """True when it stands behind a saturated better one, and takes its excess."""
    place: int = 0
    """Its place among its replicas by the call's affinity, 1 the first; 0: it was not placed so."""
    beyond: str = ""
    """Why it then stands behind its replicas all the same: "load", "kv", "wait", or ""."""


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """The bounds within which replicas are tried in the order of a call's affinity (`interlock.routing.placement`).

    `load_slack`: calls that a replica may have whatever the others have. `load_factor_milli`: thousandths of the
    replicas' mean load that it may have. `kv_permille_max`: of its KV cache in use. `wait_ms_max`: predicted wait in
    its queue; 0: any.
    """

    load_slack: int
    load_factor_milli: int
    kv_permille_max: int
    wait_ms_max: int


class RouteDecision(msgspec.Struct, frozen=True, array_like=True):
    """The ordered candidates and everything the order was made from, so that it can be made again (P4)."""

    mode: str
    candidates: tuple[Candidate, ...]
    rejected: tuple[Reason, ...]
    readings: tuple[tuple[str, LoadReading], ...]
    """(source id, reading) of each source that was considered."""
    router_version: int
    seed: int
    task: int = -1
    """The task that the prompt was taken for, by the router's state; -1: it was not read."""
    chance_micro: int = 1_000_000
    """How likely the first candidate's model was to be the first, in millionths."""
    best: str = ""
    """The offer that would have been the first, when another model is tried to learn about it."""
    placement: Placement | None = None
    """The bounds that replicas were placed by; None when none were."""
    foreseen: tuple[Foreseen, ...] = ()
    """Of each candidate, in their order, what the call was predicted to take there. Empty: it asked for nothing."""
