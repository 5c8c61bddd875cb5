"""How much of one tenant's traffic may try another model than the best, and which models have a part of that.

Pure accounts, kept of calls that had a choice: how many tried another model, and what that cost. What was not tried, or
not spent, may be later. A model that is new, or that became worse, has a part of its own (`due`), for a bounded number
of calls.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

COLD_SHARE_MAX = 0.5
"""The most that is tried at any time."""
PACE_CALLS = 50
"""Calls over which an allowance that was not used is spread at least."""
DUE_TIMES = 10
"""How many times `Limits.cold_calls` a model is tried at most with a part of its own, to find out that it is as it was,
or how good it is."""
MONEY_MAX = 2.0
"""The most that a trial may cost more than the best on average, as a share of that, while little is known or money for
trials was left over. A higher setting holds."""
MONEY_KEEP = 1 - 1e-4
"""What is left of money that was not spent, after each later call."""
COST_KEEP = 0.998
"""What is left of a call's weight in the mean cost of the best, after each later one."""


class Limits(NamedTuple):
    """`share`: of calls, `money`: of what they cost, in the long run. `cold_calls`: per model on top."""

    share: float
    cold_calls: int
    money: float


class _Due:
    """A model that has a part. `left`: how often it is tried at most. `wanted`: outcomes of a new one after which it is
    known; 0: it became worse. `rising`: its outcomes are better than expected again."""

    __slots__ = ("left", "rising", "wanted")

    def __init__(self, left: int, wanted: int = 0) -> None:
        self.left = left
        self.wanted = wanted
        self.rising = False

    def over(self, *, tried: bool) -> bool:
        """Whether its part ends with this call of it."""
        self.left -= tried
        return self.left <= 0 or (self.rising and not tried)


class Trials:
    """The accounts of one tenant. Not thread-safe; deterministic."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._due: dict[str, _Due] = {}
        self._models = 0
        self.choices = 0
        """Calls with a choice of models."""
        self.tried = 0
        """Of these, how many tried another than the best."""
        self._choices_before = 0
        self._best_calls = self._best_cost = 0.0
        self._unspent = 0.0

    @property
    def due(self) -> Collection[str]:
        """The models that have a part."""
        return self._due.keys()

    @property
    def due_new(self) -> Collection[str]:
        """Those of them that are new."""
        return {name for name, due in self._due.items() if due.wanted}

    def models(self, names: Collection[str], new: Collection[str]) -> None:
        """The models that there are now, and which of them nothing is known of."""
        self._models = len(names)
        self._due = {name: due for name, due in self._due.items() if name in names}
        if self._most():
            self._due |= {name: _Due(self._most(), self._limits.cold_calls) for name in new}

    def outcome(self, name: str) -> None:
        """It was said how good an answer of a model was."""
        due = self._due.get(name)
        if due is not None and due.wanted:
            due.wanted -= 1
            if not due.wanted:
                del self._due[name]

    def fell(self, name: str) -> None:
        """A model became worse."""
        if self._most():
            self._due[name] = _Due(self._most())

    def rose(self, name: str) -> None:
        """A model became better: one that had become worse has its part until calls go to it as the best."""
        if name in self._due:
            self._due[name].rising = True

    def call(self, name: str, cost_nusd: int, *, tried: bool) -> None:
        """A call that had a choice ended. `cost_nusd`: -1: not known, and so on no account of money."""
        if cost_nusd >= 0:
            self._pay(cost_nusd, tried=tried)
        self.choices += 1
        self.tried += tried
        due = self._due.get(name)
        if due is not None and due.over(tried=tried):
            del self._due[name]

    def bounds(self, *, any_outcome: bool) -> tuple[float, float]:
        """(share of calls, what they may cost more as a share of what the best costs), until the next time; so that
        both stay within their limits in the long run, a cold allowance on top. None is tried before there was any
        outcome: nothing would be learned of it."""
        limits = self._limits
        ahead = max(self.choices - self._choices_before, PACE_CALLS)
        self._choices_before = self.choices
        if not any_outcome or not limits.share:
            return 0.0, 0.0
        left = limits.share * self.choices + self._cold() - self.tried
        return min(max(limits.share + left / ahead, 0.0), COLD_SHARE_MAX), self._money(ahead)

    def _most(self) -> int:
        return DUE_TIMES * self._limits.cold_calls if self._limits.share else 0

    def _cold(self) -> int:
        return self._limits.cold_calls * self._models

    def _money(self, ahead: int) -> float:
        limit = self._limits.money
        most = max(limit, MONEY_MAX)
        if not limit or self.tried < self._cold():
            return most if limit else 0.0
        expected = self._best() * ahead
        left = self._unspent / expected if expected else 0.0
        return min(max(limit + left, 0.0), most)

    def _best(self) -> float:
        """Mean cost of calls that went to the best, nano-USD."""
        return self._best_cost / self._best_calls if self._best_calls else 0.0

    def _pay(self, cost_nusd: int, *, tried: bool) -> None:
        """A trial's price is what its call cost beyond the mean of the best's; one that cost less earns nothing."""
        self._unspent = self._unspent * MONEY_KEEP + self._limits.money * cost_nusd
        if not tried:
            self._best_calls = self._best_calls * COST_KEEP + 1
            self._best_cost = self._best_cost * COST_KEEP + cost_nusd
        elif self.tried >= self._cold():
            self._unspent -= max(cost_nusd - self._best(), 0.0)
