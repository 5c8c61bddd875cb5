"""What verdicts of judges come to: controls, pairs, preferences, and what of it is published."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from interlock.learning.judged import (
    CONTROL,
    CONTROLS_MIN,
    PAIRS_MIN,
    PREFERENCE,
    PREFERENCE_WEIGHT,
    SCORE,
    SCORE_WEIGHT,
    WAITING_MAX,
    Judges,
    Verdict,
    Worth,
    agreement,
)
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer
from interlock.types.learned import AGREES, CHANCE, CONSTANT, FEW, UNVARIED, JudgeTrust, Weights

HALF = 0.5


def expected(_arm: str, _prompt: object) -> float:
    return HALF


def score(arm: str, worth: float, request: str = "r", judge: str = "j") -> Verdict:
    return Verdict(SCORE, judge, arm, worth, None, request)


def control(arm: str, worth: float, judge: str = "j") -> Verdict:
    return Verdict(CONTROL, judge, arm, worth, None, "r")


def preference(arm: str, against: str, worth: float) -> Verdict:
    return Verdict(PREFERENCE, "j", arm, worth, None, "r", against)


def told(judges: Judges, *verdicts: Verdict) -> list[Worth]:
    return [worth for verdict in verdicts for worth in judges.taken(verdict, expected)]


def controlled(judges: Judges, arm: str, worth: float = 0.0, number: int = 50) -> Judges:
    told(judges, *[control(arm, worth)] * number)
    return judges


def mean(worths: list[Worth]) -> float:
    return sum(each.outcome for each in worths) / len(worths)


def test_a_score_of_a_model_whose_controls_fail_is_nearly_what_it_says() -> None:
    judges = controlled(Judges(), "m")
    (good, bad) = told(judges, score("m", 1.0), score("m", 0.0))
    assert good.outcome == pytest.approx(1.0) and good.weight == SCORE_WEIGHT
    assert -0.05 < bad.outcome < 0


def test_what_pleases_without_the_question_comes_to_nothing() -> None:
    judges = controlled(Judges(), "m", 1.0)
    assert all(each.outcome <= 0 for each in told(judges, *[score("m", 1.0)] * 20))


@pytest.mark.parametrize("seed", range(5))
def test_scores_that_vary_as_much_without_the_question_come_to_nothing(seed: int) -> None:
    rng = random.Random(seed)
    judges = Judges()
    told(judges, *[control("m", rng.choice((0.7, 0.8, 0.9, 1.0))) for _ in range(40)])
    found = told(judges, *[score("m", rng.choice((0.7, 0.8, 0.9, 1.0))) for _ in range(400)])
    assert mean(found) < 0.05


def test_what_is_said_of_a_model_waits_for_its_controls_and_is_bounded() -> None:
    judges = Judges()
    assert told(judges, *[score("m", 1.0)] * (WAITING_MAX + 100)) == []
    assert told(judges, *[control("m", 0.0)] * (CONTROLS_MIN - 1)) == []
    assert len(told(judges, control("m", 0.0))) == WAITING_MAX
    assert told(judges, score("other", 1.0)) == [], "each model has controls of its own"
    assert told(judges, score("m", 1.0, judge="k")) == [], "and each judge"


def test_a_preference_is_the_difference_to_what_is_expected_of_the_other() -> None:
    judges = controlled(controlled(Judges(), "a"), "b")
    won, tie, lost = told(judges, preference("b", "a", 1), preference("b", "a", 0), preference("b", "a", -1))
    assert (won.outcome, tie.outcome, lost.outcome) == (1.5, 0.5, -0.5)
    assert {each.arm for each in (won, tie, lost)} == {"b"} and won.weight == PREFERENCE_WEIGHT


@pytest.mark.parametrize(("p1", "p2", "same"), [(0.8, 0.3, 0.0), (0.8, 0.3, 0.7), (0.2, 0.9, 0.4), (0.5, 0.5, 1.0)])
def test_preferences_are_the_challengers_outcome_on_average_however_much_both_have_in_common(
    p1: float, p2: float, same: float
) -> None:
    rng = random.Random(3)
    judges = controlled(controlled(Judges(), "a", number=400), "b", number=400)
    found = []
    for _ in range(6000):
        luck = rng.random()
        one = luck < p1
        two = (luck if rng.random() < same else rng.random()) < p2
        verdict = preference("b", "a", float(two) - float(one))
        found += list(judges.taken(verdict, lambda _arm, _prompt: p1))
    assert mean(found) == pytest.approx(p2, abs=0.03)


@pytest.mark.parametrize("pleasing", ["a", "b"])
def test_a_model_that_pleases_with_anything_neither_wins_nor_makes_others_lose(pleasing: str) -> None:
    judges = Judges()
    for arm in ("a", "b"):
        controlled(judges, arm, 0.9 if arm == pleasing else 0.0)
    assert told(judges, preference("b", "a", 1), preference("b", "a", -1)) == []


def pairs(number: int, right: float, rng: random.Random) -> Iterator[tuple[str, float, float]]:
    """(request, score, what somebody says): the score is right with this probability."""
    for each in range(number):
        said = float(rng.random() < 0.5)
        yield f"r{each}", said if rng.random() < right else 1 - said, said


@pytest.mark.parametrize("first", ["score", "word"])
def test_a_judge_that_agrees_with_nobody_counts_for_nothing(first: str) -> None:
    for right, trusted in ((0.85, True), (0.5, False), (0.1, False)):
        judges = controlled(Judges(), "m")
        for request, value, said in pairs(120, right, random.Random(6)):
            if first == "score":
                told(judges, score("m", value, request))
                judges.said(request, said)
            else:
                judges.said(request, said)
                told(judges, score("m", value, request))
        assert judges.trusted("j") is trusted, right
        assert judges.believed == {"j": trusted}
        before = judges.believed
        told(judges, score("m", 1.0, "new"))
        assert judges.believed is before, "it is told once"


def test_of_each_judge_it_is_told_how_far_it_is_believed_and_why() -> None:
    judges = controlled(Judges(), "m")
    told(judges, control("m", 0.0, "k"), score("m", 1.0, "x", "k"), score("m", 1.0, "y", "k"))
    for n, (request, value, said) in enumerate(pairs(PAIRS_MIN, 0.9, random.Random(6))):
        assert judges.trust()[0] == JudgeTrust("j", True, FEW, judges.trust()[0].origins)
        told(judges, score("m", value, request))
        judges.said(request, said, "feedback" if n % 3 else "validation")
    good, unsure = judges.trust()
    assert (good.judge, good.trusted, good.why) == ("j", True, AGREES)
    assert good.origins == {"feedback": 20, "validation": 10}
    assert good.least_milli is not None and good.agreement_milli is not None
    assert 0 < good.least_milli < good.agreement_milli < 1000
    assert unsure == JudgeTrust("k", True, FEW, waiting=2)
    for request, value, said in pairs(PAIRS_MIN * 7, 0.5, random.Random(1)):
        told(judges, score("m", value, f"late {request}"))
        judges.said(f"late {request}", said, "feedback")
    lost = judges.trust()[0]
    assert (lost.trusted, lost.why, lost.origins) == (False, CHANCE, {"feedback": 200}), "the last ones only"
    assert lost.least_milli is not None and lost.least_milli <= 0


def test_too_few_pairs_or_words_that_never_vary_tell_nothing() -> None:
    judges = controlled(Judges(), "m")
    for request, value, said in pairs(PAIRS_MIN - 1, 0.0, random.Random(1)):
        told(judges, score("m", value, request))
        judges.said(request, said)
    assert judges.trusted("j")
    assert agreement([(0.1 * (n % 7), 1.0) for n in range(100)]) == (UNVARIED, None, None)
    assert agreement([(1.0, float(n % 2)) for n in range(100)]) == (CONSTANT, None, None), "it says the same of all"


# -- in what is learned


def trainer(*arms: str) -> Trainer:
    made = Trainer(Plan(), np.random.default_rng(5))
    made.models({arm: Arm(1.0) for arm in arms})
    return made


def means(weights: Weights) -> dict[str, float]:
    return {arm.arm: arm.capabilities[0].mean_micro / 1e6 for arm in weights.arms}


def sound(weights: Weights) -> bool:
    """Published figures are of shares, and in order."""
    return all(
        0 <= c.low_micro <= c.mean_micro <= c.high_micro <= 1_000_000 and 0 <= d <= 1_000_000
        for arm in weights.arms
        for c, d in zip(arm.capabilities, arm.doubts_micro, strict=True)
    )


def test_a_judge_makes_the_better_model_known_with_no_word_of_anybody() -> None:
    made, rng = trainer("good", "bad"), random.Random(2)
    for n in range(200):
        for arm, share in (("good", 0.9), ("bad", 0.2)):
            made.verdict(score(arm, float(rng.random() < share), f"{arm}{n}"))
            if n % 4 == 0:
                made.verdict(control(arm, 0.0))
    found, _ = made.state(1, 0)
    assert sound(found)
    assert means(found)["good"] > 0.75 and means(found)["bad"] < 0.35
    assert {arm.arm: set(arm.origins) for arm in found.arms} == {"good": {"judge"}, "bad": {"judge"}}


def test_a_constant_answer_that_pleases_does_not_win() -> None:
    made, rng = trainer("honest", "pleaser"), random.Random(2)
    for n in range(200):
        made.verdict(score("honest", float(rng.random() < 0.6), f"h{n}"))
        made.verdict(score("pleaser", 1.0, f"p{n}"))
        if n % 4 == 0:
            made.verdict(control("honest", 0.0))
            made.verdict(control("pleaser", 1.0))
    found, _ = made.state(1, 0)
    assert sound(found)
    assert means(found)["pleaser"] < 0.2 < means(found)["honest"]


def test_preferences_alone_move_a_model_that_is_never_chosen_and_leave_figures_sound() -> None:
    made = trainer("chosen", "never")
    before, _ = made.state(1, 0)
    for _ in range(10):
        made.verdict(control("chosen", 0.0))
        made.verdict(control("never", 0.0))
    for _ in range(400):
        made.verdict(preference("never", "chosen", 1))
    after, _ = made.state(2, 0)
    assert sound(after), "an outcome beyond 1 is no figure that is published"
    assert means(after)["never"] > 0.9 > means(before)["never"]
    for _ in range(800):
        made.verdict(preference("never", "chosen", -1))
    last, _ = made.state(3, 0)
    assert sound(last) and means(last)["never"] < 0.2


def test_what_a_judge_said_is_unlearned_when_it_turns_out_not_to_know() -> None:
    made, rng = trainer("good", "bad"), random.Random(9)
    for n in range(20):
        for arm in ("good", "bad"):
            made.verdict(control(arm, 0.0))
        made.verdict(score("bad", 1.0, f"b{n}"))
        made.verdict(score("good", 0.0, f"g{n}"))
    before, _ = made.state(1, 0)
    assert means(before)["bad"] > means(before)["good"]
    for n in range(20):
        made.outcome(Outcome("good", 1.0, "feedback", None, request=f"g{n}"))
        made.outcome(Outcome("bad", 0.0, "feedback", None, request=f"b{n}"))
    after, _ = made.state(2, 0)
    assert means(after)["good"] > means(after)["bad"]
    assert all("judge" not in arm.origins for arm in after.arms), "and it is said: nothing of it is from a judge"
    assert {cell.origin for cell in made.qualities(2).cells} == {"feedback"}
    assert not made.verdict(score("bad", float(rng.random()), "later"))


def test_a_judges_word_counts_for_its_team_and_stays_with_its_tenant() -> None:
    made = trainer("m", "n")
    for n in range(20):
        made.verdict(control("m", 0.0))
        made.verdict(score("m", 1.0, f"r{n}")._replace(team="kitchen", at_ns=7))
    made.state(1, 0)
    (cell,) = made.qualities(1).cells
    assert (cell.team, cell.arm, cell.origin, cell.outcomes) == ("kitchen", "m", "judge", 20)
    made.outcome(Outcome("m", 1.0, "feedback", None, source="src_1"))
    assert made.given(["src_1", ""], ["m"])["m"].outcomes_milli == 1000


def test_a_score_counts_less_than_a_word() -> None:
    one, other = trainer("m", "n"), trainer("m", "n")
    for n in range(20):
        one.verdict(control("m", 0.0))
        other.outcome(Outcome("m", 1.0, "feedback", None))
        one.verdict(score("m", 1.0, f"r{n}"))
    (judged, _), (said, _) = one.state(1, 0), other.state(1, 0)
    assert 0.5 < means(judged)["m"] < means(said)["m"]


def test_what_preferences_say_of_a_version_is_a_share_where_the_next_one_is_expected_to_do_as_well() -> None:
    """A preference that is won comes to 1 more than is expected of the other model: more than any outcome is."""
    made = trainer("m@1", "m@2", "other")
    for _ in range(40):
        made.outcome(Outcome("m@1", 1.6, "judge", None, weight=PREFERENCE_WEIGHT))
    made.models({arm: Arm(1.0) for arm in ("m@2", "other")})
    by_judge = means(made.state(1, 0)[0])["m@2"]
    plain = trainer("m@1", "m@2", "other")
    for _ in range(40):
        plain.outcome(Outcome("m@1", 1.0, "feedback", None))
    plain.models({arm: Arm(1.0) for arm in ("m@2", "other")})
    assert HALF < by_judge <= means(plain.state(1, 0)[0])["m@2"]


def test_as_many_preferences_as_outcomes_are_asked_for_tell_less_of_the_next_version_than_they_are() -> None:
    made = trainer("m@1", "m@2", "other")
    for _ in range(12):
        made.outcome(Outcome("m@1", 0.0, "judge", None, weight=PREFERENCE_WEIGHT))
    made.models({arm: Arm(1.0) for arm in ("m@2", "other")})
    told = means(made.state(1, 0)[0])
    assert told["m@2"] == told["other"], "twelve preferences are less than four outcomes: too few"
