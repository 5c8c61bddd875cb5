"""What was decided and why: values that are written to the record and explained to people."""

from __future__ import annotations

import msgspec

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


class Candidate(msgspec.Struct, frozen=True, array_like=True):
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
