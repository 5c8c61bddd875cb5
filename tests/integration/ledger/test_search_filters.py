"""Searching the ledger by what usage is summed by: what a number of a report counts is what the search shows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import psycopg
import pytest

from interlock.ledger.entry import encode_leaf
from interlock.ledger.sums import decode_leaf, label_of
from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage import migrate as migration
from interlock.storage.ledger_read import Filter
from interlock.storage.pool import Store
from interlock.types.record import EnergyMeasured, Intent, Record
from interlock.types.request import Target
from tests.integration.control_client import Admin, Running
from tests.integration.ledger.test_usage import MIDNIGHT, Books, running
from tests.integration.older_schema import left_at
from tests.unit.control.live.leaves import leaf
from tests.unit.ledger.support import refusal

__all__ = ["running"]

TENANT, OTHER = "ten_00000000000000000001", "ten_00000000000000000002"
HOSTILE = (
    *("fast' OR ''='", 'fast","', "%", "f_st", "fast%", "FAST", " fast", "f\u0430st", "\u202efast", "fast\x00"),
    *("a\nb", "x" * 513, "x" * 60_000),
)


def found(owner: Admin, tenant: str = "acme", **asked: str) -> list[dict[str, Any]]:
    items = owner.get(f"/tenants/{tenant}/ledger/entries?{urlencode(asked)}")["items"]
    return [item["leaf"] for item in items]


def labelled(records: list[Record], label: str) -> list[Record]:
    """A call with this request class."""
    begun, *rest = records
    assert isinstance(begun, Intent)
    return [msgspec.structs.replace(begun, request_class=label), *rest]


def calls(books: Books) -> list[Record]:
    """Through two aliases and none, one of them refused; one is a shadow's; one is measured later."""
    refused = msgspec.structs.replace(refusal(5), tenant_id=books.tenant, wall_ns=MIDNIGHT * 10**9)
    shadow = books.call(6, "lab", MIDNIGHT, nusd=1, alias="fast")
    assert isinstance(shadow[0], Intent)
    shadow[0] = msgspec.structs.replace(shadow[0], shadow_of="req_0000000000000001_1")
    return [
        *books.call(1, "research", MIDNIGHT, nusd=1, alias="fast"),
        EnergyMeasured(1, MIDNIGHT * 10**9 + 5, 7_001, "nvml"),
        *labelled(books.call(2, "sales", MIDNIGHT, nusd=1, alias="fast", state="failed"), 'a "quoted" \\ class'),
        *books.call(3, "lab", MIDNIGHT, nusd=1, alias="fast/er"),
        *labelled(books.call(4, "sales", MIDNIGHT, nusd=1), ""),
        msgspec.structs.replace(refused, target=Target("alias", model="m", alias="fast")),
        *shadow,
        *books.call(7, "sales", MIDNIGHT + 86_400, nusd=1, alias="fast"),
    ]


@pytest.mark.parametrize("by", ["alias", "class", "cost_center", "alias,class,model,source", "alias,cost_center,day"])
def test_a_number_of_a_report_is_how_many_calls_the_search_shows(running: Running, by: str) -> None:
    books = Books(running)
    books.log(calls(books))
    rows = books.report(by)["rows"]
    assert sum(row["calls"] for row in rows) == 7 - 1 and sum(row["refusals"] for row in rows) == 1
    told = 0
    for row in rows:
        given = {name: value for name, value in row["by"].items() if value and name != "day"}
        without = [name for name, value in row["by"].items() if not value]
        if "cost_center" in without:
            continue  # of what is on nobody's account no filter says that
        if "day" in row["by"]:
            since_s = MIDNIGHT + 86_400 * (row["by"]["day"] > str(min(each["by"]["day"] for each in rows)))
            given |= {"since_ns": f"{since_s}000000000", "until_ns": f"{since_s + 86_400}000000000"}
        asked = {**given, "without": ",".join(without)}
        got = found(running.owner, kind="call", **asked)
        if (
            "shadow" not in by and "cost_center" in by
        ):  # a shadow has the team that it was beside, on whose account it is not
            got = [each for each in got if "shadow_of" not in each]
        assert len(got) == row["calls"], row["by"]
        assert len(found(running.owner, kind="refusal", **asked)) == (row["refusals"] if "cost_center" not in by else 0)
        told += row["calls"]
    assert told >= 5


def test_an_alias_is_no_other_and_what_is_no_call_has_none(running: Running) -> None:
    books, owner = Books(running), running.owner
    books.log(calls(books))
    assert sorted(each["request"][-2:] for each in found(owner, alias="fast")) == ["_1", "_2", "_5", "_6", "_7"]
    assert [each["request"][-2:] for each in found(owner, alias="fast", kind="refusal")] == ["_5"]
    assert [each["request"][-2:] for each in found(owner, alias="fast", state="not completed")] == ["_2"]
    assert [each["what"]["alias"] for each in found(owner, alias="fast/er")] == ["fast/er"]
    assert [each["request"][-2:] for each in found(owner, without="alias")] == ["_4"], "nor has a measurement"
    assert found(owner, without="alias", alias="fast") == [] and len(found(owner, **{"class": "shadow:fast"})) == 1
    assert [each["request"][-2:] for each in found(owner, **{"class": 'a "quoted" \\ class'})] == ["_2"]
    assert {each["request"][-2:] for each in found(owner, cost_center="4711", kind="call")} == {"_1", "_3", "_6"}
    assert found(owner, cost_center="4711", team="sales") == [] and found(owner, cost_center="4713") == []
    assert found(owner, "globex", alias="fast") == [] and found(owner, "globex", cost_center="4711") == []


