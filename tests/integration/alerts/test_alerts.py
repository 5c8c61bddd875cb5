"""Alerts over a real database: what fires is told, to whom it may be told and to nobody else."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.alerts import figures as figures_module
from interlock.control.alerts.address import seal_all
from interlock.control.alerts.service import DEFAULTS, ensure_defaults
from interlock.storage import alert_events as outbox
from interlock.storage import tenants
from interlock.storage.changes import Author, Change, record
from tests.integration.control_client import Admin, Running, control_over

from .scene import NS, SECRET, Process, Receiver, add_calls, clock_of_now, emptied, tenant_id

TENANTS = """
tenants:
  - name: acme
    teams: [{name: research}]
    principals: [{name: ada, kind: user}, {name: abe, kind: user}, {name: dev, kind: user}]
    keys:
      - {name: ada, principal: ada, scopes: [admin]}
      - {name: abe, principal: abe, scopes: [admin]}
      - {name: dev, principal: dev, scopes: [admin]}
    roles: [{principal: ada, role: admin}, {principal: abe, role: auditor}, {principal: dev, role: developer}]
    budgets: [{name: month, team: research, calls: 100}]
  - name: globex
    principals: [{name: gus, kind: user}]
    keys: [{name: gus, principal: gus, scopes: [admin]}]
    roles: [{principal: gus, role: owner}]
    budgets: [{name: theirs, calls: 10}]
sources:
  - {name: shared, kind: openai, url: "http://127.0.0.1:9", granted_to: ["*"]}
"""
FAILURES = {"kind": "call_failures", "threshold": 500, "window_s": 300, "for_s": 60, "count_min": 4}


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[tuple[Running, dict[str, Admin]]]:
    settings = {"alerts_hosts_private": "127.0.0.1", "alerts_channels_max": 3, "alerts_rules_max": 12}
    with control_over(postgres_url, **settings) as running:
        made = running.owner.apply(TENANTS)["keys"]
        yield running, {name: running.as_(key) for keys in made.values() for name, key in keys.items()}


@pytest.fixture
def running(whole: tuple[Running, dict[str, Admin]]) -> Iterator[Running]:
    with emptied(whole[0]):
        yield whole[0]


@pytest.fixture
def people(whole: tuple[Running, dict[str, Admin]]) -> dict[str, Admin]:
    return whole[1]


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def secret_of(running: Running, tenant: str) -> str:
    """A file with the signing secret, where the tenant's may be."""
    folder = Path(running.control.settings.home, "credentials", tenant_id(running, tenant))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hook").write_text(SECRET + "\n")
    return str(folder / "hook")


def channel(running: Running, who: Admin, hook: Receiver, tenant: str = "acme", name: str = "ops") -> None:
    body = {"kind": "webhook", "url": hook.url, "secret": {"file": secret_of(running, tenant)}}
    who.do("PUT", f"/alerts/channels/{name}?tenant={tenant}", body)


def watched(running: Running, people: dict[str, Admin], hook: Receiver) -> Process:
    """acme's failures are watched, and told to the hook. A process that looks and tells."""
    channel(running, people["ada"], hook)
    people["ada"].do("PUT", "/alerts/rules/fails?tenant=acme", {**FAILURES, "channels": ["ops"]})
    return Process(running, clock_of_now(running))


def fail(running: Running, process: Process, *states: str) -> None:
    add_calls(running.control.store, tenant_id(running, "acme"), process.clock.wall_ns() - NS, list(states))


def verified(got: Any, secret: str) -> None:
    """As a receiver verifies it, by the specification and with nothing of ours."""
    at, body = got.headers["webhook-timestamp"], got.body.decode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{got.headers['webhook-id']}.{at}.{body}".encode(), hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def test_an_alert_fires_after_its_time_is_told_signed_and_ends(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "completed")
    assert process.look() == []
    (rule,) = people["abe"].get("/alerts?tenant=acme")["rules"]
    assert rule["things"][0]["status"] == "pending" and rule["things"][0]["words"] == "3 of 4 calls"
    assert process.look(59) == [] and process.send() == 0
    assert process.look(1) == [("fails", "", "firing")]
    assert process.look(15) == [], "once"
    assert process.send() == 1 and process.send() == 0
    (got,) = hook.got
    verified(got, SECRET)
    assert abs(int(got.headers["webhook-timestamp"]) - process.clock.wall_ns() / NS) < 2
    assert got.type == "alert.firing" and got.data["tenant"] == "acme" and got.data["value"] == 750
    assert got.data["words"] == "3 of 4 calls" and got.data["unit"] == "permille"
    fail(running, process, *["completed"] * 20)
    assert process.look(1) == []
    assert process.look(61) == [("fails", "", "resolved")]
    process.send()
    assert [each.type for each in hook.got] == ["alert.firing", "alert.resolved"]
    view = people["abe"].get("/alerts?tenant=acme")
    assert [each["kind"] for each in view["events"]] == ["resolved", "firing"]
    assert {d["state"] for each in view["events"] for d in each["deliveries"]} == {"delivered"}


