"""What a call is charged to budgets. Pure: gateways, the ledger and who checks it count the same way."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.types.budget import Charge
from interlock.types.usage import Cost, Energy, Usage

NOTHING: tuple[int, ...] = ()


def charged(
    charges: Sequence[Charge], *, ran: bool, model: str, usage: Usage, cost: Cost, energy: Energy
) -> tuple[int, ...]:
    """What a call that ended takes of each of its budgets, in units of their measures.

    `ran`: a source worked on it; what no source worked on is charged nothing. `model`: the one that answered, or was
    being asked. Energy is the estimate that the call ended with: what a meter says later is in reports.
    """
    if not charges:
        return NOTHING
    if not ran:
        return (0,) * len(charges)
    by = {"calls": 1, "tokens": usage.total_tokens, "nusd": cost.nusd, "uj": energy.uj}
    return tuple([by[each.measure] if each.model in ("", model) else 0 for each in charges])


def interrupted(charges: Sequence[Charge], *, ran: bool, model: str, cost: Cost) -> tuple[int, ...]:
    """The same for a call whose end nobody knows: what was reserved, of money what its last attempt reserved."""
    if not ran:
        return (0,) * len(charges)
    return tuple(
        [
            0 if each.model not in ("", model) else cost.nusd if each.measure == "nusd" else each.reserved
            for each in charges
        ]
    )
