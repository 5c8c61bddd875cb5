"""What outcomes show by team, model, task and origin: sums of a window, in the tasks of the state that is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.console.router_seen import chosen
from interlock.control.live.scores import scores
from interlock.control.services.router_quality import QualityRow, seen
from interlock.learning.prompt import Prompt, read
from interlock.learning.quality import QualityWindow
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer
from interlock.types.feedback import quality
from interlock.types.quality import NO_TASK, OTHERS, Qualities, QualityCell

LAW = "the court held that the clause binds the parties to the contract " * 20
CODE = "x[{}] = {{y}}; return z;"
ORIGINS = ("feedback", "validation", "judge", "evaluation")


def prompts(number: int, rng: np.random.Generator) -> list[tuple[str, Prompt]]:
    """(what it is about, the prompt)."""
    made = []
    for n in range(number):
        law = bool(rng.integers(2))
        made.append(("law" if law else "code", read(f"{LAW} {n % 11}" if law else CODE.format(n % 7))))
    return made


def taught(outcomes: int, held: int = 4096) -> tuple[Trainer, list[Outcome]]:
    """Team of law and team of code, each asking its own kind of prompts."""
    rng = np.random.default_rng(5)
    trainer = Trainer(Plan(outcomes_max=held), rng)
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    told = [
        Outcome("ab"[n % 2], float(rng.random() < 0.7), ORIGINS[n % 3], prompt, about, 1_000 + n)
        for n, (about, prompt) in enumerate(prompts(outcomes, rng))
    ]
    for each in told:
        trainer.outcome(each)
    return trainer, told


def tasks_of(found: Qualities, team: str) -> set[int]:
    return {cell.task for cell in found.cells if cell.team == team}


def test_each_department_has_the_tasks_that_it_asks_of() -> None:
    trainer, told = taught(300)
    weights, _ = trainer.state(4, 0)
    found = trainer.qualities(4)
    assert found.version == 4 and found.tasks == len(weights.task_shares_micro) > 1
    assert (found.outcomes, found.since_ns, found.until_ns) == (300, 1_000, 1_299)
    assert sum(cell.outcomes for cell in found.cells) == 300
    assert not tasks_of(found, "law") & tasks_of(found, "code"), "they ask for different things"
    assert NO_TASK not in {cell.task for cell in found.cells}
    whole = Counter((each.team, each.arm, each.origin) for each in told)
    kept: Counter[tuple[str, str, str]] = Counter()
    for cell in found.cells:
        kept[cell.team, cell.arm, cell.origin] += cell.outcomes
    assert kept == whole


def test_prompts_are_placed_again_when_tasks_are_found_again() -> None:
    trainer, told = taught(130)
    trainer.state(1, 0)
    before = trainer.qualities(1)
    rng = np.random.default_rng(8)
    more = [
        Outcome("a", 1.0, "feedback", read(f"how do I cook soup number {n % 9} with rice?"), "kitchen", 5_000 + n)
        for n in range(200)
    ]
    for each in rng.permutation(np.arange(len(more))):
        trainer.outcome(more[int(each)])
    trainer.state(2, 0)
    found = trainer.qualities(2)
    understanding = trainer._estimator.understanding  # type: ignore[union-attr]
    assert understanding is not None and found.tasks == len(understanding.tasks) > before.tasks
    expected: Counter[tuple[str, int]] = Counter()
    for one in [*told, *more]:
        assert one.prompt is not None
        expected[one.team, understanding.task_of(understanding.view(one.prompt)[0])] += 1
    kept: Counter[tuple[str, int]] = Counter()
    for cell in found.cells:
        kept[cell.team, cell.task] += cell.outcomes
    assert kept == expected, "the tasks of the state in force, whatever tasks there were before"


def test_until_tasks_are_told_apart_and_without_a_prompt_the_task_is_not_known() -> None:
    trainer, _ = taught(20)
    trainer.state(1, 0)
    found = trainer.qualities(1)
    assert found.tasks == 0 and {cell.task for cell in found.cells} == {NO_TASK}
    trainer, told = taught(300)
    trainer.outcome(told[0]._replace(prompt=None, team="lab"))
    trainer.state(2, 0)
    assert tasks_of(trainer.qualities(2), "lab") == {NO_TASK}


outcomes = st.lists(
    st.builds(
        lambda arm, reward, origin, team, at: Outcome(arm, reward, origin, None, team, at),
        st.sampled_from("abcd"),
        st.sampled_from((0.0, 0.2, 1.0)),
        st.sampled_from(ORIGINS),
        st.sampled_from(("", "t1", "t2", "t3", "t4")),
        st.integers(1, 10**6),
    ),
    max_size=60,
)


@given(outcomes, st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_it_is_the_last_outcomes_and_bounded(told: list[Outcome], held: int, teams: int, arms: int) -> None:
    window = QualityWindow(held, teams, arms)
    for each in told:
        window.take(each)
    found = window.sums(1, None)
    last = told[-held:]
    assert found.outcomes == len(last) == sum(cell.outcomes for cell in found.cells) <= found.outcomes_max == held
    assert sum(cell.reward_micro for cell in found.cells) == sum(round(each.reward * 1e6) for each in last)
    assert len({cell.team for cell in found.cells} - {OTHERS}) <= teams
    assert len({cell.arm for cell in found.cells} - {OTHERS}) <= arms
    if last:
        assert (found.since_ns, found.until_ns) == (min(o.at_ns for o in last), max(o.at_ns for o in last))
    by_team = Counter(each.team for each in last)
    for team in {cell.team for cell in found.cells} - {OTHERS}:
        assert sum(cell.outcomes for cell in found.cells if cell.team == team) == by_team[team], "all of it, or none"


ANSWERS = st.lists(
    st.builds(
        lambda call, arm, reward, origin: Outcome(arm, reward, origin, None, "t1", 1, call=call),
        st.sampled_from(("", "c1", "c2", "c3", "c4", "c5", "c6")),
        st.sampled_from("ab"),
        st.sampled_from((-0.5, 0.0, 0.2, 1.0)),
        st.sampled_from((*ORIGINS, "refusal", "retry", "another")),
    ),
    min_size=1,
    max_size=80,
)
STRONGEST_FIRST = ({"feedback", "evaluation"}, {"validation", "refusal"}, {"retry"}, {"judge"}, {"another"})


@given(ANSWERS, st.integers(1, 60))
def test_an_answer_that_several_speak_of_counts_once_as_the_strongest_says(told: list[Outcome], held: int) -> None:
    window = QualityWindow(held, 9, 9)
    for each in told:
        window.take(each)
    last = told[-held:]
    answers: dict[tuple[str, str], list[Outcome]] = {}
    for number, each in enumerate(last):
        answers.setdefault((each.call or f"unknown {number}", each.arm), []).append(each)
    wanted: dict[str, list[float]] = {}
    for (_, arm), said in answers.items():
        strongest = next(level for level in STRONGEST_FIRST if any(o.origin in level for o in said))
        wanted.setdefault(arm, []).append([o.reward for o in said if o.origin in strongest][-1])
    found = window.sums(1, None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Qualities) == found
    by_arm = {row.by["model"]: row for row in seen(found.cells, ("model",))}
    assert by_arm.keys() == wanted.keys()
    for arm, rewards in wanted.items():
        row, squares = by_arm[arm], sum(round(r * r * 1e6) for r in rewards)
        together = quality(len(rewards), sum(round(r * 1e6) for r in rewards), squares)
        assert (row.count, row.mean_micro, row.low_micro, row.high_micro) == together
        assert row.sources == Counter(o.origin for o in last if o.arm == arm), "each origin has all of its own"
        for origin, figure in row.origins.items():
            own = [o.reward for o in last if (o.arm, o.origin) == (arm, origin)]
            alone = quality(len(own), sum(round(r * 1e6) for r in own), sum(round(r * r * 1e6) for r in own))
            assert (figure.count, figure.mean_micro, figure.low_micro, figure.high_micro) == alone


def test_what_is_said_of_an_answer_whose_prompt_is_gone_by_then_is_of_its_task() -> None:
    trainer, told = taught(300)
    first = told[0]
    trainer.outcome(first._replace(origin="validation", team="lab", call="req_1", reward=0.0))
    trainer.outcome(first._replace(origin="feedback", team="lab", call="req_1", reward=1.0, prompt=None))
    trainer.state(1, 0)
    found = trainer.qualities(1)
    (task,) = tasks_of(found, "lab")
    assert task != NO_TASK
    (row,) = (r for r in rows("team", "task", cells=found.cells) if r.by["team"] == "lab")
    assert (row.count, row.mean_micro, row.sources) == (1, 1_000_000, {"feedback": 1, "validation": 1})


CELLS = (
    QualityCell("t1", "large", 0, "feedback", 10, 9_000_000),
    QualityCell("t1", "large", 0, "validation", 30, 9_000_000),
    QualityCell("t2", "large", 0, "feedback", 4, 4_000_000),
    QualityCell("t2", "large", NO_TASK, "feedback", 2, 0),
    QualityCell("*", "small", 11, "judge", 5, 2_500_000),
)


class Departments:
    """Two teams of one cost centre."""

    def team(self, team_id: str) -> str:
        return {"t1": "research", "t2": "sales"}.get(team_id, team_id)

    def cost_center(self, team_id: str) -> str:
        return {"t1": "4711", "t2": "4711"}.get(team_id, team_id)


def rows(*by: str, cells: Iterable[QualityCell] = CELLS) -> list[QualityRow]:
    return seen(cells, by, Departments())


def test_a_figure_is_of_all_origins_and_each_origin_has_its_own() -> None:
    (row,) = (r for r in rows("team", "model", "task") if r.by == {"team": "research", "model": "large", "task": "0"})
    together = quality(40, 18_000_000)
    assert together is not None
    assert (row.count, row.mean_micro, row.low_micro, row.high_micro) == together
    assert row.sources == {"feedback": 10, "validation": 30}
    for origin, (count, total) in {"feedback": (10, 9_000_000), "validation": (30, 9_000_000)}.items():
        own, wanted = row.origins[origin], quality(count, total)
        assert wanted is not None and (own.count, own.mean_micro, own.low_micro, own.high_micro) == wanted
    assert row.origins["feedback"].low_micro > row.origins["validation"].high_micro, "they disagree, and it is told"


def test_departments_are_teams_or_their_cost_centres() -> None:
    by_center = {(r.by["cost_center"], r.by["task"]): r.count for r in rows("cost_center", "task")}
    assert by_center == {("4711", "0"): 44, ("4711", ""): 2, ("*", "11"): 5}
    assert [r.by["task"] for r in rows("task")] == ["", "0", "11"], "by number, what is not known first"
    assert {(r.by["team"], r.count) for r in rows("team", "task")} == {
        ("research", 40), ("sales", 4), ("sales", 2), ("*", 5),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("department", "task", "models"),
    [("", "", 4), ("sales", "", 2), ("", "0", 2), ("sales", "0", 1), ("", "-", 1), ("nobody", "", 0)],
)
def test_a_department_and_a_task_are_chosen(department: str, task: str, models: int) -> None:
    found = chosen(rows("team", "task", "model"), "team", department, task, None)
    assert len(found.lines) == models
    assert found.departments == [("*", "others"), ("research", "research"), ("sales", "sales")]
    assert found.tasks == [("0", "Task 0"), ("11", "Task 11"), ("-", "not known")]


def test_the_live_view_names_tasks_and_says_where_figures_come_from() -> None:
    found = scores(Qualities(1, 12, 51, 100, 1, 2, CELLS), {"0": "long prompts", "11": ""})
    assert [(s.model, s.task_class, s.count) for s in found] == [
        ("large", "not known", 2), ("large", "0: long prompts", 44), ("small", "11", 5),
    ]  # fmt: skip
    assert found[1].origins == {"feedback": 14, "validation": 30} and found[1].mean_milli == 500
    assert found[1].low_milli < 500 < found[1].high_milli
    assert scores(None, {}) == []
