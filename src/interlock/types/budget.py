"""Budgets: how much of something a tenant, team, principal, key or model may use within a window of time."""

from __future__ import annotations

import msgspec

KINDS = ("tenant", "team", "principal", "key", "model", "shadow", "judge")
AMOUNT_MAX = 2**62


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """One budget as gateways know it.

    `kind`: what it is on, one of `KINDS`; `subjects`: ids of these (of a key: all that bear its name, so that a rotated
    one counts on the same budget; of a model its name, of a shadow its alias's, of a judge
    what `Judging.model` says). `amount` in units of `measure`.
    `window`: see `interlock.metering.periods`. `hard`: calls that would exceed it are refused; else it only counts and
    alerts.
    """

    id: str
    tenant_id: str
    name: str
    kind: str
    subjects: tuple[str, ...]
    measure: str
    amount: int
    window: str = "month"
    hard: bool = True


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What a call may take of one budget's period (which begins at `start_s`, Unix seconds), fixed at its admission.

    `reserved`: in units of `measure`, 0 for a soft budget. `model`: of a budget on a model, its name: the call counts
    when that model answered.
    """

    budget: str
    measure: str
    start_s: int
    reserved: int
    model: str = ""
