"""What the usage page reads in two queries is what the plain reports say, to the last unit."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
import pytest

from interlock.control.services import usage
from interlock.ledger.sums import Key, Sums
from interlock.storage import usage as stored
from interlock.storage.usage import Figures
from tests.integration.control_client import Running
from tests.integration.ledger.test_ledger_api import control_over_migrated

FIRST, AFTER = datetime.date(2026, 2, 17), datetime.date(2026, 4, 9)
EARLIER = FIRST - (AFTER - FIRST)
VALUES = {
    "cost": lambda row: row.nusd,
    "calls": lambda row: row.calls,
    "tokens": lambda row: row.prompt_tokens + row.completion_tokens,
    "energy": lambda row: row.uj,
    "carbon": lambda row: row.sci.o_ug,
    "slo_calls": lambda row: row.slo_calls,
    "slo_met": lambda row: row.slo_met,
}


class Scene:
    """Two tenants with random sums and feedback, also of teams and people that are gone."""

    def __init__(self, running: Running, seed: int) -> None:
        self.store = running.control.store
        owner, draw = running.owner, random.Random(seed)
        self.tenants = []
        for tenant in ("acme", "globex"):
            owner.do("POST", "/tenants", {"name": tenant})
            teams = ["", "team_gone"]
            for number, center in enumerate(("4711", "4711", "9", "")):
                made = owner.do("POST", f"/tenants/{tenant}/teams", {"name": f"t{number}", "cost_center": center})
                teams.append(made["item"]["id"])
            people = ["prn_gone"]
            for number in range(5):
                made = owner.do("POST", f"/tenants/{tenant}/principals", {"name": f"p{number}"})
                people.append(made["item"]["id"])
            self.tenants.append(owner.get(f"/tenants/{tenant}")["id"])
            self._fill(self.tenants[-1], teams, people, draw)

    def _fill(self, tenant: str, teams: list[str], people: list[str], draw: random.Random) -> None:
        sums = {}
        for _ in range(600):
            day = EARLIER - datetime.timedelta(days=3) + datetime.timedelta(days=draw.randrange(110))
            source, model = f"s{draw.randrange(3)}", f"m{draw.randrange(4)}"
            who, label, alias = draw.choice(people), draw.choice(("", "chat")), draw.choice(("", "fast", "small"))
            key = Key(day, draw.choice(teams), who, source, model, label, "batch", alias)
            sums[key] = Sums(*[draw.randrange(10**12) for _ in Sums._fields])
        with self.store.sequencing() as conn:
            stored.add(conn, tenant, sums)
            for number, key in enumerate(sorted(sums)):
                for kind in draw.sample(("thumb", "score", "corrected"), draw.randrange(3)):
                    conn.execute(
                        "INSERT INTO interlock.call_feedback (tenant_id, request, kind, digest, feedback_ids,"
                        " call_subject, position, entry, at_ns, day, team_id, principal_id, source, model,"
                        " request_class, workload, alias, reward_micro) VALUES"
                        " (%s, %s, %s, '', '{}', 'x', 1, 1, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                        (
                            *(tenant, f"r{number}", kind, *key),
                            None if kind == "corrected" else draw.randrange(10**6),
                        ),
                    )


@pytest.fixture(params=range(2))
def scene(postgres_migrated_url: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with control_over_migrated(postgres_migrated_url) as running:
        yield Scene(running, request.param)


BY = (
    ["team", "model"], ["principal"], ["cost_center"], ["cost_center", "team"], ["day"], ["class", "source"],
    ["alias"], ["alias", "cost_center"], ["team", "principal", "source", "model", "alias", "class", "day"],
)  # fmt: skip


def test_the_largest_lines_are_those_of_the_report_with_its_total(scene: Scene) -> None:
    for tenant in scene.tenants:
        with scene.store.tenant(tenant) as conn:
            for by in BY:
                whole = usage.report(conn, tenant, by, FIRST, AFTER)
                assert whole.rows and whole.total.quality is not None
                assert usage.top(conn, tenant, by, FIRST, AFTER, "cost", 10_000) == (whole, 0)
                for figure, value in VALUES.items():
                    some, more = usage.top(conn, tenant, by, FIRST, AFTER, figure, 3)
                    largest = sorted(whole.rows, key=value, reverse=True)[:3]
                    assert some == msgspec.structs.replace(whole, rows=[r for r in whole.rows if r in largest])
                    assert more == max(0, len(whole.rows) - 3)


def figures(row: Any) -> Figures:
    return Figures(*[VALUES[name](row) for name in Figures._fields])


def plus(a: Figures, b: Figures) -> Figures:
    return Figures(*[x + y for x, y in zip(a, b, strict=True)])


def test_parts_days_and_the_time_before_are_those_of_the_reports(scene: Scene) -> None:
    for tenant, department, unit in product(scene.tenants, ("team", "cost_center", "alias"), ("day", "month")):
        with scene.store.tenant(tenant) as conn:
            got = usage.parts(conn, tenant, department, unit, FIRST, AFTER, EARLIER)
            now = usage.report(conn, tenant, [department, "model", unit], FIRST, AFTER)
            before = usage.report(conn, tenant, [department, "model"], EARLIER, FIRST)
            days = usage.report(conn, tenant, ["day"], FIRST, AFTER)
        wanted = {(*row.by.values(),): figures(row) for row in now.rows}
        wanted |= {(*row.by.values(), ""): figures(row) for row in before.rows}
        length = 10 if unit == "day" else 7
        found: dict[tuple[str, ...], Figures] = {}
        for part in got.parts:
            key = (part.department, part.model, str(part.slot)[:length] if part.slot else "")
            found[key] = plus(found[key], part.figures) if key in found else part.figures
        assert found == wanted
        assert {str(day): each for day, each in got.days.items()} == {r.by["day"]: figures(r) for r in days.rows}
        assert got.before == figures(before.total)


def test_sums_beyond_what_a_bigint_holds_are_exact(scene: Scene) -> None:
    """Every figure of two lines near 2^63 - 1, by each way of reading them."""
    large, day = (1 << 63) - 1, datetime.date(2020, 1, 5)
    first, after = datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)
    tenant = scene.tenants[0]
    with scene.store.sequencing() as conn:
        for model, less in (("large", 0), ("larger", 3)):
            stored.add(conn, tenant, {Key(day, "", "", "s", model, "", ""): Sums(*[large - less] * len(Sums._fields))})
    total = 2 * large - 3
    with scene.store.tenant(tenant) as conn:
        ((_, plain),) = stored.report(conn, ["tenant_id"], first, after, 5)
        largest = stored.top(conn, tenant, ["source"], first, after, "tokens", 5)
        got = stored.parts(conn, tenant, "team_id", "day", first, after, datetime.date(2019, 12, 1))
        report = usage.report(conn, tenant, ["source"], first, after)
    for sums in (plain, largest.total, largest.rows[0][1]):
        assert sums == Sums(*[total] * len(Sums._fields)) and all(type(each) is int for each in sums)
    assert got.days[day] == figures(report.total) and got.days[day].tokens == 2 * total
    assert all(type(each) is int for each in got.days[day])
    assert report.total.usd == "18446744073.709551611"
    assert msgspec.json.decode(msgspec.json.encode(report), type=usage.Report) == report


def test_nothing_adds_up_to_nothing(scene: Scene) -> None:
    first, after = datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)
    tenant = scene.tenants[0]
    with scene.store.tenant(tenant) as conn:
        whole = usage.report(conn, tenant, ["team"], first, after)
        assert usage.top(conn, tenant, ["team"], first, after, "energy", 5) == (whole, 0)
        got = usage.parts(conn, tenant, "cost_center", "day", first, after, datetime.date(2019, 12, 1))
    assert got == ([], {}, Figures())
    other = scene.tenants[1]
    with scene.store.tenant(tenant) as conn:
        assert usage.top(conn, other, ["team"], FIRST, AFTER, "cost", 5)[0].total.calls == 0
        assert usage.parts(conn, other, "team", "day", FIRST, AFTER, EARLIER).days == {}
