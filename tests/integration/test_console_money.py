"""The console's pages of budgets over a real database: who may, who changed it meanwhile, what is foretold."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import pytest
import typer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from interlock.cli import usage as usage_command
from interlock.control.app import make_app
from interlock.control.console import usage_page
from interlock.ledger.sums import Key, Sums
from interlock.storage import usage as stored_usage
from interlock.testing.clock import FakeClock

from .control_client import Running, control_over

TENANT = """
tenants:
  - name: acme
    teams: [{name: research}]
    principals: [{name: olga, kind: user}, {name: vera, kind: user}]
    roles: [{principal: olga, role: admin}, {principal: vera, role: viewer}]
    budgets: [{name: trains, team: research, calls: 100, window: total}]
  - name: globex
    principals: [{name: gina, kind: user}]
    roles: [{principal: gina, role: owner}]
    budgets: [{name: theirs, calls: 5}]
"""
PASSWORD = "correct horse battery"
ONE = "/console/budgets/budget?tenant=acme&name=trains"


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        yield running


@pytest.fixture
def whole(running: Running) -> Running:
    """The configuration as it is declared, and passwords."""
    running.owner.apply(TENANT)
    for who in ("acme/principals/olga", "acme/principals/vera", "globex/principals/gina"):
        running.owner.do("POST", f"/tenants/{who}/password", {"password": PASSWORD})
    return running


def browser(whole: Running, name: str) -> TestClient:
    """Somebody's own browser, signed in."""
    made = TestClient(make_app(whole.control.api), base_url="https://testserver", follow_redirects=False)
    made.headers["origin"] = "https://testserver"
    assert made.post("/console/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
    found = re.search('data-csrf="([^"]+)"', made.get("/console/health").text)
    assert found is not None
    made.headers["x-interlock-csrf"] = found[1]
    return made


def form(**more: str) -> dict[str, str]:
    plain = {"tenant": "acme", "name": "trains", "kind": "team", "on": "research", "amount": "200", "unit": "calls",
             "window": "total", "hardness": "hard", "alerts": "80, 100", "reason": "more trains"}  # fmt: skip
    return {**plain, **more}


def revision(client: TestClient) -> str:
    found = re.search('name="revision" value="([0-9]+)"', client.get(ONE).text)
    assert found is not None
    return found[1]


def test_a_change_over_somebody_elses_is_refused_and_keeps_what_was_typed(whole: Running) -> None:
    olga = browser(whole, "acme/olga")
    seen = revision(olga)
    assert olga.post("/console/budgets/budget", data=form(revision=seen)).status_code == 303
    late = olga.post("/console/budgets/budget", data=form(revision=seen, amount="777"))
    assert late.status_code == 409 and 'value="777"' in late.text and "changed meanwhile" in late.text
    again = olga.post("/console/budgets/budget", data=form(revision=seen, amount="777"))
    assert again.status_code == 409, "what is shown after a refusal does not overwrite it either"
    assert whole.owner.get("/tenants/acme/budgets/trains")["calls"] == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"amount": "-1"}, "whole number"),
        ({"amount": "1e3", "unit": "usd"}, "a number such as"),
        ({"alerts": "80; 100"}, "commas"),
        ({"alerts": "0"}, "from 1 to 1000"),
        ({"kind": "everything"}, "what the budget is on"),
        ({"on": ""}, "name a team"),
        ({"window": "fortnight"}, "window"),
        ({"reason": " "}, "reason"),
        ({"unit": "EUR"}, "unit"),
        ({"kind": "tenant", "on": ""}, "platform"),
    ],
)
def test_a_form_that_is_wrong_is_shown_again(whole: Running, fields: dict[str, str], words: str) -> None:
    answer = browser(whole, "acme/olga").post("/console/budgets/new", data=form(name="new", **fields))
    assert 400 <= answer.status_code < 500
    found = re.search('role="alert">([^<]+)<', answer.text)
    assert found is not None and words in found[1]
    assert 'name="name" type="text" value="new"' in answer.text
    assert whole.owner.call("GET", "/tenants/acme/budgets/new", reason="")[0] == 404


def test_kilowatt_hours_are_exact(whole: Running) -> None:
    olga = browser(whole, "acme/olga")
    data = form(name="green", unit="kwh", amount="0.000000025")
    assert olga.post("/console/budgets/new", data=data).status_code == 303
    assert whole.owner.get("/tenants/acme/budgets/green")["joules"] == "0.09"
    assert olga.post("/console/budgets/delete", data=form(name="green")).status_code == 303


