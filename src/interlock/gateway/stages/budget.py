"""budget: what the call may take of the budgets it counts on is reserved, for the dearest of its candidates.

After route, because what a call may cost is known of its candidates only. A candidate that is too dear for what is left
is left out; the call is refused when none remains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.gateway.treasury import Hold, Need, Short
from interlock.routing.steps import step_of
from interlock.types.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.types.budget import Budget
    from interlock.types.request import TargetStep
    from interlock.types.source import Offer


def budgeted(call: Call) -> bool:
    """Whether any budget may apply."""
    identity = call.identity
    assert identity is not None  # noqa: S101 - stage order
    return bool(identity.budgets or identity.book.by_model)


def reserve(call: Call, runtime: Runtime) -> Short | None:
    """Fill `call.hold` and `call.affordable`; or say which share is too small and has to be asked for.

    Raises LimitExceeded or Unavailable when that was asked already and there is no cheaper candidate.
    """
    identity = call.identity
    assert identity is not None  # noqa: S101 - stage order
    offers = affordable(call)
    while True:
        needs, dearest = needs_of(call, offers)
        taken = runtime.treasury.take(needs, identity.book.zone, call.wall_ns)
        if isinstance(taken, Hold):
            call.hold = taken
            return None
        error = runtime.treasury.refusal(taken)
        if error is None:
            return taken
        offers = leave_out(call, offers, dearest.get(taken.lease.budget.id, frozenset()), error)


def affordable(call: Call) -> list[Offer]:
    """The candidates that are not left out."""
    assert call.route is not None  # noqa: S101 - stage order
    candidates, left = call.route.candidates, call.affordable
    return [call.offer(each.offer) for each in candidates if left is None or each.offer in left]


def leave_out(call: Call, offers: list[Offer], dear: frozenset[str], error: InterlockError) -> list[Offer]:
    """The candidates without the dearest ones. Raises the error when there are no others."""
    rest = [offer for offer in offers if offer.key not in dear]
    if not rest or len(rest) == len(offers):
        raise error
    call.affordable = frozenset(offer.key for offer in rest)
    return rest


def needs_of(call: Call, offers: list[Offer]) -> tuple[list[Need], dict[str, frozenset[str]]]:
    """What the call may take of each budget with these candidates; and by budget the candidates that may take that
    much."""
    if call.target is not None and call.target.steps:
        return _needs_of_steps(call, call.target.steps, offers)
    return _needs_of_one(call, offers)


def _needs_of_steps(
    call: Call, steps: Sequence[TargetStep], offers: list[Offer]
) -> tuple[list[Need], dict[str, frozenset[str]]]:
    """Of a cascade: what its steps may take together, for the dearest candidate of each; and by budget the dearest
    candidates of the dearest step."""
    totals: dict[str, Need] = {}
    dearest: dict[str, tuple[int, frozenset[str]]] = {}
    for number in range(len(steps)):
        own = [offer for offer in offers if step_of(steps, offer) == number]
        needs, dear = _needs_of_one(call, own)
        for need in needs:
            key, before = need.budget.id, totals.get(need.budget.id)
            amount = need.amount
            if before is not None and need.budget.measure != "calls":
                amount += before.amount  # a cascade is one call
            totals[key] = need._replace(amount=amount)
            if key not in dearest or need.amount >= dearest[key][0]:
                dearest[key] = need.amount, dear[key]
    return list(totals.values()), {key: offers_of for key, (_, offers_of) in dearest.items()}


def _needs_of_one(call: Call, offers: list[Offer]) -> tuple[list[Need], dict[str, frozenset[str]]]:
    identity, features, links = call.identity, call.features, call.state.links
    assert identity is not None and features is not None  # noqa: S101 - stage order
    prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
    most: dict[str, tuple[int, Budget, str]] = {}
    dearest: dict[str, frozenset[str]] = {}
    for offer in offers:
        model, this = offer.model.name, frozenset((offer.key,))
        on_model = identity.book.by_model.get(model)
        for budget in (*identity.budgets, *on_model) if on_model else identity.budgets:
            if budget.measure == "calls":
                amount = 1
            elif budget.measure == "tokens":
                amount = prompt + completion
            else:
                rates, estimate = links[offer.source.id].meters(offer)
                if budget.measure == "nusd":
                    amount = rates.bound(prompt, completion).nusd
                else:
                    amount = estimate.energy(Usage(prompt, 0, completion, "reserved")).uj
            known = most.get(budget.id)
            if known is None or amount > known[0]:
                most[budget.id] = (amount, budget, model if budget.kind == "model" else "")
                dearest[budget.id] = this
            elif amount == known[0]:
                dearest[budget.id] |= this
    return [Need(budget, amount, model) for amount, budget, model in most.values()], dearest
