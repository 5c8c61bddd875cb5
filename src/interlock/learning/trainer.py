"""What is learned of one tenant's traffic, and the state that is published of it. Pure: no I/O, no clock, no database.

It is told of calls (what became of them, for the profiles of offers and for the bounds of trying others) and of
outcomes (how good an answer was, from whomever), in the order of the ledger, and gives `Weights` and `Words`. Models
come and go: what is remembered is learned over when there is another set of them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs
from numpy.random import Generator

from interlock.learning.estimator import Estimator
from interlock.learning.judged import ORIGIN as JUDGE
from interlock.learning.judged import Judges, Verdict
from interlock.learning.kin import UNKNOWN, Kin, Numbers
from interlock.learning.linear import WIDTH
from interlock.learning.prompt import Prompt
from interlock.learning.published import MICRO, centres_of, linear_of, surfaces_of, words_of
from interlock.learning.quality import QualityWindow
from interlock.learning.remembered import Remembered
from interlock.learning.shared import Given, OwnOutcomes
from interlock.learning.tasks import OF_MODEL, Z95
from interlock.learning.trials import Limits, Trials
from interlock.types.learned import SET, ArmWeights, Capability, JudgeTrust, Profile, Weights, Words
from interlock.types.quality import Qualities

KEEP = 0.998
"""What is left of a call's weight in its offer's profile, and in the length of answers, after each later one."""
ARMS_KEPT = 8
"""How many times as many arms, and offers, as there may be at a time are remembered: they come back."""
VERBOSITY_RANGE = (0.1, 10.0)
OF_VERSIONS = 10
"""Outcomes of other versions of a model that tell what to expect of a new one."""
_NO_ORIGINS: Mapping[str, int] = {}


class Plan(NamedTuple):
    """What the settings say. `share`, `money`: shares; `data_class_max`: number of the class."""

    share: float = 0.02
    cold_calls: int = 20
    money: float = 0.05
    data_class_max: int = 1
    outcomes_max: int = 4096
    words_max: int = 8192
    arms_max: int = 64
    teams_max: int = 64


class Arm(NamedTuple):
    """A model that there is. `price`: USD per million tokens, mean of both ways, 0: free. `prior`: what to expect of
    it, None: nobody said. `parameters`: how many, in any unit, 0: not known. `family`: "": not known."""

    price: float
    prior: float | None = None
    parameters: float = 0.0
    family: str = ""


class Said(NamedTuple):
    """What an administrator (`SET`) or other tenants (`SHARED`) say of an arm: its expected outcome in [0, 1], which
    counts as that many outcomes do."""

    quality: float
    outcomes: int
    origin: str = SET


NOTHING_SAID = Said(0.0, 0)


class Told(NamedTuple):
    """A call that ended. `tried`: it went where it did to learn about it. `several`: there was a choice of models."""

    offer: str
    arm: str
    failed: bool
    first_byte_us: int
    token_us: int
    completion_tokens: int
    cost_nusd: int
    energy_uj: int
    several: bool = False
    tried: bool = False


class Outcome(NamedTuple):
    """How good an answer was, in [0, 1] (by a judge: on average), by whom ("feedback", "validation", "judge",
    "evaluation"). `team`: id of its caller's, `at_ns`: when its call was, Unix time. `source`: id of the one that
    answered, "" where it is not sure, and of a judge's word, which stays with its tenant. `weight`: as how many
    outcomes it counts. `request`: of the call, where judges are held against it. `call`: its request in any case, ""
    where it is not known: what is said of one model's answer to one call is told together. `judge`: who said it, where
    a judge did; of a preference `against` is the other model and `lead` what was found beyond what is expected of it.
    """

    arm: str
    reward: float
    origin: str
    prompt: Prompt | None
    team: str = ""
    at_ns: int = 0
    source: str = ""
    weight: float = 1.0
    request: str = ""
    call: str = ""
    judge: str = ""
    against: str = ""
    lead: float = 0.0


class _Seen:
    """Faded means of one offer."""

    __slots__ = ("calls", "cost", "energy", "failed", "first", "per_token", "tokens", "weight")

    def __init__(self) -> None:
        self.calls = 0
        self.weight = self.failed = 0.0
        self.first, self.per_token, self.cost, self.energy, self.tokens = ([0.0, 0.0] for _ in range(5))

    def take(self, told: Told) -> None:
        self.calls += 1
        self.weight = self.weight * KEEP + 1
        self.failed = self.failed * KEEP + told.failed
        for kept, value in (
            (self.first, told.first_byte_us),
            (self.per_token, told.token_us),
            (self.cost, told.cost_nusd),
            (self.energy, told.energy_uj),
            (self.tokens, told.completion_tokens or -1),
        ):
            if value >= 0 and not told.failed:
                kept[0] = kept[0] * KEEP + 1
                kept[1] = kept[1] * KEEP + value

    def profile(self, offer: str) -> Profile:
        """As published. A share of failures is drawn towards none by ten calls: two of three calls prove little."""
        seen = (self.first, self.per_token, self.cost, self.energy, self.tokens)
        means = (round(s[1] / s[0]) if s[0] else -1 for s in seen)
        return Profile(offer, self.calls, round(MICRO * self.failed / (self.weight + 10)), *means)


class Trainer:
    """Everything learned of one tenant. Not thread-safe; deterministic for its generator and what it is told."""

    def __init__(self, plan: Plan, rng: Generator) -> None:
        self._plan = plan
        self._rng = rng
        self._arms: dict[str, Arm] = {}
        self._outcomes = Remembered(plan.outcomes_max)
        self._quality = QualityWindow(plan.outcomes_max, plan.teams_max, plan.arms_max)
        self._own = OwnOutcomes(plan.arms_max * 8)
        self._estimator: Estimator | None = None
        self._profiles: dict[str, _Seen] = {}
        self._lengths: dict[str, list[float]] = {}
        self._origins: dict[str, Counter[str]] = {}
        self._said: dict[str, Said] = {}
        self._shared: dict[str, Said] = {}
        self.trials = Trials(Limits(plan.share, plan.cold_calls, plan.money))
        self._looked = -1
        self._words = 0
        self.outcomes = 0
        self._judges = Judges()
        self._believed = self._judges.believed

    def models(self, arms: Mapping[str, Arm]) -> None:
        """The models that there are now; what is remembered of others is kept for when they come back."""
        kept = dict(sorted(arms.items())[: self._plan.arms_max])
        if kept != self._arms:
            new = [name for name in kept if self._arms and name not in self._arms and name not in self._origins]
            self._arms = kept
            self.trials.models(kept, new)
            self._over_again()

    def said(self, said: Mapping[str, Said]) -> None:
        """What administrators say of arms now, instead of what they said before."""
        self._said = dict(said)

    def shared(self, shared: Mapping[str, Said]) -> None:
        """What other tenants have seen of arms by now, in place of what a price tells."""
        self._shared = dict(shared)

    def given(self, sources: Collection[str], arms: Collection[str]) -> dict[str, Given]:
        """What other tenants may be told of these arms at these sources: this tenant's own outcomes, and no more."""
        return self._own.given(sources, arms)

    def call(self, told: Told) -> None:
        """A call that ended."""
        if told.offer not in self._profiles and len(self._profiles) >= ARMS_KEPT * self._plan.arms_max:
            self._profiles.pop(next(iter(self._profiles)))
        self._profiles.setdefault(told.offer, _Seen()).take(told)
        if told.completion_tokens > 0 and not told.failed and told.arm in self._arms:
            self._make_room(self._lengths, told.arm)
            kept = self._lengths.setdefault(told.arm, [0.0, 0.0])
            kept[0] = kept[0] * KEEP + 1
            kept[1] = kept[1] * KEEP + told.completion_tokens
        if told.several:
            self.trials.call(told.arm, told.cost_nusd, tried=told.tried)

    def outcome(self, seen: Outcome) -> None:
        """How good an answer was."""
        self.outcomes += 1
        self._outcomes.take(seen)
        self._make_room(self._origins, seen.arm)
        self._quality.take(seen)
        self._own.take(seen)
        self._origins.setdefault(seen.arm, Counter())[seen.origin] += 1
        self.trials.outcome(seen.arm)
        if self._estimator is not None and seen.arm in self._arms:
            alarms, falls = self._estimator.alarms, self._estimator.falls
            self._estimator.learn(seen.prompt, list(self._arms).index(seen.arm), seen.reward, seen.weight)
            if self._estimator.falls > falls:
                self.trials.fell(seen.arm)
            elif self._estimator.alarms > alarms:
                self.trials.rose(seen.arm)
        if seen.request:
            self._judges.said(seen.request, seen.reward, seen.origin)
            self._hold_judges()

    def verdict(self, verdict: Verdict) -> int:
        """What a judge said; how many outcomes it comes to, with what waited for it. None that count while it is not
        trusted."""
        before = self.outcomes
        for worth in self._judges.taken(verdict, self._expected):
            self._hold_judges()
            arm, outcome, weight, prompt, team, at_ns, call, judge, against, lead = worth
            seen = Outcome(arm, outcome, JUDGE, prompt, team, at_ns, "", weight, "", call, judge, against, lead)
            if self._judges.trusted(judge):
                self.outcome(seen)
            else:
                self._outcomes.lay_aside(seen)
        return self.outcomes - before

    def judges(self) -> tuple[JudgeTrust, ...]:
        """How far each judge is believed."""
        return self._judges.trust()

    def _hold_judges(self) -> None:
        """Learn over without what a judge said when it turns out not to agree with anybody, and with it when it does
        again. What others said is learned as though the judge had never spoken."""
        before, now = self._believed, self._judges.believed
        if now is before:
            return
        self._believed = now
        if _doubted(now) != _doubted(before):
            self._outcomes.hold(now)
            self._over_again()
            self._quality.again(self._outcomes)
            judged = Counter(seen.arm for seen in self._outcomes if seen.origin == JUDGE)
            for arm, origins in self._origins.items():
                origins[JUDGE] = judged[arm]
                if not judged[arm]:
                    del origins[JUDGE]

    def _expected(self, arm: str, prompt: Prompt | None) -> float:
        if self._estimator is None:
            self._over_again()
        if self._estimator is None or arm not in self._arms:
            return UNKNOWN
        return min(max(float(self._estimator.expected(prompt)[0][list(self._arms).index(arm)]), 0.0), 1.0)

    def _make_room(self, kept: dict[str, Any], arm: str) -> None:
        """What is kept per arm is bounded: the first one that is there no more makes room for a new one."""
        if arm not in kept and len(kept) >= ARMS_KEPT * self._plan.arms_max:
            del kept[next((name for name in kept if name not in self._arms), next(iter(kept)))]

    def state(self, version: int, now_s: int) -> tuple[Weights, Words | None]:
        """The state to publish; `Words` when prompts are read anew since the last time."""
        if self._estimator is None:
            self._over_again()
        estimator = self._estimator
        assert estimator is not None  # noqa: S101 - just made
        words = None
        if estimator.understanding is not None and estimator.looks != self._looked:
            self._looked, self._words = estimator.looks, version
            words = words_of(estimator.understanding, version, self._plan.words_max)
        share, money = self.trials.bounds(any_outcome=self.outcomes > 0)
        understanding = estimator.understanding
        counts = estimator.tasks.counts().sum(0)
        total = float(counts.sum())
        shares = counts / total if total else np.full(len(counts), 1 / len(counts))
        weights = Weights(
            version,
            self._words if understanding is not None else 0,
            now_s,
            round(MICRO * share),
            round(MICRO * money),
            centres_of(understanding) if understanding is not None else b"",
            tuple(round(MICRO * float(s)) for s in shares),
            tuple(self._weights_of(name, number, estimator) for number, name in enumerate(self._arms)),
            tuple(seen.profile(offer) for offer, seen in sorted(self._profiles.items())),
            self._plan.data_class_max,
            surfaces_of(estimator.surfaces()) if understanding is not None else b"",
            self.judges(),
        )
        return weights, words

    def qualities(self, version: int) -> Qualities:
        """What the outcomes that are held show by team, model, task and origin, in the tasks of the last `state`."""
        return self._quality.sums(version, self._estimator.understanding if self._estimator is not None else None)

    def _weights_of(self, name: str, number: int, estimator: Estimator) -> ArmWeights:
        said = self._said.get(name) or self._of_others(name)
        origins: Mapping[str, int] = self._origins.get(name, _NO_ORIGINS)
        weights = arm_weights(name, number, estimator, self._verbosity(name), origins, said)
        return structs.replace(weights, due=name in self.trials.due, due_new=name in self.trials.due_new)

    def _of_others(self, name: str) -> Said:
        """What other tenants say of an arm, where neither its source nor another version of it tells what to expect."""
        versions = sum(
            sum(known.values()) for arm, known in self._origins.items() if arm != name and _model(arm) == _model(name)
        )
        if self._arms[name].prior is not None or versions >= OF_VERSIONS:
            return NOTHING_SAID
        return self._shared.get(name, NOTHING_SAID)

    def _verbosity(self, name: str) -> int:
        means = {
            arm: total / count for arm, (count, total) in self._lengths.items() if count >= 5 and arm in self._arms
        }
        if name not in means or len(means) < 2:
            return 1000
        low, high = VERBOSITY_RANGE
        ratio = means[name] / (sum(means.values()) / len(means))
        return round(1000 * min(max(ratio, low), high))

    def _over_again(self) -> None:
        """A new estimator for the models that there are, from what is remembered."""
        names = list(self._arms)
        self._estimator = Estimator(
            _kin([self._arms[name] for name in names]),
            copy.deepcopy(self._rng),  # what is learned over is learned as it was
            priors=self._priors(names),
            remembered=self._plan.outcomes_max,
        )
        self._looked = -1
        outcomes = []
        for seen in self._outcomes:
            if seen.against in self._arms:
                now = self._expected(seen.against, seen.prompt) + seen.lead
                seen = seen._replace(reward=now)
            if seen.arm in self._arms:
                self._estimator.learn(seen.prompt, names.index(seen.arm), seen.reward, seen.weight)
            outcomes.append(seen)
        self._outcomes.replace(outcomes)

    def _priors(self, names: list[str]) -> Numbers:
        """What is said of a model, or else what another version of it has done."""
        done: dict[str, list[float]] = {}
        for seen in self._outcomes:
            sums = done.setdefault(seen.arm, [0.0, 0.0])
            sums[0] += seen.weight
            sums[1] += seen.weight * seen.reward
        priors = np.full(len(names), np.nan)
        for number, name in enumerate(names):
            prior = self._arms[name].prior
            versions = [sums for arm, sums in done.items() if arm != name and _model(arm) == _model(name)]
            outcomes, rewards = (sum(sums[i] for sums in versions) for i in (0, 1))
            if prior is not None:
                priors[number] = prior
            elif outcomes >= OF_VERSIONS:
                priors[number] = min(max(rewards / outcomes, 0.0), 1.0)  # a judge's preferences may lie beyond
        return priors


