"""What is wrong with a form of an alias is told at the fields it was typed into, over a real database."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .control_client import Running, control_over
from .test_console_sources import CONFIG, OLGAS, Visitor

HELPER, PATH = {"name": "helper", "targets": [{"model": "m"}]}, "/aliases/acme/helper"
ENTRY = "/tenants/acme/aliases/helper"


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        running.owner.apply(CONFIG)
        running.owner.do("POST", "/tenants/acme/principals/olga/password", {"password": OLGAS})
        yield running


@pytest.fixture
def olga(running: Running) -> Iterator[Visitor]:
    visitor = Visitor(running, "acme/olga", OLGAS)
    before = running.owner.get(ENTRY)["revision"]
    yield visitor
    assert running.owner.get(ENTRY)["revision"] == before, "nothing was stored"


def at_fault(refused: Any, form: str) -> dict[str, str]:
    """What is told at each field that is marked, by its name. Each belongs to its words, and is led to from above."""
    assert 400 <= refused.status_code < 500, refused.text
    page, found = refused.text.partition("<main")[2], {}
    alert = page.partition('role="alert">')[2].partition("</div>")[0]
    for tag in re.findall(r"<(?:input|select)[^>]*aria-invalid=\"true\"[^>]*>", page):
        at, name = (re.findall(rf' {attribute}="([^"]*)"', tag)[0] for attribute in ("id", "name"))
        assert at == f"f-{form}{name}" or at == f"f-objectives-{name}", "of no other form of the page"
        told = f"e{at[1:]}"
        assert f'aria-describedby="{told}' in tag and "is-invalid" in tag
        assert ("autofocus" in tag) == (not found), "one arrives at the first"
        words = html.unescape(page.partition(f'id="{told}">')[2].partition("</div>")[0])
        assert words and f'href="#{at}">{html.escape(words, quote=False)}' in alert.replace("&#39;", "'"), alert
        found[name] = words
    number = len(found)
    assert ("One field is wrong" if number == 1 else f"{number} fields are wrong") in alert
    assert alert.count("<li>") == number
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    return found


def kept(refused: Any, sent: dict[str, str]) -> None:
    for name, value in sent.items():
        if value and name not in ("mode", "data_class", "do", "sticky") and not name.startswith("check_"):
            assert re.search(rf'name="{name}"[^>]*value="{re.escape(html.escape(value))}"', refused.text), name


TARGETS = {
    "model_0": "no model",
    "weight_0": "",
    "model_1": "",
    "weight_1": "",
    "model_2": "large",
    "source_2": "ours",
    "weight_2": "many",
    "model_3": " ",
    "source_3": "ours",
    "model_4": "m",
    "weight_4": "0",
    "mode": "fast",
    "max_tokens": "1.5",
    "data_class": "secret",
    "deprecated": "soon",
    "sunset": "<b>",
    "successor": "helper",
    "reason": "r",
}


def test_every_field_of_targets_mode_and_end_tells_what_is_wrong_with_it(olga: Visitor) -> None:
    refused = olga.post(PATH, do="save", **TARGETS)
    found = at_fault(refused, "save-")
    wrong = "model_0 weight_2 model_3 weight_4 mode max_tokens data_class deprecated sunset successor"
    assert list(found) == wrong.split(), "in their order, and in rows that were typed"
    assert found["model_0"] == "Model of target 1: 'no model' is no model name."
    assert found["weight_2"] == "Weight of target 3: a whole number, not 'many'."
    assert found["model_3"] == "Model of target 4: there is a source or a weight, and no model."
    assert found["weight_4"] == "Weight of target 5: at least 1."
    assert "ISO 8601" in found["deprecated"] and "no other model" in found["successor"]
    assert "<b>" not in refused.text.partition("<main")[2]
    kept(refused, TARGETS)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model_0": ""}, "model_0", "an alias needs at least one target"),
        ({"source_0": "nowhere"}, "source_0", "Source of target 1: there is no source 'nowhere'."),
        ({"model_1": "large", "source_1": "nowhere", "model_0": ""}, "source_1", "Source of target 2: there is no"),
        ({"sunset": "2027-01-31", "deprecated": "2027-02-28"}, "deprecated", "before its sunset"),
        ({"reason": ""}, "reason", "say why"),
    ],
)
def test_what_is_found_of_the_whole_or_when_it_is_to_be_stored_is_told_at_its_field_too(
    olga: Visitor, change: dict[str, str], field: str, words: str
) -> None:
    sent = {"model_0": "m", "reason": "r", **change}
    refused = olga.post(PATH, do="save", **sent)
    found = at_fault(refused, "save-")
    assert list(found) == [field] and words in found[field]
    kept(refused, sent)


def test_a_canary_and_a_shadow_tell_it_at_their_own_fields(olga: Visitor) -> None:
    sent = {"candidate": "no model", "candidate_source": "ours", "share_percent": "lots", "window_s": "0"}
    sent |= {"calls_min": "few", "errors_milli_max": "", "total_percent_max": "-1", "reason": "r"}
    refused = olga.post(PATH, do="canary-start", **sent)
    wrong = {"candidate", "share_percent", "window_s", "calls_min", "total_percent_max"}
    assert set(at_fault(refused, "canary-")) == wrong
    kept(refused, sent)
    sent = {"candidate": "m", "share_percent": "5", "errors_milli_max": "", "window_s": "600", "reason": "r"}
    found = at_fault(olga.post(PATH, do="canary-start", **sent), "canary-")
    assert list(found) == ["errors_milli_max"] and "at least one condition" in found["errors_milli_max"]
    refused = olga.post(PATH, do="shadow-start", candidate=" ", share_percent="101", reason="r")
    assert list(at_fault(refused, "shadow-")) == ["candidate", "share_percent"]
    refused = olga.post(
        PATH, do="shadow-start", candidate="m", candidate_source="nowhere", share_percent="1", reason="r"
    )
    assert list(at_fault(refused, "shadow-")) == ["candidate_source"]


def test_a_cascade_tells_it_at_its_steps_checks_and_bounds(olga: Visitor) -> None:
    sent = {
        "step_model_0": "m",
        "step_model_1": "",
        "step_source_1": "ours",
        "step_model_2": "m",
        "step_model_3": "x y",
    }
    sent |= {"confidence_percent": "200", "money_usd": "0", "time_ms": "0", "reason": "r"}
    refused = olga.post(PATH, do="cascade-save", **sent)
    found = at_fault(refused, "cascade-")
    rows = ["step_model_1", "step_model_2", "step_model_3"]
    assert list(found) == [*rows, "check_json", "confidence_percent", "money_usd", "time_ms"]
    assert "Model of step 3: 'm' is in a step before" in found["step_model_2"]
    kept(refused, sent)
    short = olga.post(PATH, do="cascade-save", step_model_0="m", step_model_1="", check_json="1", reason="r")
    assert list(at_fault(short, "cascade-")) == ["step_model_1"], "where the next one is to be named"


def test_a_new_alias_tells_it_of_its_name_targets_and_objectives_at_once(olga: Visitor) -> None:
    sent = {"name": "auto", "tenant": "acme", "model_0": "m", "weight_0": "x", "slo_ttft_ms": "0", "reason": "r"}
    refused = olga.post("/aliases/-/-/new", **sent)
    found = at_fault(refused, "new-")
    assert list(found) == ["name", "weight_0", "slo_ttft_ms"] and "reserved" in found["name"]
    kept(refused, {name: value for name, value in sent.items() if name != "tenant"})
    there = olga.post("/aliases/-/-/new", name="helper", tenant="acme", model_0="m", reason="r")
    assert there.status_code == 409
    found = at_fault(there, "new-")
    assert list(found) == ["name"] and "already" in found["name"]


def test_what_is_of_no_field_is_told_above_as_before(running: Running, olga: Visitor) -> None:
    late = olga.post(PATH, do="save", model_0="m", max_tokens="7", revision="999", reason="r")
    assert late.status_code == 409 and "aria-invalid" not in late.text and 'role="alert"' in late.text
    running.owner.do(
        "POST", "/tenants/acme/aliases", {**HELPER, "name": "shadowed", "shadow": {"model": "m", "share_milli": 9}}
    )
    cascade = {"step_model_0": "m", "step_model_1": "large", "check_json": "1", "reason": "r"}
    refused = olga.post("/aliases/acme/shadowed", do="cascade-save", **cascade)
    assert "not both" in refused.text and "aria-invalid" not in refused.text
