"""How quickly a gateway notices that a model changed: as `evaluation.drift`, by the gateway's own parts.

A `Trainer` is told of every call, and of the outcomes of all of them or of a share. Its state is published every
`CALLS_PER_STATE` calls; in between calls are decided by the last one, in integers, with the bounds on trying others
that it holds. How a call is decided is passed in (`Decide`): routing and learning do not know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from interlock.learning.evaluation.data import Data, Numbers
from interlock.learning.evaluation.drift import LATER, MODES, MOVED, PROBES, Moved, Told, degraded, over, with_better
from interlock.learning.evaluation.splits import split
from interlock.learning.prompt import Prompt
from interlock.learning.published import MICRO, Expectations, Reader
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer
from interlock.learning.trainer import Told as Call
from interlock.types.learned import Estimates

CALLS_PER_STATE = 100
"""Calls between two states: 3.3 a second at the default of `learning_publish_ms`."""
TOLD = (1.0, 0.1)
"""Shares of calls whose outcome is told that are measured."""
SPLITS = 2
"""Most splits that it is measured on."""
UNPRICED = 0.01
"""What the weaker of two models costs beside the stronger one where a folder has no prices: where the best is free,
gateways try nothing that costs."""
_SEEDS = 2**62
_DEAREST = 1_000_000_000
"""Nano-USD for a call of the dearest model: only what costs are to each other matters."""


class Taken(NamedTuple):
    """Numbers of the model that a call goes to, and of the best one by what is known."""

    arm: int
    best: int


class Offered(NamedTuple):
    """One model of a call: its score and the doubt about it in millionths, its cost in nano-USD, whether it has a
    part of the share (`ArmWeights.due`)."""

    score: int
    doubt: int
    cost: int
    due: bool


Decide = Callable[[Sequence[Offered], int, int, int], Taken]
"""From what is offered, the share and the money that may go into trying others (`Weights`), and a seed."""


class GatewayDrift(NamedTuple):
    """All changes, with the outcomes of a share `told` of calls."""

    told: float
    moved: list[Moved]


class _Traffic:
    """Calls of one tenant, from the rows of one split, with what every model makes of each."""

    def __init__(
        self, data: Data, prompts: list[Prompt], quality: Numbers, cost: Numbers, seed: int, told: float, decide: Decide
    ) -> None:
        self._learn, test = split(len(prompts), data.plan.test_share, seed, data.groups)
        self._texts, self._prompts, self._probes = data.texts, prompts, test[:PROBES]
        self.quality, self._told, self._decide = quality, told, decide
        price = cost[self._learn].mean(0)
        if not data.priced:
            price = np.maximum(price, UNPRICED * price.max())
        self._price = price
        self._nusd = [max(1, round(_DEAREST * float(p / price.max()))) for p in price]
        self._rng = np.random.default_rng(seed)
        self._trainer = Trainer(Plan(), self._rng)
        self._names = [f"m{number:04}" for number in range(len(price))]
        self._arms: list[int] = []
        self._at = self._version = 0
        self._reader: Reader | None = None
        self._signals: dict[int, bytes] = {}
        self._state: Expectations | None = None

    def offer(self, arms: Sequence[int]) -> None:
        """The models that there are from here on; the next state knows."""
        self._arms = list(arms)
        self._trainer.models({self._names[arm]: Arm(float(self._price[arm])) for arm in arms})
        self._publish()

    def send(self, states: int) -> None:
        """Calls, each in a mode drawn at random, until so many states more are published."""
        for _ in range(states * CALLS_PER_STATE):
            row = int(self._learn[self._at % len(self._learn)])
            self._at += 1
            mode = MODES[int(self._rng.integers(len(MODES)))]
            state = self._estimates(row)
            offered = [
                Offered(
                    score,
                    state.doubt_micro.get(self._names[arm], MICRO),
                    self._nusd[arm],
                    self._names[arm] in state.due,
                )
                for arm, score in zip(self._arms, self._scores(state, mode), strict=True)
            ]
            taken = self._decide(offered, state.share_micro, state.money_micro, int(self._rng.integers(_SEEDS)))
            self._told_of(row, self._arms[taken.arm], taken.arm != taken.best)
            if self._at % CALLS_PER_STATE == 0:
                self._publish()

    def shares(self) -> Numbers:
        """Per model, the share of the probes in all modes that would go to it, others than the best not being tried."""
        taken = np.zeros(len(self._names))
        for row in self._probes:
            state = self._estimates(int(row))
            for mode in MODES:
                taken[self._arms[int(np.argmax(self._scores(state, mode)))]] += 1
        share: Numbers = taken / taken.sum()
        return share

    def until(self, reached: Callable[[Numbers], bool]) -> float:
        """Calls until shares are as they should be; infinite when that took more than `LATER`."""
        for sent in range(CALLS_PER_STATE, LATER + CALLS_PER_STATE, CALLS_PER_STATE):
            self.send(1)
            if reached(self.shares()):
                return float(sent)
        return float("inf")

    def _told_of(self, row: int, arm: int, tried: bool) -> None:
        name = self._names[arm]
        self._trainer.call(Call(name, name, False, -1, -1, 0, self._nusd[arm], -1, len(self._arms) > 1, tried))
        if self._told >= 1 or self._rng.random() < self._told:
            self._trainer.outcome(Outcome(name, float(self.quality[row, arm]), "feedback", self._prompts[row]))

    def _scores(self, state: Estimates, mode: float) -> list[int]:
        return [
            state.quality_micro.get(self._names[arm], MICRO // 2) - round(mode * MICRO * self._nusd[arm] / _DEAREST)
            for arm in self._arms
        ]

    def _estimates(self, row: int) -> Estimates:
        assert self._state is not None  # noqa: S101 - `offer` comes first
        signals = b""
        if self._reader is not None:
            signals = self._signals.get(row, b"")
            if not signals:
                signals = self._signals[row] = self._reader.signals(self._texts[row])
        return self._state.estimates(signals, 0)

    def _publish(self) -> None:
        self._version += 1
        weights, words = self._trainer.state(self._version, 0)
        if words is not None:
            self._reader = Reader(words)
            self._signals = {}
        elif not weights.words:
            self._reader = None
        self._state = Expectations(weights)


def gateway_drift(
    data: Data, prompts: list[Prompt], requests: int, decide: Decide, progress: Callable[[str], None]
) -> list[GatewayDrift]:
    """Measure all changes, for each share of outcomes in `TOLD`. `requests`: calls before the first change, rounded up
    to states. Rows to learn from come again when there are too few."""
    seeds = data.plan.seeds[:SPLITS]
    out = []
    for told in TOLD:
        found: dict[str, list[Told]] = {}
        for number, seed in enumerate(seeds):
            progress(f"drift at a gateway, outcomes of {told:.0%}, split {number + 1} of {len(seeds)}")
            states = -(-requests // CALLS_PER_STATE)
            for change, one in _changes(data, prompts, states, seed, told, decide):
                found.setdefault(change, []).append(one)
        out.append(GatewayDrift(told, [over(change, all_) for change, all_ in found.items()]))
    return out


def _changes(
    data: Data, prompts: list[Prompt], states: int, seed: int, told: float, decide: Decide
) -> list[tuple[str, Told]]:
    traffic = _Traffic(data, prompts, data.quality.copy(), data.cost, seed, told, decide)
    traffic.offer(range(len(data.models)))
    traffic.send(states)
    changes = degraded(traffic, data.quality)
    return [*changes, ("a better and cheaper model appears", _arriving(data, prompts, states, seed, told, decide))]


def _arriving(data: Data, prompts: list[Prompt], states: int, seed: int, told: float, decide: Decide) -> Told:
    quality, cost = with_better(data.quality, data.cost, np.random.default_rng(seed))
    traffic = _Traffic(data, prompts, quality, cost, seed, told, decide)
    number = len(data.models)
    traffic.offer(range(number))
    traffic.send(states)
    traffic.offer(range(number + 1))
    path: list[float] = []
    for _ in range(LATER // CALLS_PER_STATE):
        traffic.send(1)
        path.append(float(traffic.shares()[-1]))
    final = float(np.mean(path[-4:]))
    there = next((CALLS_PER_STATE * (n + 1) for n, share in enumerate(path) if share >= MOVED * final), np.nan)
    return Told(float(there) if final > 0 else np.nan, 0.0, final)
