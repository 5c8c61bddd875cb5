"""An operator's day with the installed command: every command as a process, against the running demo."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from interlock.ledger.folder import segment_path
from interlock.ledger.format import encode, frame
from interlock.ledger.reader import find_call
from interlock.types.record import parse_request_id
from tests.figures import note

from .documents import MODEL, written
from .stack import Stack, command, until
from .streams import Held, Reader

WITHIN_S = 120.0
"""How soon a revocation must hold on every worker, on a machine that has other things to do as well. (That it is told
at once, and found by no look that comes by itself, is shown where such looks are a minute apart.)"""


@pytest.fixture(scope="module")
def initech(demo: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tenant of its own for these tests, applied from a file; removed again."""
    document = {
        "tenants": [
            {
                "name": "initech",
                "teams": [{"name": "ops"}],
                "principals": [{"name": "peter", "teams": ["ops"]}, {"name": "lumbergh", "teams": ["ops"]}],
                "policies": [
                    {"id": "ops", "template": "team-may-use-models", "parameters": {"team": "ops", "models": [MODEL]}}
                ],
            }
        ]
    }
    yield written(tmp_path_factory.mktemp("initech"), document)
    assert demo.admin("DELETE", "/tenants/initech").status == 200


@pytest.fixture
def ready(demo: Stack, initech: str) -> str:
    """The tenant, applied."""
    demo.ok("apply", "-f", initech)
    return "initech"


def new_key(demo: Stack, name: str, principal: str = "peter") -> str:
    made = demo.ok("key", "create", name, "-t", "initech", "-p", principal, "-m", "for a test")
    key: str = made["key"]
    demo.answers(200, key, MODEL, "the new key to work", max_tokens=1)
    return key


# -- configuration


def test_plan_apply_and_apply_again(demo: Stack, initech: str) -> None:
    planned = demo.run("plan", "-f", initech)
    assert (planned.code, planned.err) == (0, "")
    assert "+ principal peter in initech" in planned.out
    assert demo.admin("GET", "/tenants/initech").status == 404, "a plan changes nothing"
    made = demo.ok("apply", "-f", initech, "-m", "a new customer")
    assert len(made["plan"]["changes"]) == 5
    assert demo.ok("apply", "-f", initech)["plan"]["changes"] == []
    assert demo.ok("plan", "-f", initech)["changes"] == []
    changes = demo.admin("GET", "/tenants/initech/changes").json()["items"]
    assert {c["reason"] for c in changes} == {"a new customer"}
    exported = demo.run("export", "-t", "initech")
    assert demo.ok("plan", "-f", "-", stdin=exported.out)["changes"] == []


def test_a_faulty_document_names_its_lines_and_nothing_is_applied(demo: Stack, tmp_path: Path) -> None:
    text = (
        "tenants:\n"
        "- name: hooli\n"
        "  principals:\n"
        "  - {name: gavin, teams: [nowhere]}\n"
        "  policies:\n"
        "  - {id: broken, cedar: 'permit(principal, action, resource) when { resource.colour == 1 };'}\n"
    )
    file = written(tmp_path, text)
    ran = demo.run("apply", "-f", file)
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert any(line.startswith(f"interlock: {file}:4:") and "nowhere" in line for line in lines), ran.err
    assert any(line.startswith(f"interlock: {file}:6:") and "colour" in line for line in lines), ran.err
    assert demo.admin("GET", "/tenants/hooli").status == 404
    details = json.loads(demo.run("apply", "-f", file, "--json").out)["error"]["details"]
    assert len(details) == len(lines)
    ran = demo.run("apply", "-f", written(tmp_path, "tenants: [{name: hooli}\n  x: 1"))
    assert ran.code == 1
    assert f"{file}:2: not valid YAML" in ran.err
    assert ran.err.count("\n") == 1


# -- keys