def _doubted(believed: Mapping[str, bool]) -> frozenset[str]:
    return frozenset(judge for judge, trusted in believed.items() if not trusted)


def arm_weights(
    name: str,
    number: int,
    estimator: Estimator,
    verbosity_milli: int = 1000,
    origins: Mapping[str, int] = _NO_ORIGINS,
    said: Said = NOTHING_SAID,
) -> ArmWeights:
    """What is expected of an arm, as it is published: what an estimator knows of its model of this number, and what
    somebody says of it, each by how much it counts for.

    Both are blended here and not in what is learned, so that no other arm changes by it, it does not fade, and unsaying
    it leaves no trace.
    """
    counts = estimator.tasks.counts()[number]
    part = said.outcomes / (said.outcomes + float(counts.sum())) if said.outcomes else 0.0
    mean = (1 - part) * estimator.tasks.expected()[number] + part * said.quality
    borrowed = min(float(counts.sum()), OF_MODEL) + 1 + said.outcomes
    doubts = np.sqrt(mean * (1 - mean) / (counts + borrowed))
    linear, weights = b"", estimator.weights()
    if weights is not None:
        constant = np.eye(1, WIDTH)[0] * said.quality
        linear = linear_of((1 - part) * weights[number] + part * constant)
    known = Counter(origins) + Counter({said.origin: said.outcomes} if said.outcomes else {})
    return ArmWeights(
        name,
        linear,
        tuple(_micro(d) for d in doubts),
        tuple(
            Capability(_micro(m), _micro(max(m - Z95 * d, 0.0)), _micro(min(m + Z95 * d, 1.0)), round(1000 * float(c)))
            for m, d, c in zip(mean, doubts, counts, strict=True)
        ),
        verbosity_milli,
        dict(sorted(known.items())),
    )


def _micro(value: float) -> int:
    return round(MICRO * float(value))


def _kin(arms: Sequence[Arm]) -> Kin:
    return Kin(
        np.array([arm.price for arm in arms], float),
        np.array([arm.parameters for arm in arms], float),
        tuple(arm.family for arm in arms),
    )


def _model(arm: str) -> str:
    return arm.partition("@")[0]
