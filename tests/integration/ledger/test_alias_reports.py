"""Shadows in the ledger: their entries, what they add up to, the report on them, and who uses an alias."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from interlock.cli import aliases as cli
from interlock.control.learning.samples import Samples
from interlock.control.services.alias_use import places, sample, share, spread
from interlock.ledger.sums import decode_leaf, key_of
from interlock.ledger.vault import KeyWrapper
from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage.ledger_keys import LedgerKeys
from interlock.types.record import Comparison, Record, StepEnd
from interlock.types.request import Target, TargetStep
from interlock.types.usage import Cost, Energy, Usage
from tests.integration.control_client import Running
from tests.integration.ledger.test_usage import Books, running
from tests.integration.live_scene import add
from tests.unit.control.live.leaves import leaf
from tests.unit.ledger.support import attempt, intent, outcome

__all__ = ["running"]

SAME = Comparison(True, 1000, 8, 7, True, True, True, True, False, False)
OTHER = Comparison(False, 500, 7, 9, False, False, False, True, False, True)


def call(
    books: Books, number: int, *, shadow_of: str = "", compared: Comparison | None = None, alias: str = "a"
) -> list[Record]:
    """Records of a call through an alias, at its target or at its shadow."""
    model, arm = ("new", "shadow") if shadow_of else ("old", "")
    begun = msgspec.structs.replace(
        intent(number),
        tenant_id=books.tenant,
        team_id=books.teams["research"],
        wall_ns=time.time_ns(),
        target=Target("alias", model=model, alias=alias, canary=arm),
        shadow_of=shadow_of,
    )
    tried = msgspec.structs.replace(attempt(number), model=model)
    return [begun, tried, msgspec.structs.replace(outcome(number), model=model, compared=compared)]


def test_what_a_shadow_said_is_in_the_report_and_on_nobodys_account(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, owner = Books(running), running.owner
    firsts = [f"req_0000000000000001_{n:x}" for n in (1, 3, 5)]
    books.log(
        [
            *call(books, 1),
            *call(books, 2, shadow_of=firsts[0], compared=SAME),
            *call(books, 3),
            *call(books, 4, shadow_of=firsts[1], compared=OTHER),
            *call(books, 5),
            *call(books, 6, shadow_of=firsts[2]),
        ]
    )
    with running.control.store.tenant(books.tenant) as conn:
        entries = ledger_read.search(conn, books.tenant, ledger_read.Filter(kind="call"))
    leaves = [json.loads(entry.leaf) for entry in entries]
    assert sorted(leaf["shadow_of"] for leaf in leaves if "shadow_of" in leaf) == sorted(firsts)
    assert sorted((leaf["what"].get("arm", ""), "compared" in leaf) for leaf in leaves) == [
        *[("", False)] * 3, ("shadow", False), ("shadow", True), ("shadow", True),
    ]  # fmt: skip
    report = owner.get("/tenants/acme/alias-use/compare?alias=a")
    targets, shadow = report["arms"]
    assert (targets["arm"], targets["model"], targets["calls"]) == ("", "old", 3)
    assert (shadow["arm"], shadow["model"], shadow["calls"], shadow["failed"]["count"]) == ("shadow", "new", 3, 0)
    (agreement,) = report["agreement"]
    assert agreement["compared"] == 2 and agreement["equal"]["count"] == 1 and agreement["refused"]["count"] == 1
    assert (agreement["json"]["of"], agreement["json_equal"]["count"]) == (1, 1)
    assert agreement["similarity_mean_milli"] == 750 and report["complete"] is True
    (user,) = owner.get("/tenants/acme/alias-use/users?alias=a")
    assert (user["team"], user["calls"]) == ("research", 3), "shadows are nobody's calls"
    assert owner.get("/tenants/acme/alias-use/users?alias=b") == []
    assert owner.get("/tenants/globex/alias-use/users?alias=a") == []
    rows = books.report("team,class")["rows"]
    assert {(row["by"]["team"], row["by"]["class"], row["calls"]) for row in rows} == {
        ("research", "", 3), ("", "shadow:a", 3)
    }  # fmt: skip
    status, told = owner.call("GET", "/tenants/acme/alias-use/compare?alias=a&days=0")
    assert status == 400 and "days" in told["error"]["message"]
    assert owner.call("GET", "/tenants/acme/alias-use/users")[0] == 400
    monkeypatch.setattr("interlock.cli.alias_reports.client_of", lambda *_: _Client(report))
    out = CliRunner().invoke(cli.app, ["compare", "a", "--tenant", "acme"])
    assert out.exit_code == 0 and "new as shadow, 2 answers compared" in out.stdout
    assert "same JSON" in out.stdout and "targets" in out.stdout


def test_an_alias_is_no_other_that_is_written_like_it(running: Running) -> None:
    books, owner = Books(running), running.owner
    names = ("b", "b/c", "bb", "B", "é")
    books.log([record for n, name in enumerate(names, 1) for record in call(books, n, alias=name)])
    for name in names:
        (arm,) = owner.get(f"/tenants/acme/alias-use/compare?alias={quote(name)}")["arms"]
        assert arm["calls"] == 1, name
        assert [user["calls"] for user in owner.get(f"/tenants/acme/alias-use/users?alias={quote(name)}")] == [1]
    assert owner.get("/tenants/acme/alias-use/compare?alias=" + quote('b","'))["arms"] == []


class _Client:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def call(self, *_: Any, **__: Any) -> Any:
        return self._answer


def test_intervals_and_percentiles() -> None:
    assert share(0, 0).high_milli == 1000
    assert (share(5, 100).low_milli, share(5, 100).milli, share(5, 100).high_milli) == (21, 50, 112)
    assert (share(0, 10).low_milli, share(10, 10).high_milli) == (0, 1000)
    times = spread([1000 * n for n in range(1, 101)])
    assert (times.p50_ms, times.p95_ms, times.p99_ms) == (50.0, 95.0, 99.0)
    assert spread([]).p95_ms is None and spread([7000]).p50_ms == 7.0


def test_a_shadows_leaf_adds_to_no_team_and_no_principal() -> None:
    leaf = decode_leaf(
        b'{"tree":"t","at":0,"kind":"call","who":{"team":"x","principal":"p"},"what":{"alias":"a","class":"mine"},'
        b'"where":{"name":"s","model":"m"},"shadow_of":"req_1_1"}'
    )
    key = key_of(leaf, ZoneInfo("UTC"))
    assert (key.team_id, key.principal_id, key.request_class) == ("", "", "shadow:a")


@pytest.mark.parametrize(("field", "label"), [("judge_of", "judge:m"), ("challenger_of", "challenger:m")])
def test_nor_does_that_of_a_judge_or_a_challenger(field: str, label: str) -> None:
    leaf = decode_leaf(
        b'{"tree":"t","at":0,"kind":"call","who":{"team":"x","principal":"p"},"what":{"class":"mine"},'
        b'"where":{"name":"s","model":"m"},"%b":"req_1_1"}' % field.encode()
    )
    key = key_of(leaf, ZoneInfo("UTC"))
    assert (key.team_id, key.principal_id, key.request_class) == ("", "", label)


def canonical(number: int, at_s: float, alias: str, **changed: Any) -> bytes:
    """A leaf as the ledger writes it."""
    made = json.loads(leaf(number, at_s, request=f"{alias}_{number}", what__alias=alias, **changed))
    return json.dumps(made, sort_keys=True, separators=(",", ":")).encode()


def test_a_long_time_is_sampled_evenly_and_a_short_one_is_read(running: Running) -> None:
    books = Books(running)
    tenant, now = books.tenant, time.time()
    fails = {"result__state": "failed"}
    made = [
        canonical(n, now - 4000 + n, "often" if n % 2 else "other", **(fails if n % 10 == 1 else {}))
        for n in range(2000)
    ]
    add(running.control.store, tenant, *made, canonical(9000, now - 90, "rare"))
    settings = dataclasses.replace(
        running.control.settings, alias_compare_entries_max=1000, alias_compare_calls_max=100
    )

    def compared(alias: str, since_s: float) -> Any:
        with running.control.store.tenant(tenant) as conn:
            return sample(conn, tenant, alias, int((now - since_s) * 1e9), int(now * 1e9), settings)

    long = compared("often", 5000)
    (arm,) = long.arms
    assert not long.complete and long.sampled < long.entries and long.entries >= 2001
    assert 90 <= arm.calls <= 100 and arm.failed.low_milli <= 200 <= arm.failed.high_milli
    few = compared("rare", 5000)
    assert few.sampled == 1000 and not few.complete
    short = compared("often", 2989.5)
    assert short.entries == short.sampled == 0 and short.complete, "few enough: all of it is read"
    assert short.arms[0].calls == sum(1 for n in range(1011, 2000) if n % 2)
    none = compared("often", 10)
    assert none.arms == [] and none.sampled == 0


@given(st.integers(0, 10**9), st.integers(1, 10**7), st.integers(1, 500))
def test_places_of_a_sample_are_even(first: int, count: int, some: int) -> None:
    some = min(some, count)
    found = places(first, count, some)
    assert len(set(found)) == some and found == sorted(found)
    for n, place in enumerate(found):
        assert n * count // some <= place - first < (n + 1) * count // some, "one of each part"


@pytest.mark.parametrize("period", [2, 3, 7, 10, 24, 100])
def test_a_sample_does_not_keep_step_with_what_it_counts(period: int) -> None:
    found = places(0, 100_000, 1000)
    counts = [sum(place % period == beat for place in found) for beat in range(min(period, 10))]
    assert all(0.5 * 1000 / period <= count <= 1.6 * 1000 / period + 3 for count in counts), counts


def test_a_cascade_adds_up_to_all_its_steps(running: Running) -> None:
    """Its entry has the sums, on the model whose answer was given; each step is there with its own."""
    books = Books(running)
    begun = msgspec.structs.replace(
        intent(1),
        tenant_id=books.tenant,
        team_id=books.teams["research"],
        wall_ns=time.time_ns(),
        target=Target("alias", alias="c", steps=(TargetStep("small"), TargetStep("large"))),
    )
    tries = [msgspec.structs.replace(attempt(1, n), model=name) for n, name in enumerate(("small", "large"))]
    small = StepEnd(1, 0, 0, 5, "small", False, ("json:failed",), ("stop",), Usage(9, 0, 2), Cost(30, "list"), Energy())
    large = StepEnd(1, 1, 1, 6, "large", True, ("json:passed",), ("stop",), Usage(9, 0, 3), Cost(500, "list"), Energy())
    total = {"usage": Usage(18, 0, 5), "cost": Cost(530, "list"), "attempt": 1, "model": "large", "stop": "passed"}
    books.log([begun, tries[0], small, tries[1], large, msgspec.structs.replace(outcome(1), **total)])
    keys = LedgerKeys(KeyWrapper(bytes(32), secrets.token_bytes), secrets.token_bytes, 8)
    with running.control.store.tenant(books.tenant) as conn:
        (entry,) = ledger_read.search(conn, books.tenant, ledger_read.Filter(kind="call"))
        made = json.loads(entry.leaf)
        told, outcomes = Samples(books.tenant, keys, Settings()).of_call(conn, made)
    assert made["cost"]["nusd"] == 530 and made["where"]["model"] == "large" and made["tokens"]["prompt"] == 18
    assert [(s["model"], s["cost"]["nusd"], s["given"]) for s in made["cascade"]["tried"]] == [
        ("small", 30, False), ("large", 500, True),
    ]  # fmt: skip
    assert told is not None and (told.arm, told.cost_nusd, told.completion_tokens) == ("large", 500, 3)
    assert [(o.arm, o.reward, o.origin) for o in outcomes] == [
        ("small", 0.0, "validation"),
        ("large", 1.0, "validation"),
    ]
    (user,) = running.owner.get("/tenants/acme/alias-use/users?alias=c")
    assert user["calls"] == 1
