"""What a judge's verdicts are worth as outcomes: less than what people say, and nothing where it is found out.

Three things could make a judge's word worth nothing, and each is measured:

    an answer pleases whatever was asked    controls: its scores against questions that it does not answer are the zero
                                            from which its scores count
    the judge does not know                 pairs: its scores beside what people or checks said of the same calls; where
                                            enough of them show no agreement beyond chance, it counts for nothing;
                                            it alone, for each judge has pairs of its own
    it prefers a place                      the place of each answer is drawn (`interlock.routing.judged`)

With `s` a score and `c` a little more than the mean of the model's controls, the outcome is (s - c) / (1 - c). It is
not cut off at 0: what is cut off one by one does not cancel out, so that scores which merely vary around `c` would come
to something. Verdicts on a model that come before enough controls of it wait for these.

A preference is an outcome of the challenger, p' + {1, 0, -1} for won, tie, lost, with p' what is expected of the other
model for this prompt. When a tie means that both do what was asked or neither does, won less lost is the challenger's
outcome less the other's, whatever both have in common: so its mean is p' + p2 - p1, which is p2 where p' is p1 on
average. Such an outcome lies in [-1, 2]; what is expected stays within [0, 1] (`Tasks`, `Expectations`).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from interlock.learning.prompt import Prompt
from interlock.types.learned import AGREES, CHANCE, CONSTANT, FEW, JUDGE_COUNTS, JUDGE_PAIRS_MIN, UNVARIED, JudgeTrust

_K = TypeVar("_K")
_V = TypeVar("_V")
ORIGIN = "judge"
SCORE, CONTROL, PREFERENCE = "score", "control", "preference"
SCORE_WEIGHT = 0.5
"""What a score counts for beside what a person says."""
PREFERENCE_WEIGHT = 0.3
"""Likewise of a preference: two answers vary in it, and a judge errs over both."""
CONTROLS_MIN = 6
"""Controls of a model before what is said of it counts."""
SCALE_MIN = 0.5
"""The least that the room above the controls is stretched from: beyond, verdicts would be noise made large."""
PLEASING = 0.5
"""A preference counts only between models whose controls are below this."""
PAIRS_MIN, PAIRS_MAX = JUDGE_PAIRS_MIN, 200
"""Pairs of a judge's score and somebody else's word of the same call: from how many on it is held against them; how
many of the last are kept."""
Z95_ONE_SIDED = 1.645
REMEMBERED = 4096
"""Last calls whose scores wait for somebody's word, and last calls of which there is one for scores to come."""
WAITING_MAX = 256
"""Verdicts of one model that wait for its controls."""
JUDGES_MAX = 8
"""Judges of a tenant that are held against others' words, and scores of one call that wait for these. Who was not for
longest goes: a judge that comes back counts unexamined, as a new one does."""
ARMS_MAX = 128
"""Pairs of judge and model that are told apart; the oldest go."""


class Verdict(NamedTuple):
    """What a judge said. `judge`, `arm`: models; of a preference `arm` is the challenger, `against` the other one, and
    `worth` 1 for won, 0 for a tie, -1 for lost; else a score in [0, 1]. `request`: the call that is judged; `team`,
    `at_ns`: of its caller, and when it was, Unix time."""

    what: str
    judge: str
    arm: str
    worth: float
    prompt: Prompt | None
    request: str
    against: str = ""
    team: str = ""
    at_ns: int = 0

    @property
    def arms(self) -> tuple[str, ...]:
        """The models that it is about, and the judge."""
        return tuple(each for each in (self.judge, self.arm, self.against) if each)


class Worth(NamedTuple):
    """An outcome of a model that a verdict comes to, if its judge is believed. It counts as `weight` outcomes do.
    `call`: the one judged. `against`: of a preference the other model, `lead`: 1 for won, 0 for a tie, -1 for lost."""

    arm: str
    outcome: float
    weight: float
    prompt: Prompt | None
    team: str
    at_ns: int
    call: str
    judge: str
    against: str = ""
    lead: float = 0.0


