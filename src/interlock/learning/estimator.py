"""What is expected of each model for a prompt, learned from outcomes that come one at a time.

It begins with nothing but prices, and is the next simpler thing while it cannot be more: models' means before enough
prompts were seen to tell tasks apart; then the table of tasks, and with `linear` the finer estimate over it. As
outcomes double it looks at its last prompts anew, finds rare words, directions and tasks again, and learns its last
outcomes over in their terms. Everything it keeps is bounded: the last prompts as hashes, tables, weights.

A model whose outcomes are suddenly others than expected is doubted again: what it did long ago counts no more. Where
they became worse this is kept aside, and when they are again rather as they were, it counts again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from interlock.learning.kin import Kin, Numbers
from interlock.learning.linear import NOISE, OF_OWN, WIDTH, Linear, features
from interlock.learning.prompt import SURFACE, Prompt
from interlock.learning.tasks import Tasks
from interlock.learning.understanding import Understanding

REMEMBERED = 4096
"""Last prompts with their outcomes that are kept."""
FIRST_LOOK = 128
"""Outcomes after which tasks are looked for the first time; then each time that they have doubled."""
WATCHED = 25
"""Outcomes of a model over which it is watched for a change: an older one counts for less and less."""
ALARM = 4.0
"""Standard deviations that the mean of these outcomes may be off before the model is doubted again."""
SETTLED = 75
"""Outcomes of a model before it is watched: until then being off is what learning is for."""
BACK = 6.0
"""How much likelier, as a logarithm, the outcomes of a model that became worse must be as they were before than as they
are expected now, before they are taken for that: one in four hundred would seem so by chance."""
BACK_WHOLLY = 2.0
"""The same, than half way between: one that is better than it was last, and not as it was, is learned anew instead."""
LITTLE = 0.05
"""A part below that of what is expected of a model beforehand is none."""
SURE = 0.98
"""The most that an outcome is taken to be certain in this."""


class Seen(NamedTuple):
    """One outcome of one model, as `learn` takes it; `prompt` None: nothing is known of it."""

    prompt: Prompt | None
    model: int
    outcome: float
    weight: float = 1.0


class _Away:
    """A model that became worse. `before`: its outcomes until then; `level`: their mean. `low`: what outcomes are now.
    `evidence`: for it being as it was, of the outcomes `since` there was none; `wholly`: and not half way."""

    __slots__ = ("before", "evidence", "level", "low", "since", "wholly")

    def __init__(self, before: list[Seen], last: list[Seen]) -> None:
        self.before = before
        self.level = _mean(before)
        self.again(last)

    def again(self, last: list[Seen]) -> None:
        """It became worse once more."""
        self.low = _mean(last)
        self._afresh()

    def back(self, seen: Seen) -> bool:
        """Take in an outcome: whether it is as it was before."""
        if self.low >= self.level:
            return False
        outcome = min(max(seen.outcome, 0.0), 1.0)
        self.evidence += seen.weight * self._likelier(outcome, self.low)
        self.wholly += seen.weight * self._likelier(outcome, (self.low + self.level) / 2)
        self.since.append(seen)
        if self.evidence <= 0:
            for each in self.since:
                self.low += (min(max(each.outcome, 1 - SURE), SURE) - self.low) / WATCHED
            self._afresh()
            return False
        if self.evidence > BACK and self.wholly > BACK_WHOLLY:
            return True
        if len(self.since) > 4 * WATCHED:  # better than it was last, and not as it was: it is learned anew
            self.again(self.since)
        return False

    def _afresh(self) -> None:
        self.evidence = self.wholly = 0.0
        self.since: list[Seen] = []

    def _likelier(self, outcome: float, low: float) -> float:
        return outcome * log(self.level / low) + (1 - outcome) * log((1 - self.level) / (1 - low))


def _mean(outcomes: list[Seen]) -> float:
    """Within what is taken to be certain."""
    return min(max(sum(seen.outcome for seen in outcomes) / len(outcomes), 1 - SURE), SURE)


class Estimator:
    """State of one learner. Not thread-safe; deterministic for its generator and what it is told."""

    def __init__(
        self,
        kin: Kin,
        rng: Generator,
        *,
        linear: bool = True,
        fade: float = 1e-4,
        priors: Numbers | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        """`kin`: of each model. `linear`: False stops at the table of tasks. `priors`: what to expect of each model
        before it is known, NaN where its kin are to tell."""
        models = len(kin.prices)
        self._kin, self._models = kin, models
        self._priors = priors
        self._rng = rng
        self._fade = fade
        self._with_linear = linear
        self.tasks = Tasks(kin, 1, fade, priors)
        self.linear: Linear | None = None
        self.understanding: Understanding | None = None
        self._remembered: deque[Seen] = deque(maxlen=remembered)
        self._next_look = FIRST_LOOK
        self._off = np.zeros(models)
        self._watched = np.zeros(models)
        self._away: dict[int, _Away] = {}
        self._surfaces, self._read = np.zeros((1, len(SURFACE))), np.zeros(1)
        self._features, self._featured = np.zeros(WIDTH), 0
        """Sum of the features that the linear estimate has learned from, and of how many prompts."""
        self.outcomes = 0
        self.looks = 0
        """How often prompts were looked at anew."""
        self.alarms = 0
        """How often a model was doubted again."""
        self.falls = 0
        """How often of these because its outcomes were worse than expected."""
        self.returns = 0
        """How often a model was as it was before it became worse."""

    def learn(self, prompt: Prompt | None, model: int, outcome: float, weight: float = 1.0) -> None:
        """The outcome of the model that was taken: in [0, 1], or a figure that is so on average. `weight`, at most 1:
        as how many outcomes it counts; its variance is taken to be that of an outcome over this."""
        seen = Seen(prompt, model, outcome, weight)
        self._remembered.append(seen)
        self.outcomes += 1
        if self.outcomes >= self._next_look and self._readable():
            self._look_again()
            return
        expected = float(self.expected(prompt)[0][model])
        self._take_in(seen)
        away = self._away.get(model)
        if away is not None and away.back(seen):
            self._restore(model)
            return
        self._watch(model, (outcome - expected) * weight**0.5)

    def expected(self, prompt: Prompt | None) -> tuple[Numbers, Numbers]:
        """(expected outcomes, doubt about them), one value per model."""
        if self.understanding is None:
            return self.tasks.expected()[:, 0], self.tasks.doubt()[:, 0]
        if prompt is None:
            return self.tasks.expected().mean(1), self.tasks.doubt().max(1)
        meaning, surface = self.understanding.view(prompt)
        if self.linear is None:
            task = self.understanding.task_of(meaning)
            return self.tasks.expected()[:, task], self.tasks.doubt()[:, task]
        seen = features(meaning, surface)
        return self.linear.expected(seen) + self._by_kin(self.linear), self.linear.doubt(seen)

    def weights(self) -> Numbers | None:
        """What is expected as a linear map: one row of `WIDTH` values per model; None while tasks alone tell."""
        if self.linear is None:
            return None
        found = self.linear.weights()
        found[:, 0] += self._by_kin(self.linear)
        return found

    def _by_kin(self, linear: Linear) -> Numbers:
        """What is added to the linear estimate of each model, which knows nothing of one but its outcomes: how far what
        its kin or its source make expect is from what all models do; less of it the more outcomes there are."""
        part = OF_OWN / (self.tasks.seen() + OF_OWN)
        if part.max() < LITTLE:
            return np.zeros(self._models)
        lead: Numbers = part * (self.tasks.beforehand() - linear.shared(self._features / max(self._featured, 1)))
        return lead

    def surfaces(self) -> Numbers:
        """The mean standardised surface of each task's prompts, tasks by `SURFACE`."""
        means: Numbers = self._surfaces / np.maximum(self._read, 1)[:, None]
        return means

    def _readable(self) -> bool:
        return sum(seen.prompt is not None for seen in self._remembered) >= FIRST_LOOK // 2

    def _take_in(self, seen: Seen) -> None:
        if self.understanding is None:
            self.tasks.learn(seen.model, 0, seen.outcome, seen.weight)
            return
        if seen.prompt is None:
            self.tasks.learn_somewhere(seen.model, seen.outcome, seen.weight)
            return
        meaning, surface = self.understanding.view(seen.prompt)
        task = self.understanding.task_of(meaning)
        self._surfaces[task] += surface
        self._read[task] += 1
        self.tasks.learn(seen.model, task, seen.outcome, seen.weight)
        if self.linear is not None:
            shown = features(meaning, surface)
            self._features += shown
            self._featured += 1
            self.linear.learn(seen.model, shown, seen.outcome, seen.weight)

    def _look_again(self) -> None:
        self._next_look = min(self._next_look * 2, self._next_look + REMEMBERED)
        self.looks += 1
        prompts = [seen.prompt for seen in self._remembered if seen.prompt is not None]
        self.understanding = Understanding(prompts, self._rng)
        self._learn_over()

    def _learn_over(self) -> None:
        """What is expected is learned from what is remembered alone."""
        if self._with_linear and self.understanding is not None:
            self.linear = Linear(self._models, self._fade)
        number = len(self.understanding.tasks) if self.understanding is not None else 1
        self.tasks = Tasks(self._kin, number, self._fade, self._priors)
        self._surfaces, self._read = np.zeros((number, len(SURFACE))), np.zeros(number)
        self._features, self._featured = np.zeros(WIDTH), 0
        for seen in self._remembered:
            self._take_in(seen)

    def _watch(self, model: int, off: float) -> None:
        """Follow how far outcomes are off what was expected, each in its own measure of chance; when that is none,
        forget what was."""
        self._watched[model] += 1
        self._off[model] += (off - self._off[model]) / min(self._watched[model], WATCHED)
        if self._watched[model] >= SETTLED and abs(self._off[model]) > ALARM * (NOISE / (2 * WATCHED)) ** 0.5:
            self._doubt_again(model)

    def _doubt_again(self, model: int) -> None:
        """What is expected of the model stays, and gives way quickly: its last outcomes count from here on."""
        fell = bool(self._off[model] < 0)
        self.alarms += 1
        self.falls += fell
        own = [seen for seen in self._remembered if seen.model == model]
        last = own[-WATCHED:]
        self._put_aside(model, own[:-WATCHED], last, fell=fell)
        self._remember([*self._of_others(model), *last])
        self._off[model] = self._watched[model] = 0
        self.tasks.doubt_again(model, WATCHED)
        if self.linear is not None:
            self.linear.doubt_again(model)
        for seen in last:
            self._take_in(seen)

    def _put_aside(self, model: int, before: list[Seen], last: list[Seen], *, fell: bool) -> None:
        if not fell:
            self._away.pop(model, None)
        elif model in self._away:
            self._away[model].again(last)
        elif len(before) >= WATCHED:
            self._away[model] = _Away(before[-self._share() :], last)

    def _restore(self, model: int) -> None:
        """The model is as it was: what it did before counts again, and what it has done since it is."""
        away = self._away.pop(model)
        self.alarms += 1
        self.returns += 1
        own = [*away.before, *away.since[-self._share() :]]
        room = (self._remembered.maxlen or REMEMBERED) - len(own)
        self._remember([*own, *self._of_others(model)[-room:]])
        self._off[model], self._watched[model] = 0, SETTLED - WATCHED
        self._learn_over()

    def _share(self) -> int:
        """Outcomes of one model that may come back into memory."""
        return max(1, (self._remembered.maxlen or REMEMBERED) // (2 * self._models))

    def _of_others(self, model: int) -> list[Seen]:
        return [seen for seen in self._remembered if seen.model != model]

    def _remember(self, seen: list[Seen]) -> None:
        self._remembered.clear()
        self._remembered.extend(seen)


def expected_of(estimator: Estimator, prompts: Sequence[Prompt]) -> Numbers:
    """Expected outcomes, one row per prompt and one column per model."""
    return np.stack([estimator.expected(p)[0] for p in prompts])
