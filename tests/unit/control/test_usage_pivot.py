"""The pivot of usage: every number is the sum of what lies under it, and leads to the calls behind it."""

from __future__ import annotations

import datetime
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from interlock.control.console.usage_page import BY
from interlock.control.console.usage_pivot import DEPARTMENTS, FILTERS, Links, Pivot, Shown, Sum, pivot, unit_of
from interlock.storage.usage import Figures, Part

FIRST, AFTER = datetime.date(2026, 3, 28), datetime.date(2026, 3, 31)
LINKS = Links("acme", ZoneInfo("Europe/Vienna"), True)


def part(nusd: int, department: str, model: str, slot: str = "") -> Part:
    day = datetime.date.fromisoformat(slot) if slot else None
    return Part(department, model, day, Figures(cost=nusd, calls=1, tokens=5, energy=7, carbon=11))


PARTS = [
    part(10, "a", "small", "2026-03-28"),
    part(5, "a", "large", "2026-03-29"),
    part(40, "b", "small", "2026-03-29"),
    part(1, "", "small", "2026-03-30"),
    part(30, "a", "small"),
    part(2, "gone", "small"),
]


def made(figure: str = "cost", links: Links = LINKS) -> Pivot:
    return pivot(PARTS, Shown(figure, "team"), FIRST, AFTER, links)


def test_departments_stand_over_their_models_the_largest_first() -> None:
    got = made()
    assert got.columns == ["2026-03-30", "2026-03-29", "2026-03-28"], "what is new is seen without scrolling"
    assert [
        (line.department, line.model, line.total.sum.value, line.before.value) for line in got.lines
    ] == [
        ("b", "", 40, 0), ("b", "small", 40, 0), ("a", "", 15, 30), ("a", "small", 10, 30), ("a", "large", 5, 0),
        ("", "", 1, 0), ("", "small", 1, 0), ("gone", "", 0, 2), ("gone", "small", 0, 2),
    ]  # fmt: skip
    assert got.totals == [Sum(1), Sum(45), Sum(10)] and got.total == Sum(56) and got.before == Sum(32)
    assert [cell.shade for cell in got.lines[1].cells] == [0, 5, 0]
    totals = [made(figure).total.value for figure in ("carbon", "tokens", "calls", "energy")]
    assert totals == [44, 20, 4, 28]


def asked(met: int, calls: int, model: str, slot: str = "") -> Part:
    return part(9, "a", model, slot)._replace(figures=Figures(calls=calls + 5, slo_calls=calls, slo_met=met))


def test_a_share_is_of_all_calls_that_asked_and_not_a_mean_of_shares() -> None:
    parts = [
        asked(0, 1, "late", "2026-03-28"), asked(96, 99, "late", "2026-03-29"), asked(3, 3, "small", "2026-03-28"),
        asked(1, 4, "small"), part(40, "b", "small", "2026-03-29"), part(4, "b", "small"),
    ]  # fmt: skip
    got = pivot(parts, Shown("objectives", "team"), FIRST, AFTER, LINKS)
    assert [(line.model, line.total.sum, line.before) for line in got.lines] == [
        ("", Sum(99, 103), Sum(1, 4)), ("late", Sum(96, 100), Sum(0, 0)), ("small", Sum(3, 3), Sum(1, 4)),
    ], "what nothing was asked of has no line; the largest is that of the most calls"  # fmt: skip
    assert [(cell.sum, cell.shade) for cell in got.lines[1].cells] == [(Sum(), 0), (Sum(96, 99), 5), (Sum(0, 1), 0)]
    assert got.totals == [Sum(), Sum(96, 99), Sum(3, 4)] and (got.total, got.before) == (Sum(99, 103), Sum(1, 4))
    assert {cell.link for line in got.lines for cell in (*line.cells, line.total)} == {""}
    assert pivot(parts[4:], Shown("objectives", "team"), FIRST, AFTER, LINKS).lines == []