def test_a_viewer_changes_nothing_and_nobody_sees_another_tenants(whole: Running) -> None:
    vera, gina = browser(whole, "acme/vera"), browser(whole, "globex/gina")
    assert vera.get(ONE).status_code == 200 and "Change it" not in vera.get(ONE).text
    assert vera.get("/console/budgets/new?tenant=acme").status_code == 403
    for path in ("budget", "delete", "new"):
        name = "other" if path == "new" else "trains"
        assert vera.post(f"/console/budgets/{path}", data=form(name=name)).status_code == 403
        assert gina.post(f"/console/budgets/{path}", data=form(name=name)).status_code == 404
    assert gina.get(ONE).status_code == 404
    assert "theirs" in gina.get("/console/budgets").text and "trains" not in gina.get("/console/budgets").text
    assert whole.owner.get("/tenants/acme/budgets/trains")["calls"] == 100


def test_the_outlook_counts_from_when_the_budget_was_set(whole: Running) -> None:
    api = whole.control.api
    with api.store.platform() as conn:
        row = conn.execute(
            "SELECT id, tenant_id, extract(epoch FROM created_at) FROM interlock.budgets WHERE name = 'trains'"
        ).fetchone()
    assert row is not None
    budget, tenant, created_s = row
    with whole.control.store.sequencing() as conn:
        conn.execute(
            "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s, settled) VALUES (%s, %s, 0, 20)"
            " ON CONFLICT (budget_id, start_s) DO UPDATE SET settled = 20",
            (tenant, budget),
        )
    later = dataclasses.replace(api.tools, clock=FakeClock(int(created_s) * 10**9 + 10 * 86_400 * 10**9))
    object.__setattr__(api, "tools", later)
    try:
        (use,) = whole.owner.get("/tenants/acme/budget-use")
    finally:
        object.__setattr__(api, "tools", whole.control.tools)
    assert use["outlook"]["per_day"] == 2 and use["outlook"]["at_end"] is None
    assert use["outlook"]["runs_out"] > use["outlook"]["since"]


def test_usage_is_up_to_the_tenants_own_today(whole: Running) -> None:
    olga = browser(whole, "acme/olga")
    try:
        for zone in ("Pacific/Kiritimati", "Pacific/Niue"):  # 25 hours apart: at least one has another day than UTC
            _zone(whole, zone)
            days = [datetime.datetime.now(ZoneInfo(zone)).date()]
            page = olga.get("/console/usage?tenant=acme").text
            days.append(datetime.datetime.now(ZoneInfo(zone)).date())
            assert any(f'name="to" value="{day}"' in page for day in days), zone
    finally:
        _zone(whole, "UTC")


def _zone(whole: Running, zone: str) -> None:
    with whole.control.store.platform() as conn:
        conn.execute("UPDATE interlock.tenants SET time_zone = %s WHERE name = 'acme'", (zone,))


def test_usage_says_which_days_it_is_beside(whole: Running) -> None:
    olga = browser(whole, "acme/olga")
    answer = olga.get("/console/usage?tenant=acme&from=2026-03-10&to=2026-03-12")
    assert answer.status_code == 200 and "Beside 2026-03-07 to 2026-03-09" in answer.text
    assert olga.get("/console/usage?tenant=acme&figure=fame").status_code == 400
    assert olga.get("/console/usage?tenant=acme&from=1990-01-01").status_code == 400
    assert browser(whole, "acme/vera").get("/console/usage?tenant=acme").status_code == 404


def test_a_long_table_shows_what_took_most_and_its_file_has_all(
    whole: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_page, "LINES_MAX", 2)
    tenant = whole.owner.get("/tenants/acme")["id"]
    day = datetime.date(2025, 5, 5)
    spent = {"cheap": (1, 9), "dear": (3_000_000_000, 1), "dearer": (5_000_000_000, 2)}
    with whole.control.store.sequencing() as conn:
        stored_usage.add(
            conn,
            tenant,
            {
                Key(day, "", "", name, "m", "", ""): Sums(calls=calls, nusd=nusd)
                for name, (nusd, calls) in spent.items()
            },
        )
    olga = browser(whole, "acme/olga")
    path = "/console/usage?tenant=acme&from=2025-05-01&to=2025-05-09&by_source=1"
    for figure, shown in (("", {"dear", "dearer"}), ("calls", {"cheap", "dearer"})):
        text = olga.get(f"{path}&figure={figure}").text
        table = text[text.index('aria-label="Report"><table') :]
        assert {name for name in spent if f'data-label="Source">{name}</td>' in table} == shown
        assert "1 lines more" in table and "$8.00" in text, "the total is of all"
    rows = list(csv.DictReader(io.StringIO(olga.get(f"{path}&form=csv").text)))
    assert {row["source"]: int(row["calls"]) for row in rows} == {name: calls for name, (_, calls) in spent.items()}
    monkeypatch.setattr(usage_page, "LINES_MAX", 3)
    assert "lines more" not in olga.get(path).text


