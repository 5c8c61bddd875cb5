"""Policies that only report: evaluated for real calls beside those in force, and deciding nothing.

A tenant's trial is held against the platform's policies that are in force, the platform's against those of each tenant:
what activating just that one would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from interlock.policy.engine import PolicyEngine, Ruling
from interlock.types.decision import Authorization, Reason, Tried
from interlock.types.identity import Caller
from interlock.types.request import Features
from interlock.types.snapshot import PolicyText, Trial
from interlock.types.source import Offer

PLATFORM = ""


class Trials:
    """Every trial of a snapshot, ready to be asked. `engine` makes an engine of a set of policies."""

    def __init__(
        self,
        trials: Iterable[Trial],
        policies: Iterable[PolicyText],
        engine: Callable[[Sequence[PolicyText]], PolicyEngine],
    ) -> None:
        self._of = {trial.tenant_id: trial for trial in trials}
        here = tuple(policies)
        platform = self._of.get(PLATFORM)
        self._platform = None
        if platform is not None:
            self._platform = engine((*platform.policies, *(p for p in here if p.tenant_id != PLATFORM)))
        own = {name: trial for name, trial in self._of.items() if name != PLATFORM}
        self._own = None
        if own:
            # tenants never share a decision, so one engine does for all of them
            tried = [p for trial in own.values() for p in trial.policies]
            self._own = engine((*(p for p in here if p.tenant_id not in own), *tried))

    def tried(
        self, caller: Caller, features: Features, offers: tuple[Offer, ...], decided: Authorization, wall_ns: int
    ) -> tuple[Tried, ...]:
        """What each trial that holds for this caller makes of a call that was decided so. Never raises."""
        tenant_id = caller.principal.tenant_id
        found = []
        if self._platform is not None:
            ruling = self._platform.rule(caller, features, offers, wall_ns)
            found.append(_tried(self._of[PLATFORM], decided, ruling))
        if self._own is not None and tenant_id in self._of:
            ruling = self._own.rule(caller, features, offers, wall_ns)
            found.append(_tried(self._of[tenant_id], decided, ruling))
        return tuple(found)


def outcome(before: Authorization, after: Authorization) -> str:
    """ "same", "denied", "permitted" or "other": what the second makes of a call that the first decides."""
    if before is after or set(before.allowed) == set(after.allowed):
        return "same"
    if not after.allowed:
        return "denied"
    return "other" if before.allowed else "permitted"


def differing(before: Authorization, after: Authorization) -> tuple[Reason, ...]:
    """The reasons against what the second takes away, and for what it adds."""
    lost = set(before.allowed) - set(after.allowed)
    reasons = [reason for reason in after.denials if reason.offer in lost]
    return (*reasons, *(reason for reason in after.permits if reason.offer not in before.allowed))


def _tried(trial: Trial, decided: Authorization, ruling: Ruling) -> Tried:
    would = outcome(decided, ruling.authorization)
    if would == "same":
        return Tried(trial.digest, would, tenant_id=trial.tenant_id)
    told = ruling.authorization
    return Tried(trial.digest, would, told.allowed, differing(decided, told), trial.tenant_id)
