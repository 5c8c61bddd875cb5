"""Measures, splits, folders and the run over a made-up folder."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from interlock.cli.main import main
from interlock.cli.route_eval import decided
from interlock.errors import ConfigError
from interlock.learning.estimator import Estimator
from interlock.learning.evaluation import gateway, run
from interlock.learning.evaluation.data import load
from interlock.learning.evaluation.drift import Drift, Moved, with_better
from interlock.learning.evaluation.gateway import GatewayDrift, Offered, Taken, gateway_drift
from interlock.learning.evaluation.metrics import aiq, cost_at_95, gap_recovered, hull, interval
from interlock.learning.evaluation.newcomers import newcomers
from interlock.learning.evaluation.plot import heights
from interlock.learning.evaluation.published import expected_as_published
from interlock.learning.evaluation.report import drift_words
from interlock.learning.evaluation.run import Report
from interlock.learning.evaluation.splits import split
from interlock.learning.kin import Kin
from interlock.learning.prompt import read
from tests.unit.learning.samples import folder

COST = np.array([[1.0, 3.0], [1.0, 3.0]])
QUALITY = np.array([[0.0, 1.0], [1.0, 1.0]])


def test_the_hull_is_concave_and_never_falls() -> None:
    assert hull([(1, 0.2), (2, 0.3), (3, 0.9), (4, 0.5), (1, 0.1)]) == [(1, 0.2), (3, 0.9)]


def test_aiq_is_the_mean_height_over_the_range_of_single_models() -> None:
    assert aiq([(1, 0.5), (3, 1.0)], COST) == pytest.approx(0.75)
    assert aiq([(0.5, 0.5), (2, 1.0), (9, 1.0)], COST) == pytest.approx((2 / 3 + 1) / 4 + 0.5)
    assert aiq([(2, 1.0)], COST) == pytest.approx(0.5)  # nothing is had for less than the first point


def test_cost_at_95_is_a_share_of_the_best_single_models_cost() -> None:
    assert cost_at_95([(1, 0.5), (3, 1.0)], QUALITY, COST) == pytest.approx((1 + 2 * 0.9) / 3)
    assert cost_at_95([(1, 0.5)], QUALITY, COST) == inf


def test_the_recovered_gap_by_hand() -> None:
    weak, strong = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    area, half, most = gap_recovered(np.array([4.0, 1.0, 3.0, 2.0]), weak, strong)
    assert area == pytest.approx((0.25 + 0.75 + 1 + 1) / 4) and (half, most) == (0.25, 0.5)
    assert all(map(isnan, gap_recovered(weak, strong, weak)))


def test_intervals_over_splits_are_widened_for_their_overlap() -> None:
    told = interval([0.6, 0.7, 0.8], 0.5)
    assert told.mean == pytest.approx(0.7) and told.spread == pytest.approx(0.1)
    assert told.high - told.mean == pytest.approx(4.303 * 0.1 * (1 / 3 + 1) ** 0.5)
    assert isnan(interval([0.6], 0.5).low)


def test_splits_are_scikit_learns() -> None:
    """Expected rows were made with scikit-learn 1.9's `train_test_split`."""
    groups = np.array([0] * 7 + [1] * 5 + [2] * 8 + [3] * 3)
    learn, test = split(23, 0.3, 42, groups)
    assert learn.tolist() == [8, 5, 16, 19, 13, 17, 12, 2, 0, 21, 20, 10, 15, 9, 1, 4]
    assert test.tolist() == [3, 18, 14, 11, 6, 22, 7]
    learn, test = split(23, 0.3, 7, groups)
    assert learn.tolist() == [11, 5, 3, 0, 19, 17, 20, 2, 16, 9, 15, 13, 10, 21, 18, 6]
    assert test.tolist() == [8, 14, 1, 7, 4, 12, 22]
    learn, test = split(11, 0.5, 42, None)
    assert (learn.tolist(), test.tolist()) == ([8, 4, 7, 3, 6], [5, 0, 9, 10, 2, 1])