def test_a_revoked_key_is_refused_on_every_worker_at_once(demo: Stack, ready: str) -> None:
    held = Held(demo, new_key(demo, "lost"))
    try:
        assert len(held.by_worker) == 2
        demo.ok("key", "revoke", "lost", "-t", ready, "-m", "lost in a train")
        began = time.monotonic()
        left = dict(held.by_worker)
        while left:
            left = {w: c for w, c in left.items() if held.ask(c)[0] != 401}
            assert time.monotonic() - began < WITHIN_S, f"still accepted by {list(left)}"
        note(f"revocation held on both workers {1000 * (time.monotonic() - began):.0f} ms after the command had ended")
    finally:
        held.close()


def test_a_running_stream_outlives_a_revocation_unless_it_is_cut(demo: Stack, ready: str) -> None:
    gentle, hard = new_key(demo, "gentle"), new_key(demo, "hard")
    first = Reader(demo, gentle, 40, f"spare::{MODEL}")
    demo.ok("key", "revoke", "gentle", "-t", ready)
    second = Reader(demo, hard, 1500, f"spare::{MODEL}")  # as late as can be: it must not end before it is cut
    demo.ok("key", "revoke", "hard", "-t", ready, "--cut")
    cut_at = time.monotonic()
    for reader in (first, second):
        reader.join(300)
        assert not reader.is_alive()
    assert first.data.rstrip().endswith(b"data: [DONE]")
    assert b"revoked_api_key" in second.data
    assert b"[DONE]" not in second.data
    assert second.ended_at - cut_at < WITHIN_S
    answer = demo.chat(gentle, MODEL)
    assert (answer.status, answer.error["code"]) == (401, "revoked_api_key")
    states = {r["request_id"]: r["state"] for r in demo.ok_lines("ledger", "tail") if r["kind"] == "Outcome"}
    assert (states[first.request_id], states[second.request_id]) == ("completed", "cut")


def works(demo: Stack, key: str) -> bool:
    return demo.chat(key, MODEL, max_tokens=1).status == 200


def test_a_rotated_key_overlaps(demo: Stack, ready: str) -> None:
    new = new_key(demo, "yearly")
    for overlap_s in ("2", "8", "32", "128"):  # a busy machine may need longer than that to look at both
        old, new = new, demo.ok("key", "rotate", "yearly", "-t", ready, "--overlap-s", overlap_s)["key"]
        until(partial(works, demo, new), 180, "the new key to work")
        if (overlaps := demo.chat(old, MODEL, max_tokens=1).status) == 200:
            break
    assert overlaps == 200
    until(lambda: demo.chat(old, MODEL, max_tokens=1).status == 401, 180, "the old key to end")
    rows = [row for row in demo.ok("key", "list", "-t", ready) if row["name"] == "yearly"]
    assert {row["state"] for row in rows} == {"active", "expired"}
    assert old not in json.dumps(rows)


# -- policies and records


def test_a_companys_expectations(demo: Stack, tmp_path: Path) -> None:
    cases = {
        "cases": [
            {"tenant": "acme", "as": "rosa", "model": MODEL, "source": "spare", "expect": "permit"},
            {
                "tenant": "globex",
                "as": "gina",
                "model": MODEL,
                "source": "spare",
                "expect": "deny",
                "because": "stay-in-europe",
            },
        ]
    }
    file = written(tmp_path, cases)
    assert demo.run("policy", "test", file).code == 0
    cases["cases"][0]["expect"] = "deny"
    ran = demo.run("policy", "test", written(tmp_path, cases))
    assert ran.code == 3
    assert "FAIL conf.yaml:2" in ran.out
    assert demo.ok_or(3, "policy", "test", file)["failed"] == 1
    ran = demo.run("policy", "explain", "gina", MODEL, "-t", "globex", "--source", "spare")
    assert (ran.code, "stay-in-europe" in ran.out) == (3, True)
    assert demo.run("policy", "explain", "rosa", MODEL, "-t", "acme").code == 0


