"""The Grafana dashboard and the alerting rules in deploy/: their PromQL is sound, over metrics and labels there are."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

from interlock.settings import Settings
from interlock.telemetry.metrics import Metrics
from interlock.testing.clock import FakeClock
from interlock.types.identity import Workload
from interlock.types.source import EngineState

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "interlock.json"
SCRAPED = {"instance", "job"}
"""Labels that Prometheus itself gives every series."""
WORDS = {"workload": {each.name for each in Workload}, "state": {each.value for each in EngineState}}
"""Values of labels whose family does not list them in its help."""
CODES = {"budget_exceeded", "budget_unavailable"}
SEVERITIES = {"critical", "warning", "info"}


class Known(NamedTuple):
    """Labels of a series, and the help of its family."""

    labels: set[str]
    help: str


@functools.cache
def known() -> dict[str, Known]:
    """Every series that Interlock exposes, by name."""
    out = {"up": Known(set(), "")}
    for family in Metrics(None, "0", Settings(), FakeClock()).families.values():
        labels = set(family.labels)
        if family.kind == "histogram":
            out[f"{family.name}_bucket"] = Known({*labels, "le"}, family.help)
            out |= {f"{family.name}_{part}": Known(labels, family.help) for part in ("sum", "count")}
        else:
            out[family.name] = Known(labels, family.help)
    page = (ROOT / "docs" / "admin-api.md").read_text(encoding="utf-8")
    for name, kind, labels, words in re.findall(
        r"^\| `(interlock_control_\w+)` \| (\w+) \|(.*?)\| (.*?) \|$", page, re.M
    ):
        parts = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        out |= {part: Known(set(re.findall(r"`(\w+)`", labels)), words) for part in parts}
    return out


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything in both files."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    document = json.loads(BOARD.read_text(encoding="utf-8"))
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def faults(text: str) -> list[str]:
    """What is wrong with an expression. Grafana's own variables are filled in as it would do it."""
    plain = text.replace("$__rate_interval", "5m").replace("$source", ".*")
    try:
        tree = promql_parser.parse(plain)
    except ValueError as e:
        return [str(e)]
    found: list[str] = []
    named: set[str] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.MatrixSelector):
            return visit(node.vector_selector)
        if isinstance(node, promql_parser.VectorSelector):
            found.extend(_selector(node))
            if node.name in known():
                named.update(known()[node.name].labels)
        return True

    promql_parser.walk(tree, pre_visit=visit)

    def grouped(node: Any) -> bool:
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
            found.extend(f"groups by {each}" for each in set(modifier.labels) - named - SCRAPED)
        return True

    promql_parser.walk(tree, pre_visit=grouped)
    return found


def _selector(node: Any) -> list[str]:
    if node.name not in known():
        return [f"there is no metric {node.name}"]
    family = known()[node.name]
    out = []
    for matcher in node.matchers.matchers:
        if matcher.name not in family.labels | SCRAPED:
            out.append(f"{node.name} has no label {matcher.name}")
        elif matcher.name not in {"source", "model", *SCRAPED}:
            right = WORDS.get(matcher.name, set()) | CODES | set(re.findall(r"\w+", family.help))
            out += [f"{matcher.name} is never {value}" for value in matcher.value.split("|") if value not in right]
    return out


@pytest.mark.parametrize(("where", "text"), list(expressions()))
def test_expressions_are_over_what_there_is(where: str, text: str) -> None:
    assert faults(text) == [], where


@pytest.mark.parametrize(
    "text",
    [
        "rate(interlock_nothing_total[5m])",
        'sum(interlock_source_up{model="x"})',
        "sum by (tenant) (interlock_source_up)",
        'sum(interlock_requests_total{outcome="broken"})',
        "sum(interlock_source_up",
        "histogram_quantile(0.9, interlock_request_seconds)",
    ],
)
def test_what_is_wrong_is_found(text: str) -> None:
    assert faults(text)


def test_every_rule_says_what_how_bad_and_with_labels_that_are_left() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 20
    for rule in rules():
        assert rule["labels"]["severity"] in SEVERITIES and rule["annotations"]["summary"], rule["alert"]
        assert promql_parser.parse(rule["expr"]) and re.fullmatch("[0-9]+[smh]", rule.get("for", "0m"))
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert used <= _left(promql_parser.parse(rule["expr"])), rule["alert"]


def _left(tree: Any) -> set[str]:
    """Labels of the series that an expression gives: those that it groups by, else those of its metric."""
    if isinstance(tree, promql_parser.AggregateExpr):
        return set(tree.modifier.labels) if tree.modifier is not None else set()
    if isinstance(tree, promql_parser.BinaryExpr):
        return _left(tree.lhs)
    if isinstance(tree, promql_parser.ParenExpr):
        return _left(tree.expr)
    if isinstance(tree, promql_parser.Call):
        return set().union(*(_left(each) for each in tree.args)) - {"le"}
    if isinstance(tree, promql_parser.MatrixSelector):
        return _left(tree.vector_selector)
    if isinstance(tree, promql_parser.VectorSelector):
        return known()[str(tree.name)].labels | SCRAPED
    return set()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    document = json.loads(BOARD.read_text(encoding="utf-8"))
    every = document["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    variables = {each["name"] for each in document["templating"]["list"]}
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        text = json.dumps(panel)
        assert set(re.findall(r"\$\{?(\w+)", text)) <= {*variables, "__rate_interval"}, panel["title"]
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            tree = promql_parser.parse(target["expr"].replace("$__rate_interval", "5m").replace("$source", ".*"))
            assert shown <= _left(tree), panel["title"]
