"""The evaluation itself: every method on every split, by the same measures.

Offline methods see the outcomes of all models on the rows to learn from. The online learner sees those rows one after
the other as requests, each in one of three modes, and only the outcome of the model that it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.choose import worth
from interlock.learning.costs import FittedCosts
from interlock.learning.evaluation import baselines
from interlock.learning.evaluation.data import Data, Numbers
from interlock.learning.evaluation.drift import MODES, Drift, drift
from interlock.learning.evaluation.gateway import Decide, GatewayDrift, gateway_drift
from interlock.learning.evaluation.metrics import Interval, aiq, cost_at_95, curve, gap_recovered, interval
from interlock.learning.evaluation.newcomers import Newcomers, newcomers
from interlock.learning.evaluation.plot import heights
from interlock.learning.evaluation.published import expected_as_published
from interlock.learning.evaluation.splits import split
from interlock.learning.fit import Design, Fitted
from interlock.learning.kin import Kin
from interlock.learning.learner import Learner
from interlock.learning.letters import Letters, runs
from interlock.learning.prompt import Prompt, read
from interlock.learning.tasks import Capability, Tasks
from interlock.learning.understanding import Understanding

COMPARED_WITH = "logistic regression"
TRUE_TASKS_AND_COSTS = "true tasks and their costs"
"""The baseline that is told the true task of a prompt, and expects of each model the mean cost of that task."""
FITTED_WORDS, FITTED_OUTCOMES, FITTED = "fitted words", "fitted outcomes", "fitted"
"""Outcomes by words alone; by runs of letters too; and the same beside what each call is expected to cost."""
PUBLISHED = "published"
"""The method that is `online` as gateways have it: through the published state, in integers."""
EARLY = 250
"""Requests that are reported as the cold start."""


_NO_CURVES: Mapping[str, Numbers] = {}


class Row(NamedTuple):
    """One method: each measure over the splits, and its AIQ less that of `COMPARED_WITH`, split by split."""

    method: str
    kind: str
    measures: dict[str, Interval]
    ahead: Interval


class Start(NamedTuple):
    """What learning online cost, over the splits.

    `lost_early` and `lost`: worth per request (in quality) behind the best single model of each mode known in
    hindsight, over the first `EARLY` requests and over all; negative is ahead. `explored`: share of requests in which
    another than the best was tried. `extra`: expected cost of that, as a share of what was spent.
    """

    requests: int
    lost_early: Interval
    lost: Interval
    explored: Interval
    extra: Interval


class TaskRow(NamedTuple):
    """A learned task: its share of prompts, and each model's capability in it."""

    share: float
    capabilities: list[Capability]


class Report(NamedTuple):
    """Everything that the command prints."""

    data: Data
    learned: int
    tested: int
    rows: list[Row]
    starts: dict[str, Start]
    tasks: list[TaskRow]
    drift: Drift | None = None
    gateway: list[GatewayDrift] | None = None
    newcomers: Newcomers | None = None
    curves: Mapping[str, Numbers] = _NO_CURVES
    """Of each method, the mean over the splits of its `plot.heights`."""


class _Split(NamedTuple):
    """One division, with what offline methods share. `price`: mean cost per model over the rows to learn from.
    `texts`: of the tested prompts, `known_texts`: of those to learn from."""

    learn: NDArray[np.int64]
    test: NDArray[np.int64]
    prompts: list[Prompt]
    tested: list[Prompt]
    quality: Numbers
    price: Numbers
    understanding: Understanding
    texts: list[str]
    known_texts: list[str]


class _Expected(NamedTuple):
    """What a method expects, one row per tested prompt and one column per model. `cost` None: each model's mean."""

    quality: Numbers
    cost: Numbers | None = None


class _Online(NamedTuple):
    lost_early: float
    lost: float
    explored: float
    extra: float