def test_a_call_is_explained_and_on_record(demo: Stack, rosa: str) -> None:
    request_id = demo.chat(rosa, MODEL, "What is a secret sentence?").headers["x-interlock-request-id"]
    told = demo.run("route", "explain", request_id)
    assert told.code == 0
    assert "local::smollm2" in told.out
    assert "spare::smollm2" in told.out
    assert "Permitted:" in told.out
    assert "  local: 0 waiting" in told.out, "sources by name, not by id"
    assert demo.ok("route", "explain", request_id)["state"] == "completed"
    mine = [r for r in demo.ok_lines("ledger", "tail", "--since", "1h") if r.get("request_id") == request_id]
    assert [r["kind"] for r in mine] == ["Intent", "Attempt", "Outcome"]
    assert "secret sentence" not in json.dumps(mine)
    assert "secret sentence" in demo.run("ledger", "tail", "--since", "1h", "--content").out


def test_a_call_is_decided_again_from_its_record(demo: Stack, rosa: str, tmp_path: Path) -> None:
    request_id = demo.chat(rosa, "auto", max_tokens=1).headers["x-interlock-request-id"]
    told = demo.ok("route", "replay", request_id)
    assert (told["same"], told["decided"], told["differences"]) == (True, ["resolve", "policy", "route"], [])
    path = "/tenants/acme/policies"
    made = demo.admin("POST", path, {"id": "closed", "cedar": "forbid(principal, action, resource);"})
    assert made.status == 201, made
    try:
        demo.answers(404, rosa, what="the policy to reach the gateway", max_tokens=1)
        denied = demo.chat(rosa, MODEL, max_tokens=1).headers["x-interlock-request-id"]
        assert demo.ok("route", "replay", denied)["decided"] == ["resolve", "policy"]
        ran = demo.run("route", "replay", request_id)
        assert (ran.code, "decided the same on snapshot" in ran.out) == (0, True), "the older one still agrees"
    finally:
        demo.admin("DELETE", f"{path}/closed")
    demo.answers(200, rosa, what="the policy to go", max_tokens=1)
    forged = tmp_path / "home"
    shutil.copytree(demo.home / "node" / "log", forged / "node" / "log")
    forge(forged / "node" / "log", request_id)
    given = ("route", "replay", request_id, "--home", str(forged), "--url", demo.control)
    ran = demo.run(*given, environment={"INTERLOCK_ADMIN_KEY": demo.admin_key})
    assert (ran.code, "differently" in ran.out) == (3, True), ran
    assert "the order was" in ran.out


def forge(log: Path, request_id: str) -> None:
    """Turn a call's candidates around in its record, with a checksum that is right again."""
    epoch, call = parse_request_id(request_id)
    found = find_call(log, request_id)
    assert found is not None and found.intent is not None and found.intent.call == call
    route = found.intent.route
    assert len(route.candidates) > 1
    turned = msgspec.structs.replace(route, candidates=route.candidates[::-1])
    stored = found.stored[0]
    before = frame(stored.seq, encode(found.intent))
    after = frame(stored.seq, encode(msgspec.structs.replace(found.intent, route=turned)))
    segment = segment_path(log, epoch, stored.segment)
    data = segment.read_bytes()
    assert data[stored.offset : stored.offset + len(before)] == before and len(after) == len(before)
    segment.write_bytes(data[: stored.offset] + after + data[stored.offset + len(before) :])


# -- sources


def source_of(demo: Stack, key: str) -> str:
    """Where a call goes now."""
    return demo.chat(key, MODEL, max_tokens=1).headers["x-interlock-source"]


def test_drain_and_undrain(demo: Stack, rosa: str) -> None:
    running = Reader(demo, rosa, 30, f"local::{MODEL}")
    assert demo.ok("source", "drain", "local")["item"]["drained"] is True
    try:
        demo.everywhere(lambda: source_of(demo, rosa) == "spare", "the drain")
        gina = demo.chat(demo.key("globex", "gina-desk"), MODEL, max_tokens=1)
        assert gina.status == 503, "globex must stay in its region, also when its only source there is drained"
        running.join(300)
        assert running.data.rstrip().endswith(b"data: [DONE]"), "running calls finish"
    finally:
        demo.ok("source", "undrain", "local")
    demo.everywhere(lambda: source_of(demo, rosa) == "local", "the undrain")


