"""Changes that can be asked for, and the report as text and as a picture."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import msgspec
import pytest

from interlock.control.rerouting.change import ModeWeights, Otherwise, checked, normal, ways
from interlock.control.rerouting.plot import svg
from interlock.control.rerouting.report import Changed, Decisions, Estimate, Figure, Method, Quality, Rerouted, Untried
from interlock.control.rerouting.tally import GROUPS_MAX, OTHERS, Tally, _Shares
from interlock.control.rerouting.words import lines
from interlock.control.whatif import Ground
from interlock.errors import BadRequest
from interlock.types.identity import Tenant
from interlock.types.source import Model, Source, SourceKind

ESTIMATE = Estimate(0.5, 0.4, 0.6)
MONEY = Estimate(2e6, 1e6, 3e6)


def report(**quality: object) -> Rerouted:
    decisions = Decisions(120, False, 100, {"erased": 20}, 30, 25, 5, 0, 2, 3, 4, 90, (), (), (), ())
    told = Quality(
        80, 0.8, 1, 55.0, 3.5, 0, 50.0, 0.0, (), True, (), (Method("dr", ESTIMATE, ESTIMATE, Estimate(0.0, -0.1, 0.1)),)
    )
    figures = (
        Figure("cost", "nano-USD", 95, 5, {"logged": 70, "means": 25}, MONEY, MONEY, Estimate(0.0, 0.0, 0.0)),
        Figure("energy", "J", 3, 97, {"logged": 3}),
    )
    changes = (Changed("create", "policy", "no-<cloud>"),)
    return Rerouted(changes, decisions, figures, msgspec.structs.replace(told, **quality), ("look",))


def test_no_figure_stands_without_its_interval_and_source() -> None:
    text = lines(report())
    cost = next(line for line in text if "cost:" in line)
    assert (
        "0.002000 (0.001000 to 0.003000)" in cost and "70 as logged, 25 by means" in cost and "not known of 5" in cost
    )
    assert any("energy: the data cannot tell" in line for line in text)
    assert any("quality (DR): 0.500 (0.400 to 0.600)" in line and "80 calls with feedback" in line for line in text)
    assert any("20 were not: what was recorded of them was erased" in line for line in text)
    assert any("what_if_calls_max" in line for line in text) and "+ policy no-<cloud>" in text


def test_that_the_data_cannot_tell_is_in_text_and_picture() -> None:
    found = report(tells=False, why=("20.0% of <traffic>",), untried=(Untried("new", 0.2),))
    assert any("cannot tell of quality: 20.0% of <traffic>" in line for line in lines(found))
    assert any("new would get 20.0%" in line for line in lines(found))
    root = ElementTree.fromstring(svg(found))
    described = root.find("{http://www.w3.org/2000/svg}desc")
    assert described is not None and described.text is not None and "20.0% of <traffic>" in described.text
    assert "The data cannot tell" in "".join(root.itertext())


def test_the_picture_has_words_and_every_mark_is_inside() -> None:
    root = ElementTree.fromstring(svg(report()))
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    for mark in ("circle", "rect"):
        marks = root.findall(f"{{http://www.w3.org/2000/svg}}{mark}")
        assert marks
        for each in marks:
            x, y = (float(each.get(name) or 0) for name in (("cx", "cy") if mark == "circle" else ("x", "y")))
            assert 0 <= x <= 640 and 0 <= y <= 420 and math.isfinite(x + y)
    with pytest.raises(BadRequest, match="nothing to plot"):
        svg(report(methods=()))


def test_weights_are_as_they_stand_to_each_other() -> None:
    assert normal(ModeWeights(2, 1, 1, 0)) == normal(ModeWeights(0.5, 0.25, 0.25)) == (500_000, 250_000, 250_000, 0)
    assert sum(normal(ModeWeights(1, 1, 1))) == 1_000_000
    for wrong in (ModeWeights(), ModeWeights(-1, 2), ModeWeights(math.nan), ModeWeights(math.inf)):
        with pytest.raises(BadRequest):
            checked(Otherwise(weights=wrong))


def test_weights_of_a_mode_leave_the_others_and_what_is_left_out_has_to_be_there() -> None:
    source = Source("src_a", "a", SourceKind.openai, "http://x", granted_to=("*",), models=(Model("m"), Model("n")))
    ground = Ground((Tenant("ten_acme", "acme"),), (), (source,), (), (), {}, 0)
    side = ways(ground, "ten_acme", Otherwise(weights=ModeWeights(1, mode="eco"), without=("a::n",)))
    assert side.weights("balanced") is None and side.weights("eco") == (1_000_000, 0, 0, 0)
    assert list(side.catalog.by_key) == ["a::m"]
    assert not ways(ground, "ten_acme", Otherwise(without=("a",))).catalog.by_key
    for name in ("b", "a::o", "::m", ""):
        with pytest.raises(BadRequest, match="there is no"):
            ways(ground, "ten_acme", Otherwise(without=(name,)))
    with pytest.raises(BadRequest, match="no such tenant"):
        ways(ground, "ten_globex")


def test_what_is_counted_is_bounded() -> None:
    shares = _Shares()
    for number in range(GROUPS_MAX + 50):
        shares.add(f"m{number}", f"m{number}", changed=False)
    listed = shares.shares()
    assert len(listed) == GROUPS_MAX + 1 and listed[-1].name == OTHERS and sum(s.before for s in listed) == shares.calls
    tally = Tally({})
    tally.add(None, "erased", None)
    told = tally.decisions(whole=True)
    assert (told.calls, told.again, told.left_out) == (1, 0, {"erased": 1})