def test_a_change_of_leader_neither_repeats_nor_loses(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    first = watched(running, people, hook)
    second = Process(running, first.clock)
    fail(running, first, "failed", "failed", "failed", "failed")
    first.look()
    with running.control.store.platform() as conn:  # the first is in the middle of a look
        assert outbox.lead(conn)
        assert second.look(61) == [] and not second.watch.leading
    assert second.look() == [("fails", "", "firing")] and second.watch.leading, "the first is gone: the other goes on"
    assert first.look(15) == [] and second.look(15) == []
    assert first.send() + second.send() == 1
    assert first.watch.firing == second.watch.firing == {"warning": 1}
    assert Process(running, first.clock).look(15) == [], "nor does one that has just begun"
    assert [each.type for each in hook.got] == ["alert.firing"]


def test_state_and_event_are_written_together_or_not_at_all(
    running: Running, people: dict[str, Admin], hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()

    def breaks(*_: Any) -> None:
        raise RuntimeError("the process is killed here")

    with monkeypatch.context() as patch:
        patch.setattr(process.watch, "_prune", breaks)
        with pytest.raises(RuntimeError):
            process.look(61)
    view = people["abe"].get("/alerts?tenant=acme")
    assert view["events"] == [] and view["rules"][0]["things"][0]["status"] == "pending"
    assert process.look() == [("fails", "", "firing")]
    process.send()
    assert len(hook.got) == 1


def test_a_webhook_that_fails_and_recovers_gets_it_at_last_under_the_same_id(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    process.look(60)
    hook.statuses = [500, 302]
    assert process.send() == 1 and process.send() == 0, "not at once again"
    waiting = people["abe"].get("/alerts?tenant=acme")["events"][0]["deliveries"][0]
    assert (waiting["state"], waiting["attempts"], waiting["error"]) == ("waiting", 1, "the answer has status 500")
    assert process.send(4) == 0 and process.send(2) == 1, "after five seconds"
    assert process.send(6) == 0 and process.send(5) == 1, "after ten"
    assert len(hook.got) == 3 and len({got.headers["webhook-id"] for got in hook.got}) == 1
    assert len({got.headers["webhook-timestamp"] for got in hook.got}) == 3
    for got in hook.got:
        verified(got, SECRET)
    done = people["abe"].get("/alerts?tenant=acme")["events"][0]["deliveries"][0]
    assert (done["state"], done["attempts"], done["error"]) == ("delivered", 3, "")
    assert process.sender.outcomes == {("webhook", "retried"): 2, ("webhook", "delivered"): 1}


def test_a_process_that_dies_while_it_tells_leaves_it_to_another_and_attempts_are_bounded(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    process.look(60)
    with running.control.store.platform() as conn:
        (due,) = outbox.take(conn, process.tools.now(), 60, 10)
    assert process.send() == 0 and process.send(59) == 0, "somebody has it"
    other = Process(running, process.clock, alerts_attempts_max=2)
    hook.statuses = [503]
    assert other.send(2) == 1
    assert hook.got[0].headers["webhook-id"] == due.event.id
    given_up = people["abe"].get("/alerts?tenant=acme")["events"][0]["deliveries"][0]
    assert (given_up["state"], given_up["attempts"]) == ("failed", 2) and "503" in given_up["error"]
    assert other.send(100_000) == 0 and other.sender.outcomes == {("webhook", "failed"): 1}


def test_what_happened_first_is_told_first(running: Running, people: dict[str, Admin], hook: Receiver) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    process.look(60)
    hook.statuses = [500] * 7
    process.send()
    fail(running, process, *["completed"] * 40)
    process.look(1)
    assert process.look(60) == [("fails", "", "resolved")]
    for _ in range(12):
        process.send(700)
    assert [each.type for each in hook.got] == ["alert.firing"] * 8 + ["alert.resolved"]


@pytest.mark.parametrize("kind", ["call_failures", "source_failures", "denials", "budget_used", "source_down"])
def test_a_tenants_rule_sees_that_tenants_figures_only(running: Running, people: dict[str, Admin], kind: str) -> None:
    process = Process(running, clock_of_now(running))
    at_ns = process.clock.wall_ns() - NS
    store, theirs = running.control.store, tenant_id(running, "acme")
    add_calls(store, theirs, at_ns, ["failed"] * 10 + ["refused"] * 10, source="acme-gpu")
    charge(running, "acme", "month", 95)
    windowed = kind not in ("budget_used", "source_down")
    body = {"kind": kind, "threshold": 500, "for_s": 0, **({"count_min": 4} if windowed else {})}
    people["gus"].do("PUT", "/alerts/rules/r?tenant=globex", body)
    assert process.look() == []
    seen = people["gus"].get("/alerts/rules/r?tenant=globex")["things"]
    assert {each["subject"] for each in seen} <= {"", "theirs"}
    assert all(each["value"] == 0 for each in seen)
    people["ada"].do("PUT", "/alerts/rules/r?tenant=acme", body)
    running.owner.do("PUT", "/alerts/rules/r", body)
    if kind != "source_down":
        subject = {"source_failures": "acme-gpu", "budget_used": "month"}.get(kind, "")
        whose = {"budget_used": "acme/month"}.get(kind, subject)
        assert sorted(process.look(1)) == sorted([("r", subject, "firing"), ("r", whose, "firing")])
        words = {e["words"] for e in people["ada"].get("/alerts?tenant=acme")["events"]}
        assert words <= {"10 of 10 calls", "10 calls denied, 0 in the time before", "95 of 100 calls used"}


def test_what_is_read_in_a_tenants_name_is_hidden_by_the_database_too(running: Running) -> None:
    """Row-level security, and not only our words: asked for another tenant in one's own name, there is nothing."""
    acme, globex = tenant_id(running, "acme"), tenant_id(running, "globex")
    add_calls(running.control.store, acme, 5 * NS, ["failed", "refused"])
    read = figures_module.alert_figures
    with running.control.store.tenant(globex) as conn:
        assert read.calls(conn, acme, "", 0) == [] and read.calls(conn, "", "", 0) == []
        assert read.denied(conn, acme, "", 0, NS) == (0, 0)
        assert read.budgets(conn, acme, 100) == []
        assert {each.name for each in read.budgets(conn, "", 100)} == {"theirs"}


def test_figures_are_read_in_the_name_of_the_rules_tenant(
    running: Running, people: dict[str, Admin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the database would hide what a statement forgot to leave out."""
    names: list[tuple[str, str]] = []

    def spied(name: str, answer: Any) -> None:
        def read(conn: Any, *_: Any) -> Any:
            row = conn.execute("SELECT current_user, current_setting('interlock.tenant_id', true)").fetchone()
            names.append((str(row[0]), str(row[1])))
            return answer

        monkeypatch.setattr(figures_module.alert_figures, name, read)

    spied("calls", [])
    spied("denied", figures_module.alert_figures.Denied(0, 0))
    spied("budgets", [])
    for kind in ("call_failures", "denials", "budget_used"):
        people["gus"].do("PUT", f"/alerts/rules/{kind}?tenant=globex", {"kind": kind, "threshold": 5})
    Process(running, clock_of_now(running)).look()
    assert names == [("interlock_app", tenant_id(running, "globex"))] * 3


def test_another_tenant_sees_changes_and_is_told_nothing(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    process = watched(running, people, hook)
    gus, ada = people["gus"], people["ada"]
    for method, path, body in (
        ("GET", "/alerts", None),
        ("GET", "/alerts/rules/fails", None),
        ("PUT", "/alerts/rules/fails", FAILURES),
        ("DELETE", "/alerts/rules/fails", None),
        ("POST", "/alerts/rules/fails/silence", {}),
        ("DELETE", "/alerts/channels/ops", None),
        ("POST", "/alerts/channels/ops/test", {}),
    ):
        assert gus.call(method, f"{path}?tenant=acme", body)[0] in (403, 404), path
        assert gus.call(method, path, body)[0] == 403, f"the platform's {path}"
        if method == "POST" or method == "DELETE":
            assert gus.call(method, f"{path}?tenant=globex", body)[0] == 404
    gus_rule = {**FAILURES, "channels": ["ops"]}
    status, answer = gus.call("PUT", "/alerts/rules/mine?tenant=globex", gus_rule)
    assert status == 400 and "no channel" in answer["error"]["message"], "acme's channel is none of theirs"
    # whatever is in the table: a channel of another tenant is not told
    gus.do("PUT", "/alerts/rules/mine?tenant=globex", {**FAILURES, "for_s": 0})
    with running.control.store.platform() as conn:
        conn.execute("UPDATE interlock.alert_rules SET channels = '{ops}' WHERE name = 'mine'")
    add_calls(running.control.store, tenant_id(running, "globex"), process.clock.wall_ns() - NS, ["failed"] * 9)
    assert process.look() == [("mine", "", "firing")]
    assert process.send() == 0 and hook.got == []
    (event,) = gus.get("/alerts?tenant=globex")["events"]
    assert event["rule"] == "mine" and event["deliveries"] == []
    with running.control.store.platform() as conn:  # nor when a delivery to it is in the outbox, however it got there
        conn.execute(
            "INSERT INTO interlock.alert_deliveries (event_id, channel_id, tenant_id, channel, state, next_at)"
            " SELECT %s, c.id, c.tenant_id, c.name, 'waiting', to_timestamp(0) FROM interlock.alert_channels AS c",
            (event["id"],),
        )
    assert process.send() == 1 and hook.got == []
    assert ada.get("/alerts?tenant=acme")["events"] == []
    for table in ("alert_rules", "alert_channels", "alert_states", "alert_events", "alert_deliveries"):
        with running.control.store.tenant(tenant_id(running, "globex")) as conn:
            rows = conn.execute(f"SELECT count(*) FROM interlock.{table} WHERE tenant_id <> %s",
                                (tenant_id(running, "globex"),)).fetchone()  # fmt: skip
            assert rows == (0,)


def test_who_may_read_and_who_may_change(running: Running, people: dict[str, Admin]) -> None:
    assert people["dev"].call("GET", "/alerts?tenant=acme")[0] == 403
    assert people["abe"].get("/alerts?tenant=acme") == {"tenant": "acme", "rules": [], "channels": [], "events": []}
    assert people["abe"].call("PUT", "/alerts/rules/r?tenant=acme", FAILURES)[0] == 403
    assert people["ada"].call("PUT", "/alerts/rules/r?tenant=acme", FAILURES, reason="")[0] == 400
    people["ada"].do("PUT", "/alerts/rules/r?tenant=acme", FAILURES)
    assert people["ada"].call("PUT", "/alerts/rules/r", FAILURES)[0] == 403, "the platform's are the platform's"
    said = people["abe"].get("/tenants/acme/changes?limit=1")
    assert said["items"][0]["action"] == "alert_rule.create" and said["items"][0]["actor"] == "ada"


def test_what_cannot_be_read_is_unknown_and_told_when_that_was_asked_for(
    running: Running, people: dict[str, Admin], hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = watched(running, people, hook)
    people["ada"].do(
        "PUT", "/alerts/rules/fails?tenant=acme", {**FAILURES, "for_s": 0, "no_data_s": 100, "channels": ["ops"]}
    )
    fail(running, process, *["completed"] * 5)
    assert process.look() == []
    with monkeypatch.context() as patch:

        def away(*_: Any) -> Any:
            raise ValueError("no answer")

        patch.setattr(figures_module.alert_figures, "calls", away)
        assert process.look(15) == []
        thing = people["abe"].get("/alerts/rules/fails?tenant=acme")["things"][0]
        assert thing["status"] == "unknown" and thing["unknown_since"] is not None
        assert process.look(100) == [("fails", "", "no_data")] and process.look(100) == []
    fail(running, process, *["completed"] * 5)
    assert process.look(1) == [("fails", "", "data_back")] and process.look(1) == []
    process.send()
    process.send()
    assert [each.type for each in hook.got] == ["alert.no_data", "alert.data_back"]


def test_a_silence_holds_back_and_its_end_tells(running: Running, people: dict[str, Admin], hook: Receiver) -> None:
    process = watched(running, people, hook)
    now = process.tools.now()
    for until in (now - datetime.timedelta(1), now + datetime.timedelta(31)):
        status, _ = people["ada"].call("POST", "/alerts/rules/fails/silence?tenant=acme", {"until": until.isoformat()})
        assert status == 400
    until = (now + datetime.timedelta(seconds=200)).isoformat()
    silent = people["ada"].do("POST", "/alerts/rules/fails/silence?tenant=acme", {"until": until})
    assert silent["silenced_until"] and silent["silence_reason"] == "test"
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    assert process.look(60) == [("fails", "", "firing")]
    assert process.send() == 0
    assert process.look(150) == [("fails", "", "still_firing")]
    assert process.send() == 1 and hook.got[0].type == "alert.still_firing"
    people["ada"].do("POST", "/alerts/rules/fails/silence?tenant=acme", {"until": until})
    ended = people["ada"].do("POST", "/alerts/rules/fails/silence?tenant=acme", {"until": None})
    assert ended["silenced_until"] is None


def test_a_rule_that_is_removed_or_switched_off_ends_what_it_fired_for(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    process.look(60)
    off = {**FAILURES, "channels": ["ops"], "enabled": False}
    people["ada"].do("PUT", "/alerts/rules/fails?tenant=acme", off)
    assert process.look(15) == [("fails", "", "resolved")]
    people["ada"].do("PUT", "/alerts/rules/fails?tenant=acme", {**off, "enabled": True, "for_s": 0})
    assert process.look(15) == [("fails", "", "firing")]
    assert people["ada"].call("DELETE", "/alerts/channels/ops?tenant=acme")[0] == 409
    people["ada"].do("DELETE", "/alerts/rules/fails?tenant=acme")
    for _ in range(4):
        process.send(1)
    assert [each.type for each in hook.got] == ["alert.firing", "alert.resolved"] * 2
    assert hook.got[-1].data["words"] == "its rule was removed"
    people["ada"].do("DELETE", "/alerts/channels/ops?tenant=acme")


def test_a_test_is_told_at_once_and_its_outcome_is_the_answer(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    channel(running, people["ada"], hook)
    good = people["ada"].do("POST", "/alerts/channels/ops/test?tenant=acme", {})
    assert good["delivery"]["state"] == "delivered" and hook.got[0].type == "alert.test"
    verified(hook.got[0], SECRET)
    hook.statuses = [401]
    bad = people["ada"].do("POST", "/alerts/channels/ops/test?tenant=acme", {})
    assert (bad["delivery"]["state"], bad["delivery"]["error"]) == ("failed", "the answer has status 401")
    assert "alert_channel.test" in [each["action"] for each in people["abe"].get("/tenants/acme/changes")["items"]]


def test_secrets_are_named_and_never_shown(running: Running, people: dict[str, Admin], hook: Receiver) -> None:
    channel(running, people["ada"], hook)
    shown = json.dumps(people["abe"].get("/alerts?tenant=acme")) + json.dumps(
        people["abe"].get("/tenants/acme/changes")
    )
    with running.control.store.platform() as conn:
        shown += str(conn.execute("SELECT * FROM interlock.alert_channels").fetchall())
    assert SECRET not in shown and SECRET.removeprefix("whsec_") not in shown
    path = "/alerts/channels/bad?tenant=acme"
    for secret in ({"env": "HOME"}, {"file": "/etc/hostname"}, {"file": "relative"}, {}, {"env": "A", "file": "/b"}):
        body = {"kind": "webhook", "url": hook.url, "secret": secret}
        assert people["ada"].call("PUT", path, body)[0] == 400, secret
    own = str(Path(running.control.settings.home, "secrets", "admin_key"))
    for secret in ({"file": own}, {"env": "INTERLOCK_DATABASE_URL"}):
        body = {"kind": "webhook", "url": hook.url, "secret": secret}
        assert running.owner.call("PUT", "/alerts/channels/bad", body)[0] == 400
    short = Path(secret_of(running, "acme")).with_name("short")
    short.write_text("too short")
    body = {"kind": "webhook", "url": hook.url, "secret": {"file": str(short)}}
    people["ada"].do("PUT", "/alerts/channels/ops?tenant=acme", body)
    answer = people["ada"].do("POST", "/alerts/channels/ops/test?tenant=acme", {})
    assert answer["delivery"]["state"] == "failed" and "24 bytes" in answer["delivery"]["error"] and hook.got == []


def test_limits_and_what_means_nothing_are_refused(running: Running, people: dict[str, Admin], hook: Receiver) -> None:
    ada, path = people["ada"], "/alerts/rules/r?tenant=acme"
    for body in (
        {**FAILURES, "kind": "ledger_lag", "count_min": 0},
        {**FAILURES, "scope": {"source": "gpu"}},
        {"kind": "budget_used", "threshold": 900, "count_min": 5},
        {**FAILURES, "channels": ["nowhere"]},
        {**FAILURES, "threshold": 0},
        {**FAILURES, "window_s": 5},
        {**FAILURES, "scope": {"everything": "x"}},
    ):
        assert ada.call("PUT", path, body)[0] == 400, body
    for name in ("a%0D%0Ab", "a%20b", "%0A"):
        assert ada.call("PUT", f"/alerts/rules/{name}?tenant=acme", FAILURES)[0] in (400, 404)
        assert ada.call("PUT", f"/alerts/channels/{name}?tenant=acme", {"kind": "email", "addresses": ["a@b.c"]})[
            0
        ] in (400, 404)
    for number in range(12):
        ada.do("PUT", f"/alerts/rules/r{number}?tenant=acme", FAILURES)
    assert ada.call("PUT", path, FAILURES)[0] == 409
    ada.do("PUT", "/alerts/rules/r1?tenant=acme", {**FAILURES, "threshold": 7})
    assert ada.call("PUT", "/alerts/rules/r1?tenant=acme", {"kind": "denials", "threshold": 7})[0] == 409
    for number in range(3):
        channel(running, ada, hook, name=f"c{number}")
    extra = {"kind": "email", "addresses": ["ops@example.com"]}
    assert ada.call("PUT", "/alerts/channels/c3?tenant=acme", extra)[0] == 409


def test_the_first_rules_are_there_once_without_channels(running: Running) -> None:
    control = running.control
    with control.store.platform() as conn:
        conn.execute("SET LOCAL ROLE interlock_migrator")
        conn.execute("DELETE FROM interlock.changes WHERE object_kind = 'alert_rule'")
    assert ensure_defaults(control.store, control.tools) == len(DEFAULTS)
    rules = running.owner.get("/alerts")["rules"]
    assert {each["name"] for each in rules} == set(DEFAULTS) and not any(each["channels"] for each in rules)
    for each in rules:
        running.owner.do("DELETE", f"/alerts/rules/{each['name']}")
    assert ensure_defaults(control.store, control.tools) == 0, "what was removed does not come back"


def test_a_silent_node_and_a_backlog_fire_for_the_platform(running: Running) -> None:
    store = running.control.store
    process = Process(running, clock_of_now(running))
    running.owner.do("PUT", "/alerts/rules/silent", {"kind": "node_silent", "threshold": 60, "for_s": 0})
    running.owner.do("PUT", "/alerts/rules/lag", {"kind": "ledger_lag", "threshold": 60, "for_s": 0})
    running.owner.do("PUT", "/alerts/rules/inbox", {"kind": "ledger_inbox", "threshold": 2, "for_s": 0})
    with store.node() as conn:
        conn.execute(
            "INSERT INTO interlock.nodes (name, workers, snapshot_version, seen_at, started_at, version, address,"
            " stored_at) VALUES ('n1', 1, 1, now(), now(), '', '', clock_timestamp() - interval '5 minutes')"
        )
    with store.shipping() as conn:
        conn.execute(
            "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns) VALUES (%s, 'n1', 0, %s)",
            ("e" * 16, process.clock.wall_ns() - 90 * NS),
        )
        for number in (1, 2):
            conn.execute(
                "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, n, leaf) VALUES (%s, %s, %s, '{}')",
                (tenants.PLATFORM_TENANT, "e" * 16, number),
            )
    try:
        found = process.look()
        assert ("silent", "n1", "firing") in found and ("lag", "n1", "firing") in found
        assert ("inbox", "", "firing") in found
    finally:
        with store.platform() as conn:
            conn.execute("DELETE FROM interlock.nodes")
        with store.sequencing() as conn:
            conn.execute("DELETE FROM interlock.ledger_inbox")
            conn.execute("SET LOCAL ROLE interlock_migrator")
            conn.execute("DELETE FROM interlock.ledger_epochs")


def test_events_are_kept_for_their_time_and_number(running: Running, people: dict[str, Admin], hook: Receiver) -> None:
    process = watched(running, people, hook)
    fail(running, process, "failed", "failed", "failed", "failed")
    process.look()
    process.look(60)
    assert process.look(31 * 86_400) == [], "its window is empty: unknown, and firing still"
    assert len(people["abe"].get("/alerts?tenant=acme")["events"]) == 1, "somebody is still to be told"
    process.send()
    process.look(700)
    assert people["abe"].get("/alerts?tenant=acme")["events"] == []


def test_what_is_gone_is_shown_no_more_and_forgotten_in_time(running: Running, people: dict[str, Admin]) -> None:
    process = Process(running, clock_of_now(running))
    charge(running, "acme", "month", 95)
    people["ada"].do("PUT", "/alerts/rules/r?tenant=acme", {"kind": "budget_used", "threshold": 900, "for_s": 0})
    assert process.look() == [("r", "month", "firing")]
    narrowed = {"kind": "budget_used", "threshold": 900, "for_s": 0, "scope": {"budget": "another"}}
    people["ada"].do("PUT", "/alerts/rules/r?tenant=acme", narrowed)
    assert process.look(15) == [("r", "month", "resolved")] and process.look(15) == []
    assert people["ada"].get("/alerts/rules/r?tenant=acme")["things"] == []
    process.look(40 * 86_400)
    with running.control.store.platform() as conn:
        assert conn.execute("SELECT count(*) FROM interlock.alert_states").fetchone() == (0,)


def test_alerts_go_with_their_tenant(running: Running, hook: Receiver) -> None:
    running.owner.apply("tenants: [{name: brief, budgets: [{name: b, calls: 1}]}]")
    channel(running, running.owner, hook, "brief")
    rule = {"kind": "budget_used", "threshold": 1, "for_s": 0, "channels": ["ops"]}
    running.owner.do("PUT", "/alerts/rules/r?tenant=brief", rule)
    charge(running, "brief", "b", 1)
    process = Process(running, clock_of_now(running))
    assert process.look() == [("r", "b", "firing")]
    with running.control.store.platform() as conn:
        conn.execute("SET LOCAL ROLE interlock_migrator")
        conn.execute("DELETE FROM interlock.budget_periods")
        conn.execute("DELETE FROM interlock.budgets WHERE name = 'b'")
        conn.execute("DELETE FROM interlock.tenants WHERE name = 'brief'")
    assert process.send() == 1 and hook.got == [], "the channel is gone"
    assert process.look(15) == []


def charge(running: Running, tenant: str, budget: str, used: int) -> None:
    """Have a budget's current month used so far."""
    first = running.control.tools.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with running.control.store.platform() as conn:
        row = conn.execute(
            "SELECT b.id, b.tenant_id FROM interlock.budgets AS b JOIN interlock.tenants AS t ON t.id = b.tenant_id"
            " WHERE t.name = %s AND b.name = %s",
            (tenant, budget),
        ).fetchone()
    assert row is not None
    with running.control.store.sequencing() as conn:
        conn.execute(
            "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s, settled) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (budget_id, start_s) DO UPDATE SET settled = excluded.settled",
            (row[1], row[0], int(first.timestamp()), used),
        )


def test_rules_are_declared_exported_and_applied_again_without_a_change(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    channel(running, people["ada"], hook)
    rule = {"name": "fails", **FAILURES, "scope": {"team": "research"}, "channels": ["ops"], "severity": "critical"}
    platform = [{"name": "lag", "kind": "ledger_lag", "threshold": 60}]
    text = json.dumps({"tenants": [{"name": "acme", "alerts": [rule]}], "alerts": platform})
    running.owner.apply(text)
    (shown,) = people["ada"].get("/alerts?tenant=acme")["rules"]
    assert {name: shown[name] for name in rule} == rule
    assert [each["name"] for each in running.owner.get("/alerts")["rules"]] == ["lag"]
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat()
    people["ada"].do("POST", "/alerts/rules/fails/silence?tenant=acme", {"until": until})
    status, whole = running.owner.call("GET", "/export?form=yaml")
    assert status == 200 and hook.url not in whole
    assert running.owner.apply("prune: true\n" + whole)["plan"]["changes"] == []
    assert running.owner.apply(text)["plan"]["changes"] == []
    changed = text.replace('"threshold": 500', '"threshold": 400')
    (step,) = running.owner.apply(changed)["plan"]["changes"]
    assert (step["operation"], step["kind"], step["fields"]) == ("update", "alert", ["threshold"])
    (shown,) = people["ada"].get("/alerts?tenant=acme")["rules"]
    assert shown["threshold"] == 400 and shown["silenced_until"] is not None  # a silence is no part of what is declared
    own = people["ada"].get("/export?tenant=acme")["tenants"][0]["alerts"]
    assert [each["name"] for each in own] == ["fails"]
    running.owner.apply(json.dumps({"prune": True, "tenants": [], "alerts": []}).replace('"tenants": [], ', ""))
    assert running.owner.get("/alerts")["rules"] == [] and len(people["ada"].get("/alerts?tenant=acme")["rules"]) == 1


def test_a_document_with_a_rule_that_cannot_be_changes_nothing(running: Running, people: dict[str, Admin]) -> None:
    def refused(who: Admin, rule: dict[str, Any], *, tenants: str = "acme") -> Any:
        text = json.dumps({"tenants": [{"name": tenants, "alerts": [{"name": "r", **rule}]}]})
        status, body = who.call("POST", "/apply", {"files": [{"name": "x.yaml", "text": text}]})
        assert status in (400, 403, 404, 409), body
        return body["error"]["message"]

    assert "x.yaml:" in refused(running.owner, {"kind": "ledger_lag", "threshold": 60})
    assert "scope.source" in refused(running.owner, {**FAILURES, "scope": {"source": "gpu"}})
    assert "there is no channel 'nowhere'" in refused(running.owner, {**FAILURES, "channels": ["nowhere"]})
    refused(people["dev"], FAILURES)
    refused(people["gus"], FAILURES)
    people["ada"].apply(json.dumps({"tenants": [{"name": "acme", "alerts": [{"name": "r", **FAILURES}]}]}))
    assert "does not change" in refused(running.owner, {"kind": "denials", "threshold": 7})
    assert [each["kind"] for each in people["ada"].get("/alerts?tenant=acme")["rules"]] == ["call_failures"]


def stored_urls(running: Running) -> str:
    with running.control.store.platform() as conn:
        rows = conn.execute("SELECT url, sealed, mark FROM interlock.alert_channels ORDER BY name").fetchall()
        told = conn.execute(
            "SELECT before, after FROM interlock.changes WHERE object_kind = 'alert_channel'"
        ).fetchall()
    return str(rows) + str(told)


def test_where_a_webhook_is_is_kept_sealed_and_shown_by_its_host_only(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    ada, path = people["ada"], "/alerts/channels/ops?tenant=acme"
    body = {"kind": "webhook", "secret": {"file": secret_of(running, "acme")}}
    shown = ada.do("PUT", path, {**body, "url": f"{hook.url}/T0SECRET?k=K1SECRET"})
    assert shown["url"] == f"http://127.0.0.1:{hook.port}/\N{HORIZONTAL ELLIPSIS}"

    def told() -> str:
        ada.do("POST", "/alerts/channels/ops/test?tenant=acme", {})
        return hook.got[-1].path

    assert told() == "/hook/T0SECRET?k=K1SECRET"
    for same in (shown["url"], ""):  # as it is shown, or not said: it stays
        assert ada.do("PUT", path, {**body, "url": same})["revision"] == shown["revision"]
        assert told() == "/hook/T0SECRET?k=K1SECRET"
    other = ada.do("PUT", path, {**body, "url": f"{hook.url}/T2SECRET"})
    assert (other["url"], other["revision"]) == (shown["url"], shown["revision"] + 1) and told() == "/hook/T2SECRET"
    bare = ada.do("PUT", path, {**body, "url": f"http://127.0.0.1:{hook.port}"})
    assert bare["url"] == f"http://127.0.0.1:{hook.port}" and told() == "/"
    seen = [ada.get("/alerts?tenant=acme"), ada.get("/tenants/acme/changes"), ada.get("/export?tenant=acme")]
    assert "SECRET" not in json.dumps(seen) + stored_urls(running)
    assert ada.call("PUT", "/alerts/channels/new?tenant=acme", {**body, "url": ""})[0] == 400
    assert ada.call("PUT", "/alerts/channels/new?tenant=acme", {**body, "url": shown["url"]})[0] == 400


def test_what_an_earlier_version_stored_in_the_clear_is_sealed_at_the_next_start(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    control = running.control
    channel(running, people["ada"], hook)
    with control.store.platform() as conn:
        conn.execute(
            "UPDATE interlock.alert_channels SET sealed = NULL, mark = '', url = %s", (f"{hook.url}/T0SECRET",)
        )
    shown = people["ada"].get("/alerts?tenant=acme")["channels"][0]["url"]
    assert shown.endswith("/\N{HORIZONTAL ELLIPSIS}")
    assert seal_all(control.store, control.tools) == 1 and seal_all(control.store, control.tools) == 0
    assert "SECRET" not in stored_urls(running)
    people["ada"].do("POST", "/alerts/channels/ops/test?tenant=acme", {})
    assert hook.got[-1].path == "/hook/T0SECRET"
    with control.store.platform() as conn:  # what another row's seal hides is not what this one tells
        conn.execute("UPDATE interlock.alert_channels SET sealed = sealed || '\\x00'::bytea")
    answer = people["ada"].do("POST", "/alerts/channels/ops/test?tenant=acme", {})
    assert answer["delivery"]["state"] == "failed" and "does not open" in answer["delivery"]["error"]


def test_urls_in_changes_of_an_earlier_version_are_not_shown(
    running: Running, people: dict[str, Admin], hook: Receiver
) -> None:
    channel(running, people["ada"], hook)
    with running.control.store.platform() as conn:
        (id_,) = conn.execute("SELECT id FROM interlock.alert_channels").fetchone() or ("",)
        told = {"id": id_, "url": f"{hook.url}/T0SECRET"}
        change = Change(tenant_id(running, "acme"), "alert_channel.update", "alert_channel", id_, told, told)
        record(conn, change, Author("x", "x", "as it was", running.control.tools.now()))
    assert "SECRET" not in json.dumps(people["ada"].get("/tenants/acme/changes"))