def test_sources_are_listed_shown_and_refreshed(demo: Stack) -> None:
    assert {row["name"] for row in demo.ok("source", "list")} == {"local", "spare"}
    shown = demo.ok("source", "show", "spare")
    assert [offer["name"] for offer in shown["offers"]] == [MODEL]
    assert demo.run("source", "refresh", "spare").code == 0
    dead = {"name": "dead", "kind": "openai", "url": "http://127.0.0.1:9", "granted_to": ["initech"]}
    assert demo.admin("POST", "/sources", dead).status == 201
    try:
        ran = demo.run("source", "refresh", "dead")
        assert ran.code == 1
        assert "refused" in ran.out
    finally:
        assert demo.admin("DELETE", "/sources/dead").status == 200


# -- the admin API's door


def test_who_may_administer(demo: Stack, rosa: str, ready: str) -> None:
    path = "/tenants/initech/teams"
    assert demo.admin("GET", path, key="nonsense").status == 401
    assert demo.anonymous(path).status == 401
    infer_only = demo.admin("GET", path, key=rosa)
    assert (infer_only.status, infer_only.error["code"]) == (403, "admin_denied")
    body = {"name": "peter-admin", "principal": "peter", "scopes": ["admin"]}
    key = demo.admin("POST", "/tenants/initech/keys", body).json()["key"]
    assert demo.admin("GET", path, key=key).status == 403, "a scope without a role"
    assert demo.admin("POST", "/tenants/initech/roles", {"principal": "peter", "role": "developer"}).status == 201
    assert demo.admin("GET", path, key=key).status == 200
    refused = demo.admin("POST", path, {"name": "interns"}, key=key)
    assert (refused.status, refused.error["code"]) == (403, "admin_denied")
    assert "admin" in refused.error["message"]
    assert demo.admin("POST", path, {"name": "interns"}, reason="").status == 400, "a change needs a reason"
    ran = demo.run("source", "list", environment={"INTERLOCK_ADMIN_KEY": key})
    assert ran.code == 1
    assert ran.err.count("\n") == 1


EVERY: list[tuple[str, ...]] = [
    ("version",),
    ("export",),
    ("key", "list", "-t", "acme"),
    ("source", "list"),
    ("source", "show", "local"),
    ("policy", "explain", "rosa", "-t", "acme"),
]


@pytest.mark.parametrize("arguments", EVERY, ids=" ".join)
def test_commands_speak_json(demo: Stack, arguments: tuple[str, ...]) -> None:
    if arguments == ("version",):
        assert command("version", "--json").json()["version"]
        return
    assert demo.ok(*arguments)


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("key", "create", "x", "-t", "nobody", "-p", "x"), 1, "there is no tenant 'nobody'"),
    (("key", "rotate", "none", "-t", "acme"), 1, "there is no key 'none'"),
    (("key", "revoke", "none", "-t", "acme"), 1, "there is no key 'none'"),
    (("source", "drain", "none"), 1, "there is no source 'none'"),
    (("route", "explain", "req_0000000000000000_1"), 1, "has no call"),
    (("route", "explain", "../../secrets/pepper"), 1, "is not a request id"),
    (("route", "replay", "req_0000000000000000_1"), 1, "has no call"),
    (("apply", "-f", "/nowhere.yaml"), 1, "cannot be read"),
    (("policy", "test", "/nowhere.yaml"), 1, "cannot be read"),
    (("ledger", "tail", "--since", "yesterday"), 1, "a number and s, m, h or d"),
    (("key", "list"), 2, "Missing option"),
    (("source", "paint"), 2, "No such command"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), WRONG, ids=lambda x: " ".join(x) if isinstance(x, tuple) else ""
)
def test_failures_are_one_line_and_a_code(demo: Stack, arguments: tuple[str, ...], code: int, words: str) -> None:
    ran = demo.run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