def test_hostile_values_find_nothing_or_are_refused_by_name(running: Running) -> None:
    books, owner = Books(running), running.owner
    books.log(calls(books))
    for name in ("alias", "class", "cost_center", "model", "team"):
        for value in HOSTILE:
            asked = urlencode({name: value})
            status, told = owner.call("GET", f"/tenants/acme/ledger/entries?{asked}", reason="")
            if len(value) > 512 or not value.isprintable():
                assert status == 400 and told["error"]["param"] == name, (name, value[:20])
                assert len(told["error"]["message"]) < 200
            else:
                assert (status, told["items"]) == (200, []), (name, value)
    for value in ("aliases", "alias,team", "alias;class", "tenant_id", "alias = '' OR true--", "request_class"):
        status, told = owner.call("GET", f"/tenants/acme/ledger/entries?without={quote(value)}", reason="")
        assert status == 400 and told["error"]["param"] == "without", value


def test_a_look_by_alias_is_on_record_and_takes_an_auditor(running: Running) -> None:
    books, owner = Books(running), running.owner
    books.log(calls(books))
    for name, role in (("otto", "auditor"), ("vera", "viewer")):
        owner.do("POST", "/tenants/acme/principals", {"name": name})
        owner.do("POST", "/tenants/acme/roles", {"principal": name, "role": role})
        body = {"name": f"{name}-key", "principal": name, "scopes": ["admin"]}
        key = Admin(running.http, owner.do("POST", "/tenants/acme/keys", body)["key"])
        path = "/entries?alias=fast&class=chat&without=source"
        assert key.call("GET", f"/tenants/acme/ledger{path}")[0] == (200 if role == "auditor" else 403)
        assert key.call("GET", f"/tenants/globex/ledger{path}")[0] in (403, 404)
    looks = [each for each in owner.get("/tenants/acme/changes?limit=20")["items"] if each["action"] == "ledger.search"]
    assert [each["after"] for each in looks] == [
        {"alias": "fast", "request_class": "chat", "without": ["source"], "found": 0}
    ]


def older(conn: psycopg.Connection[Any], leaves: list[bytes]) -> None:
    """Entries as versions before placed them, for two tenants."""
    for tenant in (TENANT, OTHER):
        for position, data in enumerate(leaves):
            read = decode_leaf(data)
            conn.execute(
                "INSERT INTO interlock.ledger_entries (tenant_id, position, at_ns, kind, request, team_id,"
                " principal_id, subject, source, model, state, leaf, hash)"
                " VALUES (%s, %s, %s, %s, %s, '', '', '', %s, %s, '', %s, %s)",
                (tenant, position, read.at, read.kind, read.request, read.where.name, read.model, data, bytes(32)),
            )


def test_entries_from_before_are_found_by_what_their_leaves_say(postgres_empty_url: str) -> None:
    settings = Settings(database_connect_timeout_ms=2000)
    left_at(postgres_empty_url, "0034", settings)
    odd = [
        '"',
        "\\",
        '\\"',
        '","class":"x',
        '"what":{"alias":"no","class":"no"',
        '"shadow_of":"',
        "\u00e9\u0416",
        "a:b",
    ]
    pairs = [(alias, label) for alias in ("", "fast", "a/b:c+d", "\u00e9") for label in ["", *odd]]
    made = [leaf(n, 60.0 + n, what__alias=alias, what__class=label) for n, (alias, label) in enumerate(pairs)]
    fast = {"what__alias": "fast", "what__class": "c"}
    more: list[dict[str, Any]] = [
        {**fast, "what__arm": "canary"},
        {**fast, "kind": "refusal", "what__class": ""},
        {**fast, "shadow_of": "req_1"},
        {"judge_of": "req_1", "where__model": 'm"x'},
        {"challenger_of": "req_1", "what__class": "c"},
        {"kind": "energy"},
        {"kind": "change", "what": {"object": "alias"}},
    ]
    made += [leaf(500 + n, 2e6 * n, **each) for n, each in enumerate(more)]
    leaves = [encode_leaf(json.loads(each)) for each in made]
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        older(conn, leaves)
    assert migration.migrate(postgres_empty_url, settings)
    with Store(postgres_empty_url, settings) as store, store.tenant(TENANT) as conn:
        rows = conn.execute(
            "SELECT tenant_id, leaf, alias, request_class FROM interlock.ledger_entries ORDER BY position"
        ).fetchall()
        assert [row[1] for row in rows] == leaves and {row[0] for row in rows} == {TENANT}, "as they were, one's own"
        for _, data, alias, label in rows:
            read = decode_leaf(data)
            called = read.kind in ("call", "refusal")
            assert (alias, label) == ((read.what.alias, label_of(read)) if called else (None, None)), data
        assert len(ledger_read.search(conn, TENANT, Filter(alias="fast"))) == len(odd) + 1 + 3
        assert ledger_read.search(conn, OTHER, Filter(alias="fast")) == []
        assert len(ledger_read.search(conn, TENANT, Filter(without=("alias", "class")))) == 1


def test_a_search_stays_in_its_tenant_whoever_connects(running: Running) -> None:
    """Also where the connection may see every tenant, so that nothing but the question keeps them apart."""
    books = Books(running)
    books.log(calls(books))
    globex = running.owner.get("/tenants/globex")["id"]
    with running.control.store.platform() as conn:
        for wanted in (
            Filter(alias="fast"),
            Filter(without=("alias",)),
            Filter(cost_center="4711"),
            Filter(kind="call"),
        ):
            assert ledger_read.search(conn, globex, wanted) == []
            assert ledger_read.search(conn, books.tenant, wanted) != []
