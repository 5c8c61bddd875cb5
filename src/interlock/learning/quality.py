"""What the outcomes that a learner holds show of each model, for each team, task and origin: sums over a window.

The window is the last outcomes, and nothing fades in it, so that every figure is a count of what was seen. Tasks are
those of the state that is published: when prompts are looked at anew, which finds other tasks, each prompt of the
window is placed again. Sums that outlived their prompts could only be moved by guessing which old task has become which
new one. Pure.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from interlock.learning.published import MICRO
from interlock.types.quality import NO_TASK, OTHERS, Qualities, QualityCell, Sum

if TYPE_CHECKING:
    from interlock.learning.trainer import Outcome
    from interlock.learning.understanding import Understanding


NOT_PLACED = -2
STRENGTH = {"feedback": 4, "evaluation": 4, "validation": 3, "refusal": 3, "retry": 2, "judge": 1}
"""What counts for an answer of which several origins speak: somebody's word, then what a check shows, then what
somebody did, then what a model thinks; others last. Of equals the last word."""


class _Held:
    """An outcome with its task."""

    __slots__ = ("seen", "task")

    def __init__(self, seen: Outcome) -> None:
        self.seen = seen
        self.task = NOT_PLACED


class _Answer:
    """Outcomes of one model's answer to one call. `task`: as one of them has it: a prompt may be gone for the next."""

    __slots__ = ("strongest", "task")

    def __init__(self, first: _Held) -> None:
        self.strongest = first
        self.task = first.task


class QualityWindow:
    """The last outcomes of one tenant. Not thread-safe; deterministic for what it is told.

    `outcomes_max`: held, and so the most cells there are. `teams_max`, `arms_max`: told apart, those with most
    outcomes; the rest are told together as OTHERS.
    """

    def __init__(self, outcomes_max: int, teams_max: int, arms_max: int) -> None:
        self._held: deque[_Held] = deque(maxlen=outcomes_max)
        self._outcomes_max = outcomes_max
        self._teams_max = teams_max
        self._arms_max = arms_max
        self._understanding: Understanding | None = None

    def take(self, seen: Outcome) -> None:
        """Hold one more; the oldest goes when there are too many."""
        self._held.append(_Held(seen))

    def again(self, outcomes: Iterable[Outcome]) -> None:
        """Hold these, and no others."""
        self._held.clear()
        self._held.extend(_Held(seen) for seen in outcomes)

    def sums(self, version: int, understanding: Understanding | None) -> Qualities:
        """All of the window, in the tasks of an understanding; None: no tasks are told apart."""
        self._place(understanding)
        teams = _most(Counter(each.seen.team for each in self._held), self._teams_max)
        arms = _most(Counter(each.seen.arm for each in self._held), self._arms_max)
        answers = self._answers()
        sums: dict[tuple[str, str, int, str], tuple[Sum, Sum]] = {}
        for each in self._held:
            seen = each.seen
            answer = answers.get(_answer(seen))
            key = (
                seen.team if seen.team in teams else OTHERS,
                seen.arm if seen.arm in arms else OTHERS,
                answer.task if answer is not None else each.task,
                seen.origin,
            )
            one = Sum(1, round(MICRO * seen.reward), round(MICRO * seen.reward**2))
            every, once = sums.get(key, (Sum(), Sum()))
            counts = answer is None or answer.strongest is each
            sums[key] = every + one, once + one if counts else once
        times = [each.seen.at_ns for each in self._held]
        return Qualities(
            version,
            len(understanding.tasks) if understanding is not None else 0,
            len(self._held),
            self._outcomes_max,
            min(times, default=0),
            max(times, default=0),
            tuple(
                QualityCell(*key, *every, once if once != every else None)
                for key, (every, once) in sorted(sums.items())
            ),
        )

    def _answers(self) -> dict[tuple[str, str, str], _Answer]:
        """What is known of each answer whose call is known."""
        answers: dict[tuple[str, str, str], _Answer] = {}
        for each in self._held:
            if not each.seen.call:
                continue
            answer = answers.setdefault(_answer(each.seen), _Answer(each))
            if STRENGTH.get(each.seen.origin, 0) >= STRENGTH.get(answer.strongest.seen.origin, 0):
                answer.strongest = each
            if each.task != NO_TASK:
                answer.task = each.task
        return answers

    def _place(self, understanding: Understanding | None) -> None:
        anew = understanding is not self._understanding
        self._understanding = understanding
        for each in self._held:
            if anew or each.task == NOT_PLACED:
                each.task = _task_of(each.seen, understanding)


def _answer(seen: Outcome) -> tuple[str, str, str]:
    return seen.call, seen.team, seen.arm


def _task_of(seen: Outcome, understanding: Understanding | None) -> int:
    if understanding is None or seen.prompt is None:
        return NO_TASK
    return understanding.task_of(understanding.view(seen.prompt)[0])


def _most(counts: Counter[str], number: int) -> set[str]:
    return set(sorted(counts, key=lambda name: (-counts[name], name))[:number])
