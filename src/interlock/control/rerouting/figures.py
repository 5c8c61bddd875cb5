"""Estimates over calls that were decided again: cost, latency, energy, and quality by off-policy estimation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.control.rerouting.deciding import Choice
from interlock.control.rerouting.report import Estimate, Figure, Method, Quality, Untried
from interlock.control.rerouting.tally import Row, Tally
from interlock.learning import offpolicy
from interlock.learning.kin import Numbers
from interlock.learning.offpolicy import CALLS_MIN, CELL_MIN, Interval, Rewarded, Side
from interlock.metering.cost import Rates
from interlock.routing.explore import MICRO
from interlock.types.source import Offer
from interlock.types.usage import Usage

SEED = 0x1EAF
"""Of the bootstrap samples: the same calls give the same intervals."""
LOGGED, MEANS, VERBOSITY, DECLARED = "logged", "means", "verbosity", "declared"
UJ_PER_J = 1e6
UNTRIED_MAX = 50


class _Use(NamedTuple):
    """What a call is taken to use on one side: as `offpolicy.Side`, and on what that rests."""

    fixed: float
    factor: float
    cell: int
    basis: str


class _Cells:
    """Means that stand for calls that an offer did not answer: of the offer in the task, else of the offer."""

    def __init__(self, rows: Sequence[Row], amounts: Sequence[float]) -> None:
        known = (row for row, amount in zip(rows, amounts, strict=True) if isfinite(amount))
        seen = Counter((row.answered.offer, row.again.task) for row in known)
        whole: Counter[str] = Counter()
        for (offer, _), count in seen.items():
            whole[offer] += count
        self._places: dict[tuple[str, str | None], int] = {}
        for key, count in sorted(seen.items()):
            if count >= CELL_MIN:
                self._places[key] = len(self._places)
        for offer, count in sorted(whole.items()):
            if count >= CELL_MIN:
                self._places[offer, None] = len(self._places)

    def __len__(self) -> int:
        return max(len(self._places), 1)

    def best(self, offer: str, task: str) -> int:
        """The cell to take; -1: the offer answered too few."""
        return self._places.get((offer, task), self._places.get((offer, None), -1))

    def members(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """The cells that each call belongs to."""
        keys = [(row.answered.offer, row.again.task) for row in rows]
        return np.array([[self._places.get((o, t), -1), self._places.get((o, None), -1)] for o, t in keys], np.int64)


_Using = Callable[[Row, Choice, Mapping[str, Offer], int], _Use | None]


def figures(rows: Sequence[Row], now: Mapping[str, Offer], then: Mapping[str, Offer]) -> tuple[Figure, ...]:
    """Cost, latency and energy of calls that came to their end. `now`, `then`: offers by key on either side."""
    done = [row for row in rows if row.answered.completed]
    rates: dict[int, Rates] = {}

    def cost(row: Row, choice: Choice, offers: Mapping[str, Offer], cell: int) -> _Use | None:
        return _cost(row, choice, offers, cell, rates)

    return (
        _figure("cost", "nano-USD", done, [r.answered.usage.completion_tokens for r in done], cost, now, then),
        _figure("latency", "ms", done, [r.answered.total_us / 1000 for r in done], _latency, now, then),
        _figure("energy", "J", done, [_joules(r) for r in done], _energy, now, then),
    )


def _figure(
    name: str,
    unit: str,
    rows: Sequence[Row],
    amounts: Sequence[float],
    using: _Using,
    now: Mapping[str, Offer],
    then: Mapping[str, Offer],
) -> Figure:
    """`amounts`: what each call used of what cells are means of; NaN: not known."""
    cells = _Cells(rows, amounts)
    before: list[_Use] = []
    after: list[_Use] = []
    kept: list[int] = []
    for place, row in enumerate(rows):
        first, second = row.again.now, row.again.then
        one = using(row, first, now, cells.best(first.offer, row.again.task))
        other = using(row, second, then, cells.best(second.offer, row.again.task))
        if one is not None and other is not None:
            before.append(one)
            after.append(other)
            kept.append(place)
    basis = dict(Counter(use.basis for use in after).most_common())
    unknown = len(rows) - len(kept)
    if len(kept) < CALLS_MIN:
        return Figure(name, unit, len(kept), unknown, basis)
    chosen = [rows[place] for place in kept]
    seen = np.array([amounts[place] for place in kept], float)
    rng = np.random.default_rng(SEED)
    told = offpolicy.means(seen, cells.members(chosen), len(cells), _side(before), _side(after), rng)
    return Figure(name, unit, len(kept), unknown, basis, *(Estimate(*each) for each in told))


def _side(uses: Sequence[_Use]) -> Side:
    return Side(
        np.array([use.fixed for use in uses]),
        np.array([use.factor for use in uses]),
        np.array([use.cell for use in uses], np.int64),
    )


def _joules(row: Row) -> float:
    return row.answered.uj / UJ_PER_J if row.answered.uj >= 0 else nan


def _cost(row: Row, choice: Choice, offers: Mapping[str, Offer], cell: int, known: dict[int, Rates]) -> _Use | None:
    """Nano-USD by the price list of the side. What the model itself answered has its own tokens."""
    offer = offers[choice.offer]
    price, usage = offer.model.price, row.answered.usage
    if price.origin == "none" and not offer.source.labels.on_prem:
        return None
    rates = known.setdefault(id(offer), Rates(price))
    if choice.arm == row.answered.arm:
        return _Use(float(rates.cost(usage).nusd), 0.0, -1, LOGGED)
    asked = Usage(usage.prompt_tokens, 0, 0)
    fixed = rates.cost(asked).nusd
    per_token = (rates.cost(Usage(usage.prompt_tokens, 0, MICRO)).nusd - fixed) / MICRO
    if cell >= 0:
        return _Use(float(fixed), per_token, cell, MEANS)
    ratio = row.again.verbosity.get(choice.arm, 1000) / row.again.verbosity.get(row.answered.arm, 1000)
    return _Use(fixed + per_token * usage.completion_tokens * ratio, 0.0, -1, VERBOSITY)


def _latency(row: Row, choice: Choice, _offers: Mapping[str, Offer], cell: int) -> _Use | None:
    if choice.offer == row.answered.offer:
        return _Use(row.answered.total_us / 1000, 0.0, -1, LOGGED)
    return _Use(0.0, 1.0, cell, MEANS) if cell >= 0 else None


def _energy(row: Row, choice: Choice, offers: Mapping[str, Offer], cell: int) -> _Use | None:
    if choice.offer == row.answered.offer:
        return _Use(row.answered.uj / UJ_PER_J, 0.0, -1, LOGGED) if row.answered.uj >= 0 else None
    if cell >= 0:
        return _Use(0.0, 1.0, cell, MEANS)
    power, usage = offers[choice.offer].model.power, row.answered.usage
    if not power.method:
        return None
    prompt = usage.prompt_tokens * power.input_uj_per_token
    ratio = row.again.verbosity.get(choice.arm, 1000) / row.again.verbosity.get(row.answered.arm, 1000)
    completion = usage.completion_tokens * ratio * power.output_uj_per_token
    return _Use((prompt + completion + power.call_uj) / UJ_PER_J, 0.0, -1, DECLARED)


# -- quality


def quality(tally: Tally) -> Quality:
    """Of the calls with a reward, by both methods; and whether that can be relied on."""
    rows = [row for row in tally.rows if row.answered.reward >= 0]
    used = [row for row in rows if row.answered.arm == row.again.first]
    unsupported = sum(tally.untried.values()) / MICRO / tally.routed if tally.routed else 0.0
    untried = tuple(
        Untried(arm, micro / MICRO / tally.routed) for arm, micro in tally.untried.most_common(UNTRIED_MAX) if micro
    )
    found = offpolicy.quality(_rewarded(used)) if len(used) >= CALLS_MIN else None
    effective, largest, clipped = found.weight if found is not None else (0.0, 0.0, 0)
    why = _why(len(used), found is not None, effective, unsupported)
    return Quality(
        len(used),
        len(used) / tally.routed if tally.routed else 0.0,
        len(rows) - len(used),
        effective,
        largest,
        clipped,
        offpolicy.WEIGHT_MAX,
        unsupported,
        untried,
        not why,
        why,
        (_method("snips", found.snips), _method("dr", found.dr)) if found is not None else (),
    )


def _rewarded(rows: Sequence[Row]) -> Rewarded:
    def column(of: Callable[[Row], float]) -> Numbers:
        return np.array([of(row) for row in rows], float) / MICRO

    def value(row: Row, choice: Choice) -> float:
        return sum(chance * row.again.expected[arm] for arm, chance in choice.spread.items()) / MICRO

    return Rewarded(
        column(lambda r: r.answered.reward),
        column(lambda r: r.again.chance_micro),
        column(lambda r: r.again.expected[r.again.first]),
        column(lambda r: r.again.now.spread.get(r.again.first, 0)),
        column(lambda r: r.again.then.spread.get(r.again.first, 0)),
        column(lambda r: value(r, r.again.now)),
        column(lambda r: value(r, r.again.then)),
    )


def _method(name: str, found: offpolicy.Method) -> Method:
    def told(interval: Interval) -> Estimate:
        return Estimate(*interval)

    return Method(name, told(found.before), told(found.after), told(found.difference))


def _why(rewarded: int, estimated: bool, effective: float, unsupported: float) -> tuple[str, ...]:
    """Why the data cannot tell; nothing: they can."""
    why = []
    if not rewarded:
        why.append("no call has a reward: nobody said how good answers were")
    elif rewarded < CALLS_MIN:
        why.append(f"{rewarded} calls have a reward, and at least {CALLS_MIN} are needed")
    elif not estimated:
        why.append("no call with a reward would go to the model that answered it")
    elif effective < offpolicy.EFFECTIVE_MIN:
        why.append(
            f"too few rewards are of choices that would be made: they tell as much as {effective:.0f} calls,"
            f" and at least {offpolicy.EFFECTIVE_MIN:.0f} are needed"
        )
    if unsupported > offpolicy.UNSUPPORTED_MAX:
        why.append(
            f"{unsupported:.1%} of traffic would go to models that had no chance of getting it: of these only"
            " expectations tell, no outcome"
        )
    return tuple(why)