def run(data: Data, requests: int, progress: Callable[[str], None], *, gateway: Decide | None = None) -> Report:
    """Evaluate. `requests`: most online requests per split. `progress` hears which split begins. `gateway`: how a
    gateway decides; with it also how quickly a change is noticed (`evaluation.drift`, `evaluation.gateway`)."""
    prompts = [read(text) for text in data.texts]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    curves: dict[str, list[Numbers]] = {}
    starts: dict[str, list[_Online]] = {}
    tasks: list[TaskRow] = []
    sizes = (0, 0)
    for n, seed in enumerate(data.plan.seeds):
        progress(f"split {n + 1} of {len(data.plan.seeds)}")
        rng = np.random.default_rng(seed)
        now = _divide(data, prompts, seed, rng)
        sizes = (len(now.learn), len(now.test))
        expected, tasks = _offline(data, now, rng)
        for name, linear in (("online tasks", False), ("online", True)):
            learner, told = _online(data, now, min(requests, len(now.learn)), linear, np.random.default_rng(seed))
            expected["learned", name] = _Expected(learner.expected(now.tested))
            starts.setdefault(name, []).append(told)
            if linear:
                published = expected_as_published(learner.estimator, data.models, now.texts)
                expected["learned", PUBLISHED] = _Expected(published)
        for key, each in expected.items():
            points = _points(data, now, each)
            found.setdefault(key, []).append(_measure(data, now, each, points))
            curves.setdefault(key[1], []).append(heights(points, data.cost[now.test]))
    share = data.plan.test_share
    against = [m["aiq"] for m in found["baseline", COMPARED_WITH]]
    rows = [_row(key, measures, against, share) for key, measures in found.items()]
    told_starts = {
        name: Start(min(requests, sizes[0]), *(interval([s[i] for s in all_], share) for i in range(4)))
        for name, all_ in starts.items()
    }
    means = {name: np.mean(each, axis=0) for name, each in curves.items()}
    report = Report(data, *sizes, rows, told_starts, tasks, newcomers=newcomers(data), curves=means)
    if gateway is None:
        return report
    there = gateway_drift(data, prompts, requests, gateway, progress)
    return report._replace(drift=drift(data, prompts, requests, progress), gateway=there)


def _divide(data: Data, prompts: list[Prompt], seed: int, rng: Generator) -> _Split:
    learn, test = split(len(prompts), data.plan.test_share, seed, data.groups)
    known = [prompts[i] for i in learn]
    price = data.cost[learn].mean(0)
    tested, texts = [prompts[i] for i in test], [data.texts[i] for i in test]
    understanding, known_texts = Understanding(known, rng), [data.texts[i] for i in learn]
    return _Split(learn, test, known, tested, data.quality[learn], price, understanding, texts, known_texts)


def _offline(data: Data, now: _Split, rng: Generator) -> tuple[dict[tuple[str, str], _Expected], list[TaskRow]]:
    """(what each method expects of each tested prompt and model, the learned tasks)."""
    views = now.understanding.views(now.prompts)
    table = Tasks(Kin.of_prices(now.price), len(now.understanding.tasks), 0.0)
    table.learn_all(views.task, now.quality)
    expected = _baselines(data, now)
    expected["learned", "tasks"] = _Expected(table.expected()[:, now.understanding.views(now.tested).task].T)
    expected |= _fitted(data, now, rng)
    shares = np.bincount(views.task, minlength=len(now.understanding.tasks)) / len(now.prompts)
    rows = [TaskRow(float(s), [table.capability(m, k) for m in range(len(data.models))]) for k, s in enumerate(shares)]
    return expected, rows


def _baselines(data: Data, now: _Split) -> dict[tuple[str, str], _Expected]:
    shape, means = (len(now.test), len(data.models)), now.quality.mean(0)
    ends = np.full(len(data.models), -1.0)
    for end in (int(now.price.argmin()), int(means.argmax())):
        ends[end] = means[end]
    found = {
        "random": _Expected(np.broadcast_to(ends, shape)),
        "single models": _Expected(np.broadcast_to(means, shape)),
    }
    if data.groups is not None:
        known, tested = data.groups[now.learn], data.groups[now.test]
        by_task = baselines.table(known, now.quality, tested)
        found["true tasks"] = _Expected(by_task)
        if data.priced:
            found[TRUE_TASKS_AND_COSTS] = _Expected(by_task, baselines.table(known, data.cost[now.learn], tested))
    by_words = baselines.logistic(now.understanding, now.prompts, now.quality, now.tested)
    found[COMPARED_WITH] = _Expected(by_words)
    found["oracle"] = _Expected(data.quality[now.test], data.cost[now.test])
    return {("baseline", name): each for name, each in found.items()}