def test_a_number_leads_to_its_calls_in_the_tenants_days() -> None:
    got = made()
    asked = parse_qs(urlsplit(got.lines[1].cells[1].link).query)
    assert asked == {
        "tenant": ["acme"], "kind": ["call"], "team": ["b"], "model": ["small"],
        "since": ["2026-03-28T23:00:00"], "until": ["2026-03-29T22:00:00"],
    }  # fmt: skip
    assert [cell.link for cell in got.lines[5].cells] == ["", "", ""], "no filter says: of no team"
    assert got.lines[1].cells[2].link == "", "nothing is there to be shown"


def test_who_may_not_search_gets_no_links() -> None:
    for department, _ in DEPARTMENTS:
        for links, leads in ((LINKS._replace(allowed=False), False), (LINKS, True)):
            got = pivot([part(1, "a", "m", "2026-03-28")], Shown("cost", department), FIRST, AFTER, links)
            numbers = [cell.link for line in got.lines for cell in (*line.cells, line.total) if cell.sum.value]
            assert len(numbers) == 4 and all(bool(link) is leads for link in numbers), department


def test_what_is_summed_under_no_alias_leads_to_calls_without_one() -> None:
    got = pivot([part(1, "", "", "2026-03-28")], Shown("cost", "alias"), FIRST, AFTER, LINKS)
    whole, model = (parse_qs(urlsplit(line.total.link).query) for line in got.lines)
    assert (whole["without"], model["without"]) == (["alias"], ["alias,model"])
    assert {*whole} == {*model} == {"tenant", "kind", "without", "since", "until"}


def test_a_line_of_a_report_leads_where_the_ledger_can_say_the_same() -> None:
    asked = parse_qs(urlsplit(LINKS.to({"source": "a b", "day": "2026-03-29"}, FIRST, AFTER, "refusal")).query)
    assert asked["source"] == ["a b"] and asked["kind"] == ["refusal"]
    assert (asked["since"], asked["until"]) == (["2026-03-28T23:00:00"], ["2026-03-29T22:00:00"])
    every = {
        "team": "a",
        "cost_center": "47",
        "principal": "p",
        "model": "m",
        "alias": "x/y",
        "source": "s",
        "class": "&=c",
    }
    asked = parse_qs(urlsplit(LINKS.to(every, FIRST, AFTER)).query)
    assert {name: asked[name] for name in every} == {name: [value] for name, value in every.items()}
    assert "state" not in asked and "without" not in asked
    asked = parse_qs(urlsplit(LINKS.to({"alias": "", "class": "c"}, FIRST, AFTER, state="not completed")).query)
    assert (asked["without"], asked["class"], asked["state"]) == (["alias"], ["c"], ["not completed"])
    for name in ("team", "principal", "cost_center"):
        assert LINKS.to({name: "", "model": "m"}, FIRST, AFTER) == "", "no filter says: on nobody's account"
    assert LINKS.to({"workload": "batch"}, FIRST, AFTER) == "", "nothing is searched by it"


def test_every_column_of_a_report_leads_to_its_calls() -> None:
    assert {name for name, _ in BY} == {*FILTERS, "day"} and {name for name, _ in DEPARTMENTS} <= {*FILTERS}


def test_a_figure_of_zeroes_still_has_models_under_departments() -> None:
    got = pivot([part(0, "a", "m", "2026-03-28")], Shown("cost", "team"), FIRST, AFTER, LINKS)
    assert [line.whole for line in got.lines] == [True, False]


def test_a_long_time_is_shown_by_months_cut_at_its_ends() -> None:
    first, after = datetime.date(2026, 1, 15), datetime.date(2026, 3, 10)
    assert (unit_of(FIRST, AFTER), unit_of(first, after)) == ("day", "month")
    got = pivot(
        [part(3, "a", "m", "2026-02-01"), part(4, "a", "m", "2026-01-01")], Shown("cost", "team"), first, after, LINKS
    )
    assert got.columns == ["2026-03", "2026-02", "2026-01"] and got.totals == [Sum(0), Sum(3), Sum(4)]
    asked = parse_qs(urlsplit(got.lines[0].total.link).query)
    assert (asked["since"], asked["until"]) == (["2026-01-14T23:00:00"], ["2026-03-09T23:00:00"])
