"""Each judge is held against others by itself: what it said is taken back, and counts again, without anybody else's."""

from __future__ import annotations

import msgspec
import pytest

from interlock.learning.judged import CONTROL, JUDGES_MAX, PAIRS_MIN, SCORE, Judges, Verdict
from interlock.learning.remembered import Remembered
from interlock.learning.trainer import Outcome, Plan
from interlock.types.learned import AGREES, CHANCE, JudgeTrust, Weights

from .two_judges import (
    GOOD,
    OTHER,
    Scores,
    beginning,
    believed,
    calls,
    constant,
    guessed,
    known,
    learned,
    taught,
    unheld,
    without,
)


@pytest.mark.parametrize("other", [constant, guessed])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_judge_that_does_not_know_leaves_nothing_behind_and_takes_nothing_of_another_one(
    other: Scores, seed: int
) -> None:
    story = [*beginning(), *calls(240, seed, other)]
    both, one = taught(story), taught(without(story, OTHER))
    assert believed(both) == {GOOD: True, OTHER: False}
    assert learned(both) == learned(one)
    weights, _ = both.state(2, 0)
    assert sum(arm.origins["judge"] for arm in weights.arms) > 240, "the scores and preferences of the one that knows"


def test_what_it_says_while_it_is_not_trusted_changes_nothing_and_is_told_to_come_to_nothing() -> None:
    story = [*beginning(), *calls(240, 1, guessed)]
    both, one = taught(story), taught(without(story, OTHER))
    for each in calls(60, 7, guessed, name="later", said=0.0):
        assert isinstance(each, Verdict)
        before, _, qualities = learned(both)
        came_to = both.verdict(each)
        if each.judge == OTHER:
            assert came_to == 0 and learned(both) == (before, None, qualities), "and prompts are read as before"
        else:
            assert came_to == one.verdict(each) == 1
    assert learned(both)[::2] == learned(one)[::2]


def test_when_trust_returns_all_that_the_judge_said_counts_in_its_place_and_nothing_else_has_moved() -> None:
    story = [*beginning(), *calls(120, 3, guessed), *calls(300, 4, known, name="later")]
    back = taught(story)
    assert believed(back) == {GOOD: True, OTHER: True}
    assert learned(back) == learned(taught(unheld(story))), "as though nobody had ever doubted it"
    assert believed(taught([*beginning(), *calls(120, 3, guessed)]))[OTHER] is False


def test_a_judge_is_looked_at_again_after_as_many_new_words_as_the_first_look_took() -> None:
    judges = Judges()
    for _ in range(6):
        list(judges.taken(Verdict(CONTROL, "j", "m", 0.0, None, "c"), lambda _a, _p: 0.5))

    def agree(number: int, name: str, right: bool) -> None:
        for n in range(number):
            said = float(n % 2)
            score = said if right else float(n % 4 > 1)
            list(judges.taken(Verdict(SCORE, "j", "m", score, None, f"{name}{n}"), lambda _a, _p: 0.5))
            judges.said(f"{name}{n}", said, "feedback")

    agree(PAIRS_MIN, "first", right=False)
    assert (judges.trust()[0].trusted, judges.trust()[0].why) == (False, CHANCE)
    agree(PAIRS_MIN - 1, "more", right=True)
    assert not judges.trusted("j"), "by now its last words agree, and it is not looked at yet"
    agree(1, "last", right=True)
    assert judges.trusted("j") and judges.trust()[0].why == AGREES


def test_what_a_judge_said_does_not_come_back_when_nothing_is_known_of_it_any_more() -> None:
    kept = Remembered(10)
    for judge in ("", "j", "k"):
        kept.take(Outcome("m", 1.0, "judge" if judge else "feedback", None, judge=judge))
    kept.hold({"j": False, "k": True})
    assert [seen.judge for seen in kept] == ["", "k"] and kept.aside == 1
    kept.hold({"k": True})
    assert [seen.judge for seen in kept] == ["", "k"] and kept.aside == 0


def test_what_is_kept_of_judges_is_bounded() -> None:
    plan = Plan(outcomes_max=150)
    trainer = taught([*beginning(), *calls(90, 1, constant)], plan)
    assert trainer._outcomes.aside > 0
    for n in range(2 * JUDGES_MAX):
        for _ in range(6):
            trainer.verdict(Verdict(CONTROL, f"j{n}", "small", 0.0, None, "c"))
        for k in range(40):
            trainer.verdict(Verdict(SCORE, f"j{n}", "small", 0.5, None, f"j{n}-{k}"))
            trainer.outcome(Outcome("small", float(k % 2), "feedback", None, request=f"j{n}-{k}"))
        assert trainer._outcomes.aside <= plan.outcomes_max and len(trainer._outcomes) <= plan.outcomes_max
        assert len(trainer.judges()) <= JUDGES_MAX
    assert {kept.seen.judge for kept in trainer._outcomes._aside} <= {each.judge for each in trainer.judges()}


@pytest.mark.parametrize("first", ["scores", "word"])
def test_a_word_is_held_against_every_judge_of_its_call(first: str) -> None:
    judges = Judges()
    for by in (GOOD, OTHER):
        for _ in range(6):
            list(judges.taken(Verdict(CONTROL, by, "m", 0.0, None, "c"), lambda _a, _p: 0.5))
    if first == "word":
        judges.said("r", 1.0, "feedback")
    for by in (GOOD, OTHER):
        list(judges.taken(Verdict(SCORE, by, "m", 1.0, None, "r"), lambda _a, _p: 0.5))
    if first == "scores":
        judges.said("r", 1.0, "feedback")
    assert {each.judge: each.origins for each in judges.trust()} == {GOOD: {"feedback": 1}, OTHER: {"feedback": 1}}


def test_scores_of_one_call_that_wait_for_a_word_are_of_so_many_judges_at_most() -> None:
    judges = Judges()
    for n in range(3 * JUDGES_MAX):
        for _ in range(6):
            list(judges.taken(Verdict(CONTROL, f"j{n}", "m", 0.0, None, "c"), lambda _a, _p: 0.5))
        list(judges.taken(Verdict(SCORE, f"j{n}", "m", 1.0, None, "r"), lambda _a, _p: 0.5))
    assert len(judges._scored["r"]) == JUDGES_MAX
    judges.said("r", 1.0, "feedback")
    assert len(judges.believed) == JUDGES_MAX


def test_a_state_that_was_stored_before_judges_were_held_apart_is_read_as_it_was() -> None:
    """Its encoding, array by array, as it lies in databases."""
    stored = [
        *[7, 0, 1_700_000_000, 20_000, 50_000, b"", [1_000_000]],
        [["m", b"", [100_000], [[700_000, 600_000, 800_000, 9_500]], 1000, {"feedback": 5, "judge": 9}, False, False]],
        [["s::m", 14, 0, 900, 20, 5, 3, 40]],
        *[1, b"", [["old-judge", False, "chance", {"feedback": 41}, 12, -240, 3]]],
    ]
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=Weights)
    assert read.judges == (JudgeTrust("old-judge", False, CHANCE, {"feedback": 41}, 12, -240, 3),)
    assert read.arms[0].origins == {"feedback": 5, "judge": 9}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(read)) == stored, "and it is written as it was"
