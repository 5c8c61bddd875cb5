"""What entries add up to, and the reports of it: exact, by day of the tenant, and a tenant's own only."""

from __future__ import annotations

import asyncio
import csv
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import psycopg
import pytest
import typer
from typer.testing import CliRunner

from interlock.cli import usage as cli
from interlock.ledger.charges import cost_of, energy_of, usage_of
from interlock.ledger.sums import Key, Sums, decode_leaf, key_of, lines_of, measured
from interlock.settings import Settings
from interlock.storage import migrate as migration
from interlock.storage import usage
from interlock.storage.pool import Store
from interlock.types.record import EnergyMeasured, Intent, Outcome, Record, StepEnd
from interlock.types.request import Target, TargetStep
from interlock.types.slo import Slo
from interlock.types.usage import Cost, Energy, Usage
from tests.integration.control_client import Admin, Running
from tests.integration.ledger.harness import shipper_for
from tests.integration.ledger.test_ledger_api import control_over_migrated
from tests.integration.ledger.test_sequencing import entries
from tests.integration.older_schema import left_at
from tests.unit.ledger.support import attempt, intent, open_log, outcome, refusal

BERLIN = ZoneInfo("Europe/Berlin")
DAY = datetime.now(UTC).date() + timedelta(days=3)
MIDNIGHT = int(datetime.combine(DAY, time(), BERLIN).timestamp())
"""In Berlin this day begins. (No entry is of before its epoch, so these are days to come.)"""


