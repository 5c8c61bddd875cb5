"""What a call is charged to budgets. Pure: gateways, the ledger and who checks it count the same way."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.types.budget import Charge
from interlock.types.record import StepEnd
from interlock.types.usage import Cost, Energy, Usage, divide_half_even

NOTHING: tuple[int, ...] = ()
MIXED = "mixed"
"""Of what several steps took: each has its own price, or its own method."""


def charged(
    charges: Sequence[Charge],
    *,
    ran: bool,
    model: str,
    usage: Usage,
    cost: Cost,
    energy: Energy,
    steps: Sequence[StepEnd] = (),
) -> tuple[int, ...]:
    """What a call that ended takes of each of its budgets, in units of their measures.

    `ran`: a source worked on it; what no source worked on is charged nothing. `model`: the one that answered, or was
    being asked. `steps`: of a cascade, those that are over; each counts for its own model, and `ran`, `model` and
    the figures are of what came after them. Energy is the estimate that the call ended with: what a meter says later
    is in reports.
    """
    if not charges:
        return NOTHING
    if steps:
        parts = [(s.model, s.usage.total_tokens, s.cost.nusd, s.energy.uj) for s in steps]
        if ran:
            parts.append((model, usage.total_tokens, cost.nusd, energy.uj))
        return tuple([_of_parts(each, parts) for each in charges])
    if not ran:
        return (0,) * len(charges)
    by = {"calls": 1, "tokens": usage.total_tokens, "nusd": cost.nusd, "uj": energy.uj}
    return tuple([by[each.measure] if not each.model or each.model == model else 0 for each in charges])


def _of_parts(charge: Charge, parts: Sequence[tuple[str, int, int, int]]) -> int:
    """What a cascade's parts (model, tokens, nano-USD, microjoules) take of one budget: the call counts once."""
    own = [part for part in parts if charge.model in ("", part[0])]
    if charge.measure == "calls":
        return 1 if own else 0
    place = {"tokens": 1, "nusd": 2, "uj": 3}[charge.measure]
    return sum(int(part[place]) for part in own)


def interrupted(
    charges: Sequence[Charge], *, ran: bool, model: str, cost: Cost, steps: Sequence[StepEnd] = ()
) -> tuple[int, ...]:
    """The same for a call whose end nobody knows: what was reserved, of money what its last attempt reserved, on top of
    what the steps before it cost. A budget that nothing was under way on is charged what its steps took."""
    if steps:
        return tuple([_of_interrupted(each, ran, model, cost, steps) for each in charges])
    if not ran:
        return (0,) * len(charges)
    return tuple(
        [
            0 if each.model not in ("", model) else cost.nusd if each.measure == "nusd" else each.reserved
            for each in charges
        ]
    )


def _of_interrupted(charge: Charge, ran: bool, model: str, cost: Cost, steps: Sequence[StepEnd]) -> int:
    parts = [(s.model, s.usage.total_tokens, s.cost.nusd, s.energy.uj) for s in steps]
    if not ran or charge.model not in ("", model):
        return _of_parts(charge, parts)
    took = _of_parts(charge, [*parts, (model, 0, cost.nusd, 0)])
    return max(took, charge.reserved) if charge.measure in ("tokens", "uj") else took


def usage_of(parts: Sequence[Usage]) -> Usage:
    """The tokens of a cascade's parts together; "reserved" where those of one are."""
    return Usage(
        sum(each.prompt_tokens for each in parts),
        sum(each.cached_tokens for each in parts),
        sum(each.completion_tokens for each in parts),
        "reserved" if any(each.origin == "reserved" for each in parts) else "engine",
        sum(each.cache_write_tokens for each in parts),
    )


def cost_of(parts: Sequence[Cost]) -> Cost:
    """What a cascade's parts cost together; the price is named where it is the same for all, else "mixed"."""
    prices, versions = {each.price for each in parts}, {each.version for each in parts}
    price = prices.pop() if len(prices) == 1 else MIXED
    return Cost(sum(each.nusd for each in parts), price, versions.pop() if len(versions) == 1 else "")


def energy_of(parts: Sequence[Energy]) -> Energy:
    """What a cascade's parts took together. The factor of CO2 is their mean by energy, 0 where one is unknown."""
    total = sum(each.uj for each in parts)
    methods = {each.method for each in parts if each.method}
    factors = {each.ug_per_kwh for each in parts if each.uj}
    factor = factors.pop() if len(factors) == 1 else 0
    if not factor and factors and 0 not in factors:
        factor = divide_half_even(sum(each.uj * each.ug_per_kwh for each in parts), total)
    return Energy(
        total,
        sum(each.low_uj for each in parts),
        sum(each.high_uj for each in parts),
        methods.pop() if len(methods) == 1 else MIXED if methods else "",
        factor,
    )