def _fitted(data: Data, now: _Split, rng: Generator) -> dict[tuple[str, str], _Expected]:
    """By words alone, the mean of that and of what is fitted by runs of letters apart, and that beside costs."""

    def words(prompts: Sequence[Prompt]) -> Design:
        return Design(now.understanding, prompts)

    known, tested = [runs(text) for text in now.known_texts], [runs(text) for text in now.texts]
    letters, seen = Letters(known), words(now.tested)
    by_words = Fitted(words, now.prompts, now.quality, rng).predict(seen)
    by_letters = Fitted(letters.rows, known, now.quality, rng).predict(letters.rows(tested))
    outcomes, costs = (by_words + by_letters) / 2, None
    if data.priced:
        costs = FittedCosts(words, now.prompts, data.cost[now.learn], rng).predict(seen)
    return {
        ("learned", FITTED_WORDS): _Expected(by_words),
        ("learned", FITTED_OUTCOMES): _Expected(outcomes),
        ("learned", FITTED): _Expected(outcomes, costs),
    }


def _online(data: Data, now: _Split, requests: int, linear: bool, rng: Generator) -> tuple[Learner, _Online]:
    learner = Learner(now.price, rng, linear=linear)
    allowed = np.ones(len(data.models), bool)
    scale = float(now.price.max())
    means = now.quality.mean(0)
    behind = []
    for n, prompt in enumerate(now.prompts[:requests]):
        price = MODES[int(rng.integers(len(MODES)))] / scale
        model = learner.decide(prompt, price, allowed).taken
        outcome, cost = float(now.quality[n, model]), float(data.cost[now.learn[n], model])
        learner.learn(prompt, model, outcome, cost)
        behind.append(float(worth(means, now.price, price).max()) - (outcome - price * cost))
    extra = learner.extra / learner.spent if learner.spent else 0.0
    told = _Online(float(np.mean(behind[:EARLY])), float(np.mean(behind)), learner.explored / learner.requests, extra)
    return learner, told


def _points(data: Data, now: _Split, expected: _Expected) -> list[tuple[float, float]]:
    real, paid = data.quality[now.test], data.cost[now.test]
    cost = np.broadcast_to(now.price, paid.shape) if expected.cost is None else expected.cost
    return curve(expected.quality, cost, real, paid)


def _measure(data: Data, now: _Split, expected: _Expected, points: list[tuple[float, float]]) -> dict[str, float]:
    real, paid, quality = data.quality[now.test], data.cost[now.test], expected.quality
    out = {"aiq": aiq(points, paid), "cost_at_95": cost_at_95(points, real, paid)}
    if len(data.models) == 2:
        strong = int(now.quality.mean(0).argmax())
        gain = quality[:, strong] - quality[:, 1 - strong]
        if np.ptp(gain) == 0:  # nothing tells prompts apart: each is as likely to be sent to the strong model
            out |= {"apgr": 0.5, "cpt50": 0.5, "cpt80": 0.8}
        else:
            out |= dict(
                zip(
                    ("apgr", "cpt50", "cpt80"),
                    gap_recovered(gain, real[:, 1 - strong], real[:, strong]),
                    strict=True,
                )
            )
    return out


def _row(key: tuple[str, str], measures: list[dict[str, float]], against: list[float], share: float) -> Row:
    kind, name = key
    over = {m: interval([one[m] for one in measures], share) for m in measures[0]}
    ahead = interval([one["aiq"] - other for one, other in zip(measures, against, strict=True)], share)
    return Row(name, kind, over, ahead if name != COMPARED_WITH else Interval(0.0, nan, nan, nan))