def test_a_folder_is_read_packed_or_not_and_contaminated_rows_are_left_out(tmp_path: Path) -> None:
    packed, plain = load(folder(tmp_path / "a")), load(folder(tmp_path / "b", packed=False))
    assert packed.texts == plain.texts and (packed.cost == plain.cost).all()
    assert packed.groups is not None and packed.plan == (0.3, (1, 2, 3))
    rows = [json.loads(x) for x in (tmp_path / "b" / "prompts.jsonl").read_text().splitlines()]
    rows[0]["contaminated"] = True
    (tmp_path / "b" / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    again = load(tmp_path / "b", splits=2, seed=9)
    assert again.texts == plain.texts[1:] and again.plan.seeds == (9, 10)
    assert (again.quality == plain.quality[1:]).all()


def _write(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        lines = (path / name).read_text().splitlines()
        (path / name).write_text("\n".join(change(lines)) + "\n")

    return apply


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no prompts": (lambda p: (p / "prompts.jsonl").unlink(), "neither"),
    "no cost": (lambda p: (p / "cost.csv").unlink(), "cost.csv may be absent"),
    "not JSON": (_write("prompts.jsonl", lambda x: [*x[:-1], "{"]), "line 60 is not JSON"),
    "deep JSON": (_write("prompts.jsonl", lambda x: [*x[:-1], "[" * 100_000]), "line 60 is not JSON"),
    "no prompt": (_write("prompts.jsonl", lambda x: ['{"topic": "law"}', *x[1:]]), "line 1: no object"),
    "no group": (_write("prompts.jsonl", lambda x: ['{"prompt": "x"}', *x[1:]]), "line 1: no text 'topic'"),
    "few rows": (_write("quality.csv", lambda x: x[:-1]), "59 rows for 60 prompts"),
    "ragged": (_write("quality.csv", lambda x: [*x[:3], "1,0", *x[4:]]), "line 4: 2 values for 4 models"),
    "words": (_write("cost.csv", lambda x: [*x[:3], "a,b,c,d", *x[4:]]), "line 4: not a row of numbers"),
    "not a number": (_write("cost.csv", lambda x: [*x[:3], "nan,1,1,1", *x[4:]]), "not from 0 to 1e+09"),
    "negative": (_write("cost.csv", lambda x: [*x[:3], "-1,1,1,1", *x[4:]]), "not from 0 to 1e+09"),
    "dear beyond reckoning": (_write("cost.csv", lambda x: [*x[:3], "1e308,1,1,1", *x[4:]]), "not from 0 to 1e+09"),
    "above one": (_write("quality.csv", lambda x: [*x[:3], "2,1,1,1", *x[4:]]), "not from 0 to 1"),
    "twice": (_write("quality.csv", lambda x: ["a,a,b,c", *x[1:]]), "or one twice"),
    "other cost": (_write("cost.csv", lambda x: ["a,b,c,d", *x[1:]]), "no column 'large'"),
    "all alike": (_write("cost.csv", lambda x: [x[0], *["1,1,1,1"] * 60]), "nothing to trade"),
    "empty": (lambda p: (p / "quality.csv").write_text(""), "names 0 models"),
    "bytes": (lambda p: (p / "quality.csv").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "pool": (lambda p: (p / "pool.json").write_text('{"pool": ["large", "nobody"]}'), "no column 'nobody'"),
    "pool of one": (lambda p: (p / "pool.json").write_text('{"pool": ["large"]}'), "two or more"),
    "pool list": (lambda p: (p / "pool.json").write_text("[]"), "holds no object"),
    "pool text": (lambda p: (p / "pool.json").write_text("{"), "is not JSON"),
    "split": (lambda p: (p / "pool.json").write_text('{"split": "some/most"}'), "names no division"),
    "nothing to test": (lambda p: (p / "pool.json").write_text('{"split": "99/2 seeds 1-2"}'), "names no division"),
    "too few": (
        lambda p: (
            [_write(n, lambda x: x[:20])(p) for n in ("quality.csv", "cost.csv")]
            + [_write("prompts.jsonl", lambda x: x[:19])(p)]
        ),
        "19 usable prompts",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_ends_with_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it, words = BAD[name]
    path = folder(tmp_path / "x", 60, packed=False)
    break_it(path)
    assert main(["route", "eval", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err, said.err


def test_a_damaged_archive_ends_with_one_line(tmp_path: Path) -> None:
    path = folder(tmp_path / "x", 60)
    whole = (path / "quality.csv.gz").read_bytes()
    for damaged in (whole[:-5], whole[:20], b"not gzip", whole[:30] + b"\x00" * 9 + whole[39:]):
        (path / "quality.csv.gz").write_bytes(damaged)
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path)
    (path / "quality.csv.gz").write_bytes(gzip.compress(b"a,b\n"))
    with pytest.raises(ConfigError, match="0 rows for 60 prompts"):
        load(path)


@pytest.mark.parametrize("options", [["--splits", "0"], ["--splits", "101"], ["--seed", "-1"], ["--seed", str(2**32)]])
def test_impossible_splits_are_refused(options: list[str], tmp_path: Path) -> None:
    assert main(["route", "eval", str(folder(tmp_path / "x", 60)), *options]) == 1


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "eval", str(tmp_path / "none"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_configuration"


def test_the_command_finds_the_topics_of_a_made_up_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["route", "eval", str(folder(tmp_path / "made")), "--json", "--requests", "600", "--splits", "1"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    told = json.loads(first)
    score = {name: row["measures"]["aiq"]["mean"] for name, row in told["methods"].items()}
    assert score["oracle"] > score["true tasks"] > score["single models"] + 0.1 > score["random"]
    assert abs(score["published"] - score["online"]) < 0.02, "what gateways decide by is what was learned"
    for name in ("tasks", "fitted words", "fitted outcomes", "fitted", "online", "online tasks", "published"):
        assert score[name] > score["single models"] + 0.5 * (score["true tasks"] - score["single models"]), name
    assert told["aiq"] == told["methods"]["fitted"]["measures"]["aiq"]
    assert abs(sum(t["share"] for t in told["tasks"]) - 1) < 0.01
    assert told["online"]["online"]["explored"]["mean"] < 0.05 + 20 * 4 / 600
    assert set(told["newcomers"]) == {"alone", "by_price", "by_kin"} and 0 < told["newcomers"]["by_kin"] < 0.5
    assert main(arguments) == 0
    assert capsys.readouterr().out == first


def test_the_plot_shows_the_chief_methods_over_their_cost(tmp_path: Path) -> None:
    where = tmp_path / "curves.svg"
    path = str(folder(tmp_path / "made", 300))
    assert main(["route", "eval", path, "--splits", "2", "--requests", "100", "--plot", str(where)]) == 0
    picture = ElementTree.fromstring(where.read_text())
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    texts = [each.text for each in picture.findall("{http://www.w3.org/2000/svg}text")]
    names = ["single models", "true tasks", "logistic regression", "fitted", "published"]
    assert len(lines) == len(names) and [text for text in texts if text in names] == names
    for line in lines:
        places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        assert places == sorted(places) and all(56 <= x <= 590 and 16 <= y <= 356 for x, y in places)
        tall = [y for _, y in places]
        assert tall == sorted(tall, reverse=True), "more money never brings less"


@pytest.mark.parametrize("where", ["", "none/curves.svg"])
def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["route", "eval", str(tmp_path / "no folder"), "--plot", str(tmp_path / where)]) == 1
    assert "no file can be made there" in capsys.readouterr().err


def test_a_curve_has_no_height_where_its_hull_has_not_begun() -> None:
    found = heights([(2.0, 0.5), (3.0, 0.9)], COST)
    assert np.isnan(found[:50]).all() and found[50] == 0.5 and found[75] == pytest.approx(0.7) and found[-1] == 0.9


def test_what_calls_are_expected_to_cost_is_of_the_log_alone(tmp_path: Path) -> None:
    data = load(folder(tmp_path / "made", 200), 1)
    prompts = [read(text) for text in data.texts]

    def expected(cost: NDArray[np.float64]) -> dict[str, Any]:
        told = data._replace(cost=cost)
        now = run._divide(told, prompts, 1, np.random.default_rng(1))
        return {name: each.cost for (_, name), each in run._offline(told, now, np.random.default_rng(2))[0].items()}

    tested = run._divide(data, prompts, 1, np.random.default_rng(1)).test
    other = data.cost.copy()
    other[tested] = other[tested][::-1] * 7
    as_it_is, changed = expected(data.cost), expected(other)
    of_each = {name for name, cost in as_it_is.items() if cost is not None}
    assert of_each == {"true tasks and their costs", "fitted", "oracle"}, "the others expect each model's mean"
    for name in of_each - {"oracle"}:
        assert (as_it_is[name] == changed[name]).all() and np.ptp(as_it_is[name], 0).min() > 0, name
    assert (changed["oracle"] == other[tested]).all()
    unpriced = run._offline(
        data._replace(priced=False), run._divide(data, prompts, 1, np.random.default_rng(1)), np.random.default_rng(2)
    )[0]
    assert unpriced["learned", "fitted"].cost is None and ("baseline", "true tasks and their costs") not in unpriced


def test_how_quickly_changes_are_noticed_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "LATER", 600)
    path = str(folder(tmp_path / "made", 400))
    arguments = ["route", "eval", path, "--requests", "400", "--splits", "1", "--drift"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["drift"]
    failing, back, new = told["changes"]
    assert told["after"] == 400 and all(
        c["reached"] == c["splits"] == 1 and c["spread"] is None for c in (failing, new)
    )
    assert failing["requests"] <= 300 and failing["after"] <= 0.2 * failing["before"]
    assert back["reached"] == 0 or (back["requests"] > 0 and back["after"] >= 0.8 * failing["before"])
    assert new["before"] == 0 and new["after"] > 0.3
    there = told["gateway"]
    assert there["calls_per_state"] == 100 and [each["of_calls"] for each in there["outcomes"]] == [1.0, 0.1]
    for each in there["outcomes"]:
        names = [change["change"] for change in each["changes"]]
        assert names == [change["change"] for change in told["changes"]]
    failing, back, new = there["outcomes"][0]["changes"]
    assert failing["reached"] == 1 and failing["requests"] <= 500 and failing["after"] <= 0.2 * failing["before"]
    assert back["reached"] == 0 or back["after"] >= 0.8 * failing["before"]
    assert new["before"] == 0


def test_a_gateway_tries_others_within_the_share_that_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "LATER", 400)
    monkeypatch.setattr(gateway, "TOLD", (1.0,))
    data = load(folder(tmp_path / "made", 300), 1)
    taken: list[tuple[bool, int]] = []

    def watched(offered: Sequence[Offered], share: int, money: int, seed: int) -> Taken:
        found = decided(offered, share, money, seed)
        best = max(each.score for each in offered)
        assert offered[found.best].score == best and (share or found.arm == found.best)
        taken.append((found.arm != found.best, share))
        return found

    first = gateway_drift(data, [read(text) for text in data.texts], 200, watched, lambda words: None)
    tried, shares = sum(t for t, _ in taken), sum(s for _, s in taken) / 1_000_000
    assert 0 < tried <= shares + 4 * shares**0.5, "as often as was allowed, and chance"
    assert tried < 0.03 * len(taken) + 2 * 20 * 5, "and that is the share and the cold calls of each learner"
    again = gateway_drift(data, [read(text) for text in data.texts], 200, decided, lambda words: None)
    assert str(again) == str(first), "the same figures from the same seed"


def test_what_was_never_noticed_is_said_so() -> None:
    moved = [Moved("a model fails", 5, 4, 100.0, 10.0, 0.6, 0.1), Moved("it works again", 5, 0, nan, nan, 0.1, 0.1)]
    nothing = cast("Any", None)
    first, second = drift_words(Report(nothing, 1, 1, [], {}, [], Drift(300, moved)))[1:]
    assert "100 (10) requests, in 4 of 5 splits" in first and "from 60.0% to 10.0%" in first
    there = [GatewayDrift(0.1, moved)]
    lines = drift_words(Report(nothing, 1, 1, [], {}, [], Drift(300, moved), there))
    assert "a state every 100 calls, outcomes of 10%" in lines[3] and lines[4:] == [first, second]
    assert "it works again: never" in second and drift_words(Report(nothing, 1, 1, [], {}, [])) == []


def test_what_is_published_before_any_prompt_is_read_is_the_models_means() -> None:
    estimator = Estimator(Kin.of_prices([1.0, 2.0]), np.random.default_rng(1))
    for number in range(100):
        estimator.learn(read("x"), number % 2, float(number % 2))
    found = expected_as_published(estimator, ["a", "b"], ["x", "something else"])
    assert found.shape == (2, 2) and (found[0] == found[1]).all()
    assert np.abs(found[0] - estimator.expected(read("x"))[0]).max() < 1e-5


def test_names_that_tell_sizes_bring_what_is_expected_of_a_new_model_nearer(tmp_path: Path) -> None:
    data = load(folder(tmp_path / "made", 200), 1)
    rng = np.random.default_rng(3)
    sizes = (1, 3, 8, 14, 32, 70)
    quality = (rng.random((200, 6)) < np.array([0.2, 0.3, 0.42, 0.5, 0.6, 0.7])).astype(float)
    made = data._replace(models=[f"m-{size}b" for size in sizes], quality=quality, cost=np.ones((200, 6)))
    told = newcomers(made)
    assert (
        told is not None and told.by_kin < 0.6 * told.by_price and told.by_price == pytest.approx(told.alone, abs=1e-9)
    )
    assert newcomers(made._replace(models=made.models[:3], quality=quality[:, :3])) is None


def test_a_new_model_that_is_better_and_cheaper_is_so() -> None:
    rng = np.random.default_rng(1)
    quality, cost = rng.integers(0, 2, (500, 3)).astype(float), rng.uniform(1, 2, (500, 3))
    better, cheaper = with_better(quality, cost, rng)
    best = int(quality.mean(0).argmax())
    assert (better[:, :3] == quality).all() and (better[:, 3] >= quality[:, best]).all()
    assert better[:, 3].mean() > quality[:, best].mean() and (cheaper[:, 3] == cost[:, best] / 2).all()


def test_two_models_without_prices_are_measured_by_the_share_of_strong_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(tmp_path / "two", 300, models=2)
    assert main(["route", "eval", str(path), "--splits", "1"]) == 0
    text = capsys.readouterr().out
    assert "APGR" in text and "share of calls to the stronger model" in text and "true tasks" not in text
    assert "random               " in text and "0.500" in text