def test_the_pivot_is_of_aliases_and_of_objectives(whole: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = whole.owner.get("/tenants/acme")["id"]
    day, earlier = datetime.date(2025, 7, 5), datetime.date(2025, 7, 2)
    sums = {
        Key(day, "", "", "s", "m", "", "", "fast"): Sums(calls=50, nusd=7_000_000_000, slo_calls=40, slo_met=39),
        Key(day, "", "", "s", "small", "", "", "fast"): Sums(calls=3, slo_calls=2),
        Key(day, "", "", "s", "m", "", "", ""): Sums(calls=4, nusd=9_000_000_000),
        Key(earlier, "", "", "s", "m", "", "", "fast"): Sums(calls=8, slo_calls=8, slo_met=6),
    }
    with whole.control.store.sequencing() as conn:
        stored_usage.add(conn, tenant, sums)
    olga = browser(whole, "acme/olga")
    page = "/console/usage?tenant=acme&from=2025-07-04&to=2025-07-06&rows=alias&by_alias=1"
    text = olga.get(page).text
    assert [lines(text, n) for n in range(1, 6)] == [
        ["no alias", "$9.00", "–", "–", "$9.00", "–"], ["m", "$9.00", "–", "–", "$9.00", "–"],
        ["fast", "$7.00", "–", "–", "$7.00", "–"], ["m", "$7.00", "–", "–", "$7.00", "–"],
        ["small", "–", "–", "–", "–", "–"],
    ]  # fmt: skip
    assert "Cost by alias, model and day" in text
    shares = olga.get(page + "&figure=objectives").text
    assert "Objectives met by alias, model and day" in shares
    assert [lines(shares, n) for n in range(1, 5)] == [
        ["fast", "92.8 %", "75 %", "–", "92.8 %", "–"], ["m", "97.5 %", "75 %", "–", "97.5 %", "–"],
        ["small", "0 %", "–", "–", "0 %", "–"], ["All", "92.8 %", "75 %", "–", "92.8 %", "–"],
    ]  # fmt: skip
    assert 'title="39 of 40 calls"' in shares and "75\u00a0% of 8 before" in shares
    monkeypatch.setattr(usage_page, "LINES_MAX", 1)
    for figure, name in (("cost", "–"), ("objectives", "fast")):
        shown = olga.get(f"{page}&figure={figure}").text
        table = shown[shown.index('aria-label="Report"><table') :]
        line = f'<tr><td class="of" data-label="Alias">{name}</td>'
        assert line in table and "1 lines more" in table, "of the most calls with objectives"
    none = olga.get("/console/usage?tenant=acme&from=2024-07-04&to=2024-07-06&figure=objectives").text
    assert "had objectives" in none[none.index('id="pivot"') :]


def lines(page: str, number: int) -> list[str]:
    """The cells of a line of the pivot."""
    pivot = page[page.index('aria-label="Pivot"') :]
    line = pivot[: pivot.index("</table>")].split("<tr")[number + 1]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)
    return [re.sub("<[^>]+>", "", cell).replace("\u00a0", " ").strip() for cell in cells]


def test_the_files_of_page_and_command_are_the_same(whole: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = whole.owner.get("/tenants/acme")["id"]
    day = datetime.date(2025, 6, 5)
    sums = {
        Key(day, "", "", "own", "m", "", ""): Sums(calls=3, nusd=7, steps=2, slo_calls=2, slo_met=1),
        Key(day, "", "", "=else", "m", "", ""): Sums(calls=1, uj=5, low_uj=1, high_uj=9, unplaced_uj=5),
        Key(day, "", "", "", "m", "", ""): Sums(refusals=1),
    }
    with whole.control.store.sequencing() as conn:
        stored_usage.add(conn, tenant, sums)

    class Client:
        def call(self, _method: str, path: str, query: dict[str, str]) -> Any:
            return whole.owner.get(f"{path}?{urlencode(query)}")

    monkeypatch.setattr(usage_command, "client_of", lambda *_: Client())
    app = typer.Typer()
    app.command()(usage_command.usage)
    arguments = ["-t", "acme", "--from", "2025-06-01", "--to", "2025-06-10", "--by", "model,source", "--csv"]
    told = CliRunner().invoke(app, arguments)
    path = "/console/usage?tenant=acme&from=2025-06-01&to=2025-06-09&by_source=1&by_model=1&form=csv"
    assert told.exit_code == 0 and browser(whole, "acme/olga").get(path).content == told.stdout_bytes
    rows = {row["source"]: row for row in csv.DictReader(io.StringIO(told.stdout))}
    assert set(rows) == {"own", "'=else", ""}
    assert (rows["own"]["steps"], rows["own"]["slo_met"], rows["own"]["usd"]) == ("2", "1", "0.000000007")