@pytest.fixture
def running(postgres_migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with control_over_migrated(postgres_migrated_url) as it:
        secrets = Path(it.control.settings.home) / "secrets"
        monkeypatch.setattr(
            "tests.integration.ledger.harness.MASTER", bytes.fromhex((secrets / "ledger_key").read_text().strip())
        )
        yield it


class Books:
    """A tenant of two teams, and a log of calls that it made."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.owner = owner = running.owner
        owner.do("POST", "/tenants", {"name": "acme", "time_zone": "Europe/Berlin"})
        owner.do("POST", "/tenants", {"name": "globex"})
        self.tenant = owner.get("/tenants/acme")["id"]
        self.teams = {}
        for name, center in (("research", "4711"), ("sales", "=4712"), ("lab", "4711")):
            made = owner.do("POST", "/tenants/acme/teams", {"name": name, "cost_center": center})
            self.teams[name] = made["item"]["id"]
        self.home = Path(running.control.settings.home)

    def log(self, records: list[Record], *, ship: bool = True) -> None:
        """One epoch of these records, shipped and sequenced."""

        async def main() -> None:
            log = open_log(self.home / "log")
            for record in records:
                log.append(record)
            await log.close()

        asyncio.run(main())
        if ship:
            shipper_for(self.running.control.store, self.home).pass_once()
            for _ in range(3):
                self.running.control.sequencer.pass_once()

    def call(
        self,
        number: int,
        team: str,
        at_s: int,
        *,
        nusd: int,
        uj: int = 0,
        factor: int = 0,
        origin: str = "engine",
        state: str = "completed",
        slo: Slo | None = None,
        alias: str = "",
    ) -> list[Record]:
        """Records of one call, which took 200 microseconds."""
        begun, ended = self._ends(number, team, at_s)
        begun = msgspec.structs.replace(begun, target=msgspec.structs.replace(begun.target, alias=alias))
        if slo is not None and begun.features is not None:
            begun = msgspec.structs.replace(begun, features=msgspec.structs.replace(begun.features, slo=slo))
        ended = msgspec.structs.replace(
            ended,
            state=state,
            usage=Usage(10, 4, 5, origin),
            cost=Cost(nusd, "source", "v1"),
            energy=Energy(uj, uj // 2, uj * 2, "estimate", factor),
        )
        return [begun, attempt(number), ended]

    def _ends(self, number: int, team: str, at_s: int) -> tuple[Intent, Outcome]:
        begun = msgspec.structs.replace(
            intent(number), tenant_id=self.tenant, team_id=self.teams[team], wall_ns=at_s * 10**9, request_class="chat"
        )
        return begun, outcome(number)

    def cascade(
        self, number: int, at_s: int, *steps: tuple[str, int, int], rest: int = 0, alias: str = ""
    ) -> list[Record]:
        """Records of one call through a cascade, in the team research. `steps`: model, nano-USD and microjoules of
        each; the last of them is given, unless the call was left within one more, of the model last, that costs
        `rest`."""
        begun, ended = self._ends(number, "research", at_s)
        target = msgspec.structs.replace(begun.target, alias=alias, steps=tuple(TargetStep(s[0]) for s in steps))
        records: list[Record] = [msgspec.structs.replace(begun, target=target)]
        parts = []
        for at, (name, nusd, uj) in enumerate(steps):
            records.append(msgspec.structs.replace(attempt(number, at), source=f"s-{name}", model=name))
            cost, energy = Cost(nusd, "source", "v1"), Energy(uj, uj // 2, uj * 2, "estimate", 10**9)
            parts.append((Usage(10, 4, 5, "engine"), cost, energy))
            records.append(StepEnd(number, at, at, at, name, False, ("json:failed",), ("stop",), *parts[-1]))
        if rest:
            records.append(msgspec.structs.replace(attempt(number, len(steps)), source="s-last", model="last"))
            parts.append((Usage(7, 0, 3, "reserved"), Cost(rest, "source", "v1"), Energy(0, 0, 0, "", 0)))
        usages, costs, energies = zip(*parts, strict=True)
        ended = msgspec.structs.replace(
            ended, attempt=len(parts) - 1, usage=usage_of(usages), cost=cost_of(costs), energy=energy_of(energies),
            state="disconnected" if rest else "completed",
        )  # fmt: skip
        return [*records, ended]

    def report(self, by: str = "", first: str = "2026-01-01", after: str = "2100-01-01") -> Any:
        return self.owner.get(f"/tenants/acme/usage?by={by}&from={first}&to={after}")


def test_reports_add_up_by_whatever_they_are_by(running: Running) -> None:
    books = Books(running)
    books.log(
        [
            *books.call(1, "research", MIDNIGHT - 1, nusd=1_000_000_001, uj=3_600_000_000, factor=400_000_000),
            *books.call(2, "research", MIDNIGHT, nusd=2, origin="reserved", state="failed"),
            *books.call(3, "sales", MIDNIGHT + 5, nusd=40),
            *books.call(4, "lab", MIDNIGHT + 5, nusd=500, uj=100),
            msgspec.structs.replace(refusal(5), tenant_id=books.tenant, wall_ns=MIDNIGHT * 10**9),
        ]
    )
    total = books.report()["total"]
    assert (total["calls"], total["refusals"], total["failures"]) == (4, 1, 1)
    assert (total["nusd"], total["usd"], total["reserved_nusd"]) == (1_000_000_543, "1.000000543", 2)
    assert (total["prompt_tokens"], total["cached_tokens"], total["completion_tokens"]) == (40, 16, 20)
    assert (total["uj"], total["low_uj"], total["high_uj"]) == (3_600_000_100, 1_800_000_050, 7_200_000_200)
    assert total["sci"] == {
        "o_ug": 400_000, "m_ug": None, "r": 4, "o_ug_per_call": 100_000, "uj_without_factor": 100
    }  # fmt: skip
    by = {row["by"]["day"]: row["nusd"] for row in books.report("day")["rows"]}
    assert by == {str(DAY - timedelta(days=1)): 1_000_000_001, str(DAY): 542}, "days are the tenant's"
    by = {row["by"]["cost_center"]: row["nusd"] for row in books.report("cost_center")["rows"]}
    assert by == {"4711": 1_000_000_503, "=4712": 40, "": 0}
    rows = books.report("team,model,class")["rows"]
    assert {(*row["by"].values(), row["nusd"]) for row in rows} == {
        ("research", "m", "chat", 1_000_000_003), ("sales", "m", "chat", 40), ("lab", "m", "chat", 500),
        ("team_1", "", "", 0),
    }  # fmt: skip
    months = {row["by"]["month"] for row in books.report("month")["rows"]}
    assert months == {f"{DAY:%Y-%m}", f"{DAY - timedelta(days=1):%Y-%m}"}
    assert books.report("day", str(DAY), str(DAY + timedelta(days=1)))["total"]["nusd"] == 542
    everyone = books.owner.get("/usage?by=team&from=2026-01-01&to=2100-01-01")
    assert everyone["by"] == ["tenant", "team"] and everyone["total"]["nusd"] == total["nusd"]


def test_a_measurement_takes_the_place_of_the_estimate_whenever_it_comes(running: Running) -> None:
    books = Books(running)
    for number, apart in ((1, False), (2, True)):
        calls = books.call(1, "lab", MIDNIGHT, nusd=1, uj=5_000, factor=3_600_000_000)
        energy: list[Record] = [EnergyMeasured(1, MIDNIGHT * 10**9 + 5, 7_001, "nvml")]
        if apart:  # the sequencer sees them in two transactions
            running.control.sequencer._settings = msgspec_settings(running, 1)
        books.log([*calls, *energy])
        total = books.report()["total"]
        assert (total["uj"], total["low_uj"], total["high_uj"], total["measured_uj"]) == (7_001 * number,) * 4
        assert (total["calls"], total["sci"]["o_ug"]) == (number, 7 * number)


def msgspec_settings(running: Running, batch: int) -> Any:
    import dataclasses

    return dataclasses.replace(running.control.settings, ledger_batch_entries=batch)


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_the_entries(running: Running, seed: int) -> None:
    """Whatever the batches, kept sums equal what every entry of the tree adds up to, to the nano-dollar."""
    draw = random.Random(seed)
    books = Books(running)
    number = 0
    for _ in range(4):
        running.control.sequencer._settings = msgspec_settings(running, draw.choice((1, 3, 100)))
        records: list[Record] = []
        for number in range(1, draw.randrange(2, 12)):
            nusd, uj = draw.randrange(10**12), draw.randrange(10**6)
            records += books.call(number, draw.choice(list(books.teams)), MIDNIGHT + draw.randrange(-90_000, 90_000),
                                  nusd=nusd, uj=uj, factor=draw.choice((0, 10**9)),
                                  origin=draw.choice(("engine", "reserved")), alias=draw.choice(("", "fast", "m")),
                                  slo=draw.choice((None, Slo(latency_ms=1), Slo(cost_nusd=1))))  # fmt: skip
            if draw.random() < 0.4:
                records.append(EnergyMeasured(number, MIDNIGHT * 10**9, draw.randrange(10**6), "nvml"))
        for more in range(1, draw.randrange(1, 5)):
            models = draw.sample(("small", "large", "largest"), draw.randrange(1, 4))
            steps = [(model, draw.randrange(10**12), draw.randrange(10**6)) for model in models]
            records += books.cascade(number + more, MIDNIGHT, *steps, rest=draw.choice((0, draw.randrange(1, 10**6))),
                                     alias=draw.choice(("fast", "cheap")))  # fmt: skip
        books.log(records)
    store: Store = running.control.store
    leaves = [decode_leaf(leaf) for _, _, leaf in entries(store, books.tenant)]
    calls = {leaf.request: leaf for leaf in leaves if leaf.kind == "call"}
    wanted: dict[Any, Sums] = {}
    for leaf in leaves:
        if leaf.kind == "change":
            continue
        call = calls[leaf.request]
        lines = [(key_of(call, BERLIN), measured(call, leaf))] if leaf.kind == "energy" else lines_of(leaf, BERLIN)
        for key, more in lines:
            wanted[key] = wanted.get(key, Sums()).plus(more)
    with store.tenant(books.tenant) as conn:
        rows = conn.execute(
            "SELECT day, team_id, principal_id, source, model, request_class, workload, alias, calls, refusals,"
            " failures, prompt_tokens, cached_tokens, completion_tokens, nusd, reserved_nusd, uj, low_uj, high_uj,"
            " measured_uj, co2e_ug, unplaced_uj, steps, slo_calls, slo_met FROM interlock.ledger_usage"
        ).fetchall()
    assert {tuple(row[:8]): Sums(*row[8:]) for row in rows} == {tuple(key): each for key, each in wanted.items()}
    assert books.report()["total"]["nusd"] == sum(leaf.cost.nusd for leaf in leaves)
    assert sum(row["nusd"] for row in books.report("source,model")["rows"]) == sum(leaf.cost.nusd for leaf in leaves)
    assert books.report()["total"]["calls"] == len(calls)


def test_what_went_through_an_alias_is_its_own(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(running)
    refused = msgspec.structs.replace(refusal(5), tenant_id=books.tenant, wall_ns=MIDNIGHT * 10**9)
    shadow = books.call(7, "lab", MIDNIGHT, nusd=300, alias="fast")
    assert isinstance(shadow[0], Intent)
    shadow[0] = msgspec.structs.replace(shadow[0], shadow_of="req_0000000000000001_1")
    books.log(
        [
            *books.call(1, "research", MIDNIGHT, nusd=10, uj=5_000, alias="fast", slo=Slo(latency_ms=1)),
            EnergyMeasured(1, MIDNIGHT * 10**9 + 5, 7_001, "nvml"),
            *books.call(3, "sales", MIDNIGHT, nusd=40),
            *books.call(4, "sales", MIDNIGHT, nusd=80, alias="m", state="failed"),
            msgspec.structs.replace(refused, target=Target("alias", model="m", alias="fast")),
            *books.cascade(6, MIDNIGHT, ("small", 100, 3), ("large", 200, 4), alias="steps"),
            *shadow,
            *books.call(8, "sales", MIDNIGHT + 86_400, nusd=20, alias="fast"),
        ]
    )
    figures = ("calls", "refusals", "failures", "steps", "nusd", "uj", "measured_uj", "slo_met")
    report = books.report("alias")
    assert {row["by"]["alias"]: tuple(row[name] for name in figures) for row in report["rows"]} == {
        "fast": (3, 1, 0, 0, 330, 7_001, 7_001, 1),
        "": (1, 0, 0, 0, 40, 0, 0, 0),
        "m": (1, 0, 1, 0, 80, 0, 0, 0),
        "steps": (1, 0, 0, 2, 300, 7, 0, 0),
    }
    assert sum(row["nusd"] for row in report["rows"]) == report["total"]["nusd"] == books.report()["total"]["nusd"]
    rows = books.report("alias,team,model,class,day")["rows"]
    found = {tuple(row["by"].values()): row["nusd"] for row in rows if row["nusd"]}
    day, next_day = str(DAY), str(DAY + timedelta(days=1))
    assert found == {
        ("fast", "research", "m", "chat", day): 10, ("fast", "sales", "m", "chat", next_day): 20,
        ("fast", "", "m", "shadow:fast", day): 300, ("", "sales", "m", "chat", day): 40,
        ("m", "sales", "m", "chat", day): 80, ("steps", "research", "small", "chat", day): 100,
        ("steps", "research", "large", "chat", day): 200,
    }  # fmt: skip
    read = list(csv.DictReader(io.StringIO("\n".join(printed(books, monkeypatch, "alias", "--csv")))))
    assert [(row["alias"], row["nusd"]) for row in read] == [("", "40"), ("fast", "330"), ("m", "80"), ("steps", "300")]
    lines = printed(books, monkeypatch, "alias,team")
    assert [line.split()[:2] for line in lines[1:3]] == [["-", "sales"], ["fast", "-"]], "what has no name is no gap"


def test_sums_from_before_there_were_aliases_have_none(postgres_empty_url: str) -> None:
    settings = Settings(database_connect_timeout_ms=2000)
    left_at(postgres_empty_url, "0033", settings)
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute(
            "INSERT INTO interlock.ledger_usage (tenant_id, day, team_id, principal_id, source, model, request_class,"
            " workload, calls, nusd) VALUES (%s, %s, '', '', 's', 'm', '', '', 2, 30)",
            ("ten_00000000000000000001", DAY),
        )
    assert migration.migrate(postgres_empty_url, settings)
    with Store(postgres_empty_url, settings) as store:
        with store.sequencing() as conn:
            for alias in ("", "fast", "fast"):
                more = {Key(DAY, "", "", "s", "m", "", "", alias): Sums(calls=1, nusd=5)}
                usage.add(conn, "ten_00000000000000000001", more)
        with store.platform() as conn:
            found = usage.report(conn, ["alias"], DAY, DAY + timedelta(days=1), 10)
    assert [(by, sums.calls, sums.nusd) for by, sums in found] == [(("",), 3, 35), (("fast",), 2, 10)]


def test_what_a_step_took_is_its_models_and_the_call_counts_once(running: Running) -> None:
    books = Books(running)
    books.log(
        [
            *books.cascade(1, MIDNIGHT, ("small", 3, 3_600_000), ("large", 1_000_000_001, 7_200_000)),
            *books.cascade(2, MIDNIGHT, ("small", 4, 0), rest=500),
            *books.call(3, "research", MIDNIGHT, nusd=10),
        ]
    )
    rows = {row["by"]["model"]: row for row in books.report("model", str(DAY))["rows"]}
    figures = ("calls", "steps", "failures", "nusd", "reserved_nusd", "uj", "prompt_tokens", "completion_tokens")
    assert {model: tuple(row[name] for name in figures) for model, row in rows.items()} == {
        "small": (0, 2, 0, 7, 0, 3_600_000, 20, 10),
        "large": (1, 1, 0, 1_000_000_001, 0, 7_200_000, 10, 5),
        "last": (1, 0, 1, 500, 500, 0, 7, 3),
        "m": (1, 0, 0, 10, 0, 0, 10, 5),
    }
    sources = {row["by"]["source"]: row["usd"] for row in books.report("source", str(DAY))["rows"]}
    assert (sources["s-small"], sources["s-large"], sources["s-last"]) == (
        "0.000000007", "1.000000001", "0.000000500",
    )  # fmt: skip
    total = books.report()["total"]
    assert (total["calls"], total["steps"], total["nusd"]) == (3, 3, 1_000_000_518)
    assert (rows["small"]["sci"]["o_ug"], rows["large"]["sci"]["o_ug"]) == (1_000, 2_000)


def test_objectives_are_counted_by_who_asked_and_where(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(running)
    in_time, cheap = Slo(latency_ms=1), Slo(latency_ms=1, cost_nusd=5)
    books.log(
        [
            *books.call(1, "research", MIDNIGHT, nusd=9, slo=in_time),
            *books.call(2, "research", MIDNIGHT, nusd=9, slo=cheap),
            *books.call(3, "research", MIDNIGHT, nusd=9, slo=in_time, state="failed"),
            *books.call(4, "research", MIDNIGHT, nusd=9),
            *books.call(5, "sales", MIDNIGHT + 86_400, nusd=4, slo=cheap),
            *books.call(6, "lab", MIDNIGHT, nusd=9),
        ]
    )
    found = {
        row["by"]["team"]: (row["calls"], row["slo_calls"], row["slo_met"]) for row in books.report("team")["rows"]
    }
    assert found == {"research": (4, 3, 1), "sales": (1, 1, 1), "lab": (1, 0, 0)}
    days = {row["by"]["day"]: (row["slo_calls"], row["slo_met"]) for row in books.report("day")["rows"]}
    assert days == {str(DAY): (3, 1), str(DAY + timedelta(days=1)): (1, 1)}
    lines = printed(books, monkeypatch, "team")
    assert "objectives met" in lines[0] and lines[0].endswith("  of")
    assert [line.split()[-2:] for line in lines[1:]] == [["-", "0"], ["33.3%", "3"], ["100.0%", "1"], ["50.0%", "4"]]
    read = csv.DictReader(io.StringIO("\n".join(printed(books, monkeypatch, "team", "--csv"))))
    assert {row["team"]: (row["slo_calls"], row["slo_met"]) for row in read}["research"] == ("3", "1")


def test_who_may_see_what_was_spent_and_strange_questions(running: Running) -> None:
    books = Books(running)
    books.log(books.call(1, "lab", MIDNIGHT, nusd=1))
    people = (("acme", "otto", "auditor"), ("acme", "dora", "developer"), ("globex", "gina", "auditor"))
    for tenant, name, role in people:
        books.owner.do("POST", f"/tenants/{tenant}/principals", {"name": name})
        books.owner.do("POST", f"/tenants/{tenant}/roles", {"principal": name, "role": role})
    clients = {}
    for tenant, name, _ in people:
        body = {"name": f"{name}-key", "principal": name, "scopes": ["admin"]}
        made = books.owner.do("POST", f"/tenants/{tenant}/keys", body)
        clients[name] = Admin(running.http, made["key"])
    days = "from=2026-01-01&to=2100-01-01"
    assert clients["otto"].get(f"/tenants/acme/usage?{days}")["total"]["nusd"] == 1
    assert clients["gina"].get(f"/tenants/globex/usage?{days}")["total"]["nusd"] == 0
    assert clients["dora"].call("GET", f"/tenants/acme/usage?{days}")[0] == 403
    assert clients["gina"].call("GET", f"/tenants/acme/usage?{days}")[0] == 404
    assert clients["otto"].call("GET", f"/usage?{days}")[0] == 403
    for query in ("", "from=2026-01-01", "from=2026-13-01&to=2027-01-01", "from=2027-01-01&to=2026-01-01",
                  f"{days}&by=colour", f"{days}&by=team,team", f"{days}&by=%00"):  # fmt: skip
        status, error = books.owner.call("GET", f"/tenants/acme/usage?{query}")
        assert (status, error["error"]["code"]) == (400, "invalid_request"), query


def test_csv_is_whole_and_harmless(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(running)
    books.log([*books.call(1, "sales", MIDNIGHT, nusd=7), *books.call(2, "lab", MIDNIGHT, nusd=8)])

    rows = list(csv.DictReader(io.StringIO("\n".join(printed(books, monkeypatch, "cost_center", "--csv")))))
    assert [(row["cost_center"], row["nusd"], row["usd"]) for row in rows] == [
        ("4711", "8", "0.000000008"), ("'=4712", "7", "0.000000007")
    ]  # fmt: skip
    shown = "\n".join(printed(books, monkeypatch, "cost_center"))
    assert "=4712" in shown and "0.000000015" in shown and "total" in shown
    assert "steps" not in shown and "objectives" not in shown, "nobody asks what they are where there are none"
    books.log(books.cascade(1, MIDNIGHT, ("small", 1, 0), ("large", 2, 0)))
    read = csv.DictReader(io.StringIO("\n".join(printed(books, monkeypatch, "model", "--csv"))))
    steps = {row["model"]: (row["calls"], row["steps"], row["nusd"]) for row in read if row["nusd"] != "0"}
    assert steps == {"m": ("2", "0", "15"), "small": ("0", "1", "1"), "large": ("1", "1", "2")}
    head, *lines = printed(books, monkeypatch, "model")
    assert head.endswith("steps") and lines[-1].endswith(" 2")


def printed(books: Books, monkeypatch: pytest.MonkeyPatch, by: str, *options: str) -> list[str]:
    """The lines of `interlock usage`."""

    class Client:
        def call(self, _method: str, path: str, query: dict[str, str]) -> Any:
            return books.owner.get(path + "?" + "&".join(f"{k}={v}" for k, v in query.items()))

    monkeypatch.setattr(cli, "client_of", lambda *_: Client())
    app = typer.Typer()
    app.command()(cli.usage)
    arguments = ["-t", "acme", "--from", "2026-03-01", "--to", "2100-04-01", "--by", by, *options]
    return CliRunner().invoke(app, arguments).output.splitlines()