class Agreement(NamedTuple):
    """How far scores go with what others said. `correlation`: theirs, `least`: its lower bound at 95 %, one-sided; None
    where it cannot be told. `why`: what that comes to."""

    why: str
    correlation: float | None = None
    least: float | None = None


class _Pair(NamedTuple):
    """A judge's score, what somebody else said of the same call, and who: an origin."""

    score: float
    said: float
    origin: str


class _Beside:
    """Pairs of one judge, and what they came to when they were last looked at."""

    __slots__ = ("found", "left", "pairs")

    def __init__(self) -> None:
        self.pairs: deque[_Pair] = deque(maxlen=PAIRS_MAX)
        self.found = Agreement(FEW)
        self.left = PAIRS_MIN

    @property
    def trusted(self) -> bool:
        return self.found.why in JUDGE_COUNTS

    def take(self, pair: _Pair) -> None:
        """One more. Who lost trust is looked at again after as many new ones as the first look took: what was said is
        not learned over to and fro by single words."""
        self.pairs.append(pair)
        self.left -= 1
        if self.left > 0:
            return
        before, self.found = self.trusted, agreement([(each.score, each.said) for each in self.pairs])
        if before and not self.trusted:
            self.left = PAIRS_MIN


class _Controls:
    """Scores of one model's answers against questions that they do not answer."""

    def __init__(self) -> None:
        self.number = 0
        self.total = 0.0
        self.waiting: deque[Verdict] = deque(maxlen=WAITING_MAX)

    def take(self, score: float) -> None:
        self.number += 1
        self.total += score

    @property
    def enough(self) -> bool:
        return self.number >= CONTROLS_MIN

    @property
    def zero(self) -> float:
        """A little more than their mean: by one standard error of it, as though half a control more were wrong."""
        mean = (self.total + 0.5) / (self.number + 1)
        return min(mean + math.sqrt(mean * (1 - mean) / (self.number + 1)), 1.0)


