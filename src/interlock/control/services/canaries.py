"""Canaries of aliases: what is declared of one, and what became of it.

A canary is one trial: whoever declares another one (any field differs) starts a new trial, with a new id, from now on.
Declaring the same one again changes nothing, so that a document that is applied over and over does not start a trial
again that has failed.
"""

from __future__ import annotations

import datetime

import msgspec

from interlock.control.documents import CanarySpec, CanaryStepSpec
from interlock.control.services.base import Tx
from interlock.routing.canary import RUNNING
from interlock.storage import aliases
from interlock.storage.canaries import Report
from interlock.types.snapshot import AliasTarget, Canary, CanaryStep

FAILED = "failed"
ACTION = "canary_failed"
"""How the change is called by which a canary is taken back."""


def spec_of(canary: Canary) -> CanarySpec:
    """The declared form of a canary."""
    return CanarySpec(
        model=canary.target.model,
        source=canary.target.source,
        prefer_version=canary.target.prefer_version,
        share_milli=canary.share_milli,
        steps=tuple(CanaryStepSpec(after_s=s.after_s, share_milli=s.share_milli) for s in canary.steps),
        sticky=canary.sticky,
        calls_min=canary.calls_min,
        window_s=canary.window_s,
        errors_milli_max=_given(canary.errors_milli_max, -1),
        errors_milli_over_stable=_given(canary.errors_milli_over_stable, -1),
        first_byte_p95_ms_max=_given(canary.first_byte_ms_max, 0),
        total_p95_ms_max=_given(canary.total_ms_max, 0),
        first_byte_percent_max=_given(canary.first_byte_percent_max, 0),
        total_percent_max=_given(canary.total_percent_max, 0),
    )


class CanaryState(msgspec.Struct, frozen=True):
    """What became of a canary. `state`: "running" or "failed"; then `ended_at` and `why`."""

    id: str
    state: str
    started_at: datetime.datetime
    ended_at: datetime.datetime | None = None
    why: str = ""


def shown(canary: Canary) -> CanaryState:
    """The canary's state for people."""
    ended = datetime.datetime.fromtimestamp(canary.ended_s, datetime.UTC) if canary.ended_s else None
    started = datetime.datetime.fromtimestamp(canary.started_s, datetime.UTC)
    return CanaryState(canary.id, canary.state, started, ended, canary.ended_why)


def declared(tx: Tx, before: Canary | None, spec: CanarySpec) -> Canary:
    """The canary that is declared: the one there is, if it is declared so, else a new trial that starts now."""
    if before is not None and spec_of(before) == spec:
        return before
    return Canary(
        id=tx.tools.new_id("canary"),
        target=AliasTarget(spec.model, spec.source, 1, spec.prefer_version),
        share_milli=spec.share_milli,
        started_s=int(tx.by.at.timestamp()),
        steps=tuple(CanaryStep(s.after_s, s.share_milli) for s in spec.steps),
        sticky=spec.sticky,
        calls_min=spec.calls_min,
        window_s=spec.window_s,
        errors_milli_max=-1 if spec.errors_milli_max is None else spec.errors_milli_max,
        errors_milli_over_stable=-1 if spec.errors_milli_over_stable is None else spec.errors_milli_over_stable,
        first_byte_ms_max=spec.first_byte_p95_ms_max or 0,
        total_ms_max=spec.total_p95_ms_max or 0,
        first_byte_percent_max=spec.first_byte_percent_max or 0,
        total_percent_max=spec.total_percent_max or 0,
    )


def take_back(tx: Tx, told: Report) -> bool:
    """Make a node's verdict hold everywhere. False when the alias has no such canary running any more."""
    stored = aliases.by_name(tx.conn, told.tenant_id, told.alias)
    if stored is None:
        return False
    stored = aliases.lock(tx.conn, stored.value.id)
    canary = stored.value.canary
    if canary is None or canary.id != told.canary or canary.state != RUNNING:
        return False
    ended = msgspec.structs.replace(
        canary, state=FAILED, ended_s=told.at_ns // 1_000_000_000, ended_why=f"{told.words} (node {told.node})"
    )
    aliases.update(tx.conn, msgspec.structs.replace(stored.value, canary=ended), tx.by, action=ACTION)
    return True


def _given(value: int, none: int) -> int | None:
    return None if value == none else value