class Judges:
    """All verdicts of one tenant. Bounded; deterministic for what it is told, in its order."""

    def __init__(self) -> None:
        self._controls: OrderedDict[tuple[str, str], _Controls] = OrderedDict()
        self._pairs: OrderedDict[str, _Beside] = OrderedDict()
        self._scored: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()
        self._said: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._believed: Mapping[str, bool] = {}

    def taken(self, verdict: Verdict, expected: Callable[[str, Prompt | None], float]) -> Iterator[Worth]:
        """What a verdict comes to, with what waited for it, whether its judge is believed or not. `expected`: outcome
        of a model for a prompt."""
        if verdict.what == CONTROL:
            controls = self._of(verdict.judge, verdict.arm)
            controls.take(verdict.worth)
            if controls.enough and controls.waiting:
                waiting = list(controls.waiting)
                controls.waiting.clear()
                for each in waiting:
                    yield from self._worth(each, expected)
        else:
            yield from self._worth(verdict, expected)

    def said(self, request: str, reward: float, origin: str = "") -> None:
        """What somebody else than a judge says of a call, in [0, 1]. The last word holds."""
        for judge, score in self._scored.pop(request, {}).items():
            self._pair(judge, _Pair(score, reward, origin))
        _keep(self._said, request, (reward, origin), REMEMBERED)

    @property
    def believed(self) -> Mapping[str, bool]:
        """The judges that have pairs, and whether each is trusted: another mapping once one is, or is no more."""
        return self._believed

    def trusted(self, judge: str) -> bool:
        """Whether a judge's word counts: it does until pairs show that it agrees with others no more than chance."""
        return self._believed.get(judge, True)

    def trust(self) -> tuple[JudgeTrust, ...]:
        """How far each judge is believed, by its name."""
        known = [*reversed(self._pairs), *(judge for judge, _ in reversed(self._controls))]
        return tuple(self._trust(judge) for judge in sorted(list(dict.fromkeys(known))[:JUDGES_MAX]))

    def _trust(self, judge: str) -> JudgeTrust:
        beside = self._pairs.get(judge, _Beside())
        found = beside.found
        origins = Counter(pair.origin for pair in beside.pairs)
        waiting = sum(len(controls.waiting) for (by, _), controls in self._controls.items() if by == judge)
        correlation, least = (None if value is None else round(1000 * value) for value in found[1:])
        return JudgeTrust(judge, beside.trusted, found.why, dict(sorted(origins.items())), correlation, least, waiting)

    def _worth(self, verdict: Verdict, expected: Callable[[str, Prompt | None], float]) -> Iterator[Worth]:
        for arm in (verdict.arm, verdict.against):
            controls = self._of(verdict.judge, arm) if arm else None
            if controls is not None and not controls.enough:
                controls.waiting.append(verdict)
                return
        zero = self._of(verdict.judge, verdict.arm).zero
        if verdict.what == PREFERENCE:
            pleasing = max(zero, self._of(verdict.judge, verdict.against).zero) >= PLEASING
            if not pleasing:
                outcome = expected(verdict.against, verdict.prompt) + verdict.worth
                found = _worth(verdict, outcome, PREFERENCE_WEIGHT)
                yield found._replace(against=verdict.against, lead=verdict.worth)
            return
        value = (verdict.worth - zero) / max(1.0 - zero, SCALE_MIN)
        self._scores(verdict, value)
        yield _worth(verdict, value, SCORE_WEIGHT)

    def _scores(self, verdict: Verdict, value: float) -> None:
        said = self._said.get(verdict.request)
        if said is not None:
            self._pair(verdict.judge, _Pair(value, *said))
            return
        scores = self._scored.get(verdict.request, OrderedDict())
        _keep(scores, verdict.judge, value, JUDGES_MAX)
        _keep(self._scored, verdict.request, scores, REMEMBERED)

    def _pair(self, judge: str, pair: _Pair) -> None:
        beside = self._pairs.get(judge, _Beside())
        beside.take(pair)
        _keep(self._pairs, judge, beside, JUDGES_MAX)
        believed = {each: held.trusted for each, held in self._pairs.items()}
        if believed != self._believed:
            self._believed = believed

    def _of(self, judge: str, arm: str) -> _Controls:
        controls = self._controls.get((judge, arm))
        if controls is None:
            controls = _Controls()
            _keep(self._controls, (judge, arm), controls, ARMS_MAX)
        return controls


def _worth(verdict: Verdict, outcome: float, weight: float) -> Worth:
    return Worth(
        verdict.arm, outcome, weight, verdict.prompt, verdict.team, verdict.at_ns, verdict.request, verdict.judge
    )


def agreement(pairs: list[tuple[float, float]]) -> Agreement:
    """Whether scores go with what others said beyond chance: their correlation is above 0 with 95 % confidence
    (Fisher's z). Where what others said never varied nothing can be told, and it is taken to agree. Of more than three
    pairs (score, what others said)."""
    number = len(pairs)
    mean_score = sum(score for score, _ in pairs) / number
    mean_said = sum(said for _, said in pairs) / number
    scores = sum((score - mean_score) ** 2 for score, _ in pairs)
    words = sum((said - mean_said) ** 2 for _, said in pairs)
    if words < 1e-9:
        return Agreement(UNVARIED)
    if scores < 1e-9:
        return Agreement(CONSTANT)
    both = sum((score - mean_score) * (said - mean_said) for score, said in pairs)
    correlation = min(max(both / math.sqrt(scores * words), -0.999999), 0.999999)
    least = math.tanh(math.atanh(correlation) - Z95_ONE_SIDED / math.sqrt(number - 3))
    return Agreement(AGREES if least > 0 else CHANCE, correlation, least)


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
