"""Who may call what: keys, delegation, data class, denial words, limits, snapshots; each through a whole worker."""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from interlock.gateway.worker import Worker
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.types.clock import SystemClock
from interlock.types.identity import DataClass, LimitSet, PrincipalKind, Recording, Workload
from interlock.types.record import Attempt, Intent, Outcome, Refusal
from interlock.types.snapshot import Alias, AliasTarget, PolicyText
from interlock.types.source import Labels
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source, template
from tests.integration.gateway.client import (
    CHAT,
    WAIT_S,
    ask,
    connected,
    eventually,
    raw_request,
    read_until,
    serving,
    when,
)
from tests.unit.identity import issuers

STREAM = {**CHAT, "stream": True}


def forbid(cedar: str, policy_id: str = "no") -> PolicyText:
    return PolicyText(id=policy_id, cedar=cedar, words="the rules say no")


# -- credentials


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Basic abc"}, "invalid_api_key"),
        ({"authorization": "Bearer "}, "invalid_api_key"),
        ({"authorization": "Bearer sk-123"}, "invalid_api_key"),
        ({"authorization": "Bearer il_test_short"}, "invalid_api_key"),
        ({"authorization": "Bearer a.b.c"}, None),
        ({"authorization": "Bearer \xff"}, "invalid_api_key"),
        ({"x_api_key": "il_test_short"}, "invalid_api_key"),
    ],
)
def test_bad_credentials_are_refused_and_nothing_is_recorded(headers: dict[str, str], code: str | None) -> None:
    with serving() as (gateway, engine):
        for path in ("/v1/chat/completions", "/v1/models"):
            body = CHAT if path.endswith("completions") else None
            answer = ask(gateway, body, path, key="", method="POST" if body else "GET", **headers)
            assert answer.status == 401
            assert code is None or answer.error["code"] == code
            assert answer.headers["x-should-retry"] == "false" and "www-authenticate" in answer.headers
        assert engine.calls == [] and gateway.records_of(Refusal) == []


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ({"not_after_s": 1}, 401, "expired_api_key"),
        ({"revoked": True}, 401, "revoked_api_key"),
        ({"scopes": ("admin",)}, 403, "policy_denied"),
        ({}, 200, None),
    ],
)
def test_keys_that_are_no_longer_good_say_why(who: dict[str, Any], status: int, code: str | None) -> None:
    with serving(lambda url: World([source("s", url)], [Who(**who)])) as (gateway, _engine):
        answer = ask(gateway, CHAT)
        assert answer.status == status
        assert code is None or answer.error["code"] == code


def test_a_key_expires_while_it_is_remembered() -> None:
    with serving() as (gateway, _engine):
        (person,) = gateway.world.people
        for seconds in (2, 4, 8, 16):  # a busy machine may need longer for the first answer than the key lives
            person.not_after_s = int(time.time()) + seconds
            gateway.change(gateway.world)
            answer = ask(gateway, CHAT)
            if answer.status == 200:
                break
            assert time.time() >= person.not_after_s and answer.error["code"] == "expired_api_key"
        assert answer.status == 200
        eventually(lambda: ask(gateway, CHAT).status == 401, 2 * WAIT_S)
        assert time.time() >= person.not_after_s


def test_two_different_keys_are_refused_and_twice_the_same_is_fine() -> None:
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT, x_api_key="il_test_other").status == 401
        assert ask(gateway, CHAT, x_api_key=gateway.key()).status == 200
        assert ask(gateway, CHAT, key="", api_key=gateway.key()).status == 200


@pytest.mark.parametrize("cut", [False, True])
def test_revocation_stops_new_calls_and_with_cut_the_running_ones_too(cut: bool) -> None:
    with serving() as (gateway, engine):
        engine.default = faults.endless(between_ms=5)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
            people = [Who(key=gateway.key(), revoked=True, cut=cut)]
            gateway.change(World(gateway.world.sources, people))
            assert ask(gateway, CHAT).error["code"] == "revoked_api_key"
            if cut:
                got = b""
                while data := sock.recv(65536):
                    got += data
                assert b"revoked_api_key" in got and b"[DONE]" not in got
                eventually(lambda: engine.calls[0].ended == "gone")
                assert [o.state for o in gateway.records_of(Outcome)] == ["cut"]
            else:
                read_until(sock, b"word")
                assert gateway.records_of(Outcome) == []


# -- delegation


def delegation_world(url: str) -> World:
    people = [
        Who("alice"),
        Who("service", kind=PrincipalKind.service, scopes=("infer", "assert-user"), team=""),
        Who(
            "agent", kind=PrincipalKind.agent, scopes=("infer", "assert-user"), team="", may_act_for=("prn_acme_alice",)
        ),
        Who("bob"),
        Who("eve", tenant="other"),
    ]
    return World(
        [source("s", url)], people, [permit_all(), forbid('forbid(principal == User::"bob", action, resource);')]
    )


@pytest.mark.parametrize(
    ("key", "user", "status"),
    [
        ("service", "alice", 200),
        ("agent", "alice", 200),
        ("agent", "bob", 403),
        ("service", "nobody", 403),
        ("service", "eve", 403),
        ("service", "agent", 403),
        ("alice", "bob", 403),
        ("service", "\xff", 400),
        ("service", "", 403),
    ],
)
def test_acting_for_a_user_needs_the_scope_and_both_must_be_allowed(key: str, user: str, status: int) -> None:
    with serving(delegation_world) as (gateway, _engine):
        answer = ask(gateway, CHAT, key=gateway.key(key), x_interlock_assert_user=user)
        assert answer.status == status
        if status == 200:
            (intent,) = gateway.records_of(Intent)
            assert (intent.delegator_id, intent.delegation) == ("prn_acme_alice", "asserted")
            assert intent.principal_id == f"prn_acme_{key}"
        else:
            (refusal,) = gateway.records_of(Refusal)
            assert refusal.principal_id == f"prn_acme_{key}"


def test_a_service_may_not_do_for_a_user_what_the_user_may_not() -> None:
    with serving(delegation_world) as (gateway, engine):
        assert ask(gateway, CHAT, key=gateway.key("service")).status == 200
        answer = ask(gateway, CHAT, key=gateway.key("service"), x_interlock_assert_user="bob")
        assert answer.status in (403, 404)
        assert len(engine.calls) == 1


def test_a_bearer_token_of_an_issuer_is_an_identity_and_a_forged_one_is_not() -> None:
    now = int(time.time())
    times: dict[str, Any] = {"iat": now, "exp": now + 600}
    issuer = issuers.issuer(group_teams={"grp-research": "team_acme_research"})
    with serving(lambda url: World([source("s", url)], issuers=[issuer])) as (gateway, _engine):
        (gateway.folder / "jwks" / "iss_1.json").write_text(
            json.dumps(
                {**issuers.public(issuers.RSA), "fetched_ns": now * 1_000_000_000, "issuer_id": "iss_1", "url": "x"}
            )
        )
        good = issuers.token(**times, groups=["grp-research"])
        answer = ask(gateway, CHAT, key=good)
        assert answer.status == 200
        assert gateway.records_of(Intent)[0].auth_method == "jwt"
        unknown = ask(gateway, CHAT, key=issuers.token(issuers.RSA_2, **times))
        assert unknown.status == 503 and unknown.error["code"] == "issuer_keys_refreshing"
        assert ask(gateway, CHAT, key=good[:-4] + "AAAA").status == 401
        assert ask(gateway, CHAT, key=issuers.token(iat=now - 900, exp=now - 600)).status == 401


# -- denial and data class


def test_a_listed_model_is_denied_with_words_and_any_other_is_not_found() -> None:
    def world(url: str) -> World:
        return World(
            [source("s", url, model("m"), model("hidden"))],
            policies=[
                PolicyText(
                    "m", 'permit(principal, action == Action::"infer", resource in Model::"m");', words="all may use m"
                ),
            ],
        )

    with serving(world) as (gateway, engine):
        denied = ask(gateway, {**CHAT, "n": 2})
        assert denied.status == 403 and denied.error["code"] == "policy_denied"
        assert "several answers" in denied.error["message"] and denied.headers["x-should-retry"] == "false"
        hidden, nothing = (ask(gateway, {**CHAT, "model": name}) for name in ("hidden", "nope"))
        assert hidden.status == nothing.status == 404
        assert hidden.body.replace(b"hidden", b"nope") == nothing.body
        assert engine.calls == []
        refusals = gateway.records_of(Refusal)
        assert refusals[1].reasons and refusals[1].reasons[0].offer == "s::hidden"
        listed = ask(gateway, None, "/v1/models", method="GET").json["data"]
        assert [entry["id"] for entry in listed] == ["m"]
        assert ask(gateway, None, "/v1/models/m", method="GET").status == 200
        assert ask(gateway, None, "/v1/models/hidden", method="GET").status == 404


def test_a_model_with_a_slash_in_its_name_is_found_by_its_address() -> None:
    with serving(lambda url: World([source("s", url, model("org/m"))])) as (gateway, _engine):
        assert ask(gateway, None, "/v1/models/org%2Fm", method="GET").json["id"] == "org/m"
        assert ask(gateway, None, "/v1/models/org/m", method="GET").json["id"] == "org/m"
        assert ask(gateway, {**CHAT, "model": "org/m"}).status == 200


@pytest.mark.parametrize("field", [{"n": 2}, {"store": True}, {"priority": 1}, {"chat_template": "x"}])
def test_fields_that_do_more_need_a_policy(field: dict[str, Any]) -> None:
    features = ("multiply", "store", "set_priority", "change_template")
    for policies, status in (([permit_all()], 403), ([permit_all(features=features)], 200)):

        def world(url: str, policies: list[PolicyText] = policies) -> World:
            return World([source("s", url)], policies=policies)

        with serving(world) as (gateway, engine):
            assert ask(gateway, {**CHAT, **field}).status == status
            assert len(engine.calls) == (status == 200)


@pytest.mark.parametrize(
    ("key_class", "header", "body", "alias", "expected"),
    [
        (DataClass.internal, None, None, 0, 1),
        (DataClass.internal, "public", None, 0, 1),
        (DataClass.internal, None, "public", 0, 1),
        (DataClass.internal, "confidential", "public", 0, 2),
        (DataClass.internal, "public", "restricted", 0, 3),
        (DataClass.public, None, None, 2, 2),
        (DataClass.restricted, "public", "public", 2, 3),
    ],
)
def test_a_data_class_is_only_ever_raised(
    key_class: DataClass, header: str | None, body: str | None, alias: int, expected: int
) -> None:
    def world(url: str) -> World:
        aliases = [Alias("alias", targets=(AliasTarget("m"),), data_class=alias)]
        return World([source("s", url)], [Who(data_class=key_class)], aliases=aliases)

    with serving(world) as (gateway, _engine):
        given: dict[str, Any] = {**CHAT, "model": "alias" if alias else "m"}
        if body:
            given["interlock"] = {"data_class": body}
        headers = {"x_interlock_data_class": header} if header else {}
        assert ask(gateway, given, **headers).status == 200
        assert gateway.records_of(Intent)[0].features.data_class == expected


def test_what_one_header_alone_says_of_a_call_holds() -> None:
    said = {
        "x_interlock_data_class": "confidential",
        "x_interlock_recording": "metadata",
        "x_interlock_purpose": "triage",
        "x_interlock_class": "summary",
        "x_interlock_workload": "background",
    }
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT).status == 200
        for header, value in said.items():
            assert ask(gateway, CHAT, **{header: value}).status == 200
        plain, *intents = [
            (i.features.data_class, i.recording, i.features.purpose, i.request_class, i.features.workload)
            for i in gateway.records_of(Intent)
        ]
    expected = (DataClass.confidential, int(Recording.metadata), "triage", "summary", Workload.background)
    for at, found in enumerate(intents):
        assert found == (*plain[:at], expected[at], *plain[at + 1 :])
        assert found != plain


def test_an_unknown_data_class_is_refused() -> None:
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT, x_interlock_data_class="secret").status == 400
        assert ask(gateway, {**CHAT, "interlock": {"data_class": "x"}}).error["param"] == "interlock.data_class"


# -- P2: every egress


def test_no_failover_and_no_overflow_ever_leaves_what_policy_allows() -> None:
    """The allowed source fails in every way; the forbidden ones beside it are never connected."""
    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(models=("m",)).in_thread()) for _ in range(4)]
        ok, cloud, us, low = engines
        world = World(
            [
                source("ok", ok.base_url),
                source("cloud", cloud.base_url, labels=Labels(region="eu", on_prem=False)),
                source("us", us.base_url, labels=Labels(region="us", on_prem=True)),
                source("low", low.base_url, labels=Labels(region="eu", data_class_max=DataClass.public)),
            ],
            [Who(data_class=DataClass.confidential)],
            [
                permit_all(),
                template("prem", "data-class-stays-on-prem", data_class="confidential"),
                template("eu", "region-stays-in-region", regions=["eu"]),
            ],
        )
        gateway = stack.enter_context(WorkerHarness(world, breaker_failures=100, attempts_max=5))
        assert ask(gateway, CHAT).headers["x-interlock-source"] == "ok"
        for script in (
            answers.error(500),
            answers.error(503, retry_after="0"),
            faults.garbage(),
            answers.error(429),
        ):
            for body in (CHAT, STREAM):
                ok.script(script)
                assert ask(gateway, body).status >= 400
        ask(gateway, {**CHAT, "model": "auto"})
        assert ask(gateway, {**CHAT, "model": "cloud::m"}).status in (403, 404)
        assert ask(gateway, {"model": "m", "input": "x"}, "/v1/embeddings").status == 200
        assert [e.connections for e in (cloud, us, low)] == [0, 0, 0]
        assert {a.source for a in gateway.records_of(Attempt)} == {"ok"}


def test_the_data_class_of_a_source_holds_without_any_policy() -> None:
    """The shipped base policy: no permit, however wide, lets data up to a source that may not see it."""

    def world(url: str) -> World:
        return World([source("s", url, labels=Labels(data_class_max=DataClass.internal))])

    with serving(world) as (gateway, engine):
        assert ask(gateway, CHAT).status == 200
        answer = ask(gateway, CHAT, x_interlock_data_class="confidential")
        assert answer.status == 403
        assert len(engine.calls) == 1


def test_a_source_of_another_tenant_is_not_there() -> None:
    def world(url: str) -> World:
        return World([source("s", url, granted_to=("ten_other",))], [Who(), Who("eve", tenant="other")])

    with serving(world) as (gateway, _engine):
        assert ask(gateway, CHAT).status == 404
        assert ask(gateway, None, "/v1/models", method="GET").json["data"] == []
        assert ask(gateway, CHAT, key=gateway.key("eve")).status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "m", "prompt": "x"}),
        ("/v1/embeddings", {"model": "m", "input": "x"}),
    ],
)
def test_every_operation_passes_the_same_stages(path: str, body: dict[str, Any]) -> None:
    """P3: no key, a denied policy, a reached limit and a full log stop each of them; each leaves the same records."""
    with serving() as (gateway, engine):
        assert ask(gateway, body, path, key="").status == 401
        assert ask(gateway, body, path).status == 200
        kinds = [type(r).__name__ for r in gateway.records()]
        assert kinds[1:] == ["Intent", "Attempt", "Outcome"]
        people = gateway.world.people
        gateway.change(World(gateway.world.sources, people, policies=[]))
        assert ask(gateway, body, path).status == 404
        people[0].limits = LimitSet(requests_per_minute=0)
        gateway.change(World(gateway.world.sources, people))
        assert ask(gateway, body, path).status == 429
        gateway.call(lambda: setattr(gateway.worker.runtime, "draining", True))
        people[0].limits = None
        gateway.change(World(gateway.world.sources, people))
        assert ask(gateway, body, path).error["code"] == "draining"
        assert len(engine.calls) == 1
        assert [r.status for r in gateway.records_of(Refusal)] == [404, 429, 503]
        gateway.call(lambda: setattr(gateway.worker.runtime, "draining", False))


# -- limits


def test_the_request_limit_answers_429_with_what_a_client_needs() -> None:
    limits = LimitSet(requests_per_minute=3)
    with serving(lambda url: World([source("s", url)], [Who(limits=limits)])) as (gateway, engine):
        found = [ask(gateway, CHAT) for _ in range(5)]
        assert [a.status for a in found] == [200, 200, 200, 429, 429]
        assert [a.headers["x-ratelimit-remaining-requests"] for a in found[:3]] == ["2", "1", "0"]
        refused = found[3]
        assert refused.headers["x-ratelimit-limit-requests"] == "3"
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert refused.error["type"] == "rate_limit_error" and "x-should-retry" not in refused.headers
        assert len(engine.calls) == 3


def test_tokens_are_settled_to_what_was_used() -> None:
    limits = LimitSet(tokens_per_minute=5000)
    with serving(lambda url: World([source("s", url)], [Who(limits=limits)])) as (gateway, _engine):
        assert [ask(gateway, {**CHAT, "max_tokens": 4000}).status for _ in range(3)] == [200] * 3
        never = ask(gateway, {**CHAT, "max_tokens": 40_000})
        assert never.status == 429 and never.headers["x-should-retry"] == "false"


def test_tokens_of_refused_and_failed_calls_are_given_back_and_unknown_usage_is_not() -> None:
    limits = LimitSet(tokens_per_minute=6000)
    with serving(lambda url: World([source("s", url)], [Who(limits=limits)])) as (gateway, engine):
        engine.script(answers.error(500), answers.error(400), answers.answer(usage=False))
        body = {**CHAT, "max_tokens": 4000}
        assert [ask(gateway, body).status for _ in range(4)] == [502, 400, 200, 429]
        assert gateway.records_of(Outcome)[-1].usage.origin == "reserved"


@pytest.mark.parametrize("kind", ["key_limits", "limits", "team_limits"])
def test_concurrency_is_limited_and_given_back_however_a_call_ends(kind: str) -> None:
    who = Who(**{kind: LimitSet(concurrency=1)})  # type: ignore[arg-type]
    with serving(lambda url: World([source("s", url)], [who])) as (gateway, engine):
        engine.script(faults.endless(between_ms=5))
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
            assert ask(gateway, CHAT).status == 429
        eventually(lambda: ask(gateway, CHAT).status == 200)
        engine.script(answers.error(500), faults.dies_mid_stream(), faults.garbage())
        assert [ask(gateway, STREAM).status for _ in range(3)] == [502, 200, 502]
        assert ask(gateway, CHAT).status == 200


def test_calls_in_progress_are_bounded() -> None:
    with serving(calls_max=1) as (gateway, engine):
        engine.script(faults.never_answers())
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, CHAT))
            eventually(lambda: engine.calls)
            answer = ask(gateway, CHAT)
            assert answer.status == 503 and answer.error["code"] == "overloaded"


# -- snapshots


def test_a_snapshot_swap_under_load_never_mixes_versions() -> None:
    """Versions alternate between two worlds whose parts only fit together: key, source and model of one of them."""
    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(models=(name,)).in_thread()) for name in ("even", "odd")]
        for engine in engines:
            engine.default = answers.answer("ok", delay_ms=3)
        key = Who().key
        worlds = [
            World([source(name, engine.base_url, model(name))], [Who(name, key=key)], [permit_all(name)])
            for name, engine in zip(("even", "odd"), engines, strict=True)
        ]
        gateway = stack.enter_context(WorkerHarness(worlds[1]))  # version 1
        stop, asked = threading.Event(), itertools.count()

        def load() -> None:
            while not stop.is_set():
                ask(gateway, {**CHAT, "model": "auto"}, key=key)
                next(asked)

        callers = [threading.Thread(target=load) for _ in range(3)]
        for caller in callers:
            caller.start()
        for version in range(2, 30):
            gateway.change(worlds[version % 2])
            time.sleep(0.01)
            if version % 4 == 0:  # so that calls begin under several of them
                before = next(asked)
                eventually(lambda before=before: next(asked) > before + 3)  # type: ignore[misc]
        stop.set()
        for caller in callers:
            caller.join(2 * WAIT_S)
        intents = {r.call: r for r in gateway.records_of(Intent)}
        assert len({i.snapshot_version for i in intents.values()}) > 5
        for intent in intents.values():
            name = ("even", "odd")[intent.snapshot_version % 2]
            assert intent.principal_id == f"prn_acme_{name}"
            assert [c.offer for c in intent.route.candidates] == [f"{name}::{name}"]
            assert {p.policy_ids for p in intent.permits} == {(name,)}
        for attempt in gateway.records_of(Attempt):
            assert attempt.source == ("even", "odd")[intents[attempt.call].snapshot_version % 2]
        assert {o.state for o in gateway.records_of(Outcome)} == {"completed"}


def test_a_source_that_leaves_the_snapshot_finishes_its_running_calls() -> None:
    with serving() as (gateway, engine), ScriptedEngine(models=("m",)).in_thread() as other:
        engine.default = answers.answer("one two three four five six", between_ms=30)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            got = read_until(sock, b"one")
            gateway.change(World([source("other", other.base_url)], gateway.world.people))
            while b"[DONE]" not in got:
                got += sock.recv(65536)
        assert b"six" in got and b"error" not in got
        assert ask(gateway, CHAT).headers["x-interlock-source"] == "other"


def test_a_failover_after_a_new_snapshot_stays_on_the_old_one() -> None:
    """The call began when `second` was there; that the newest snapshot has no such source is nothing to it."""
    with ScriptedEngine(models=("m",)).in_thread() as second, serving() as (gateway, first):
        sources = [source("a", first.base_url), source("b", second.base_url, labels=Labels(on_prem=False))]
        gateway.change(World(sources, gateway.world.people))
        changed, found = threading.Event(), list[Any]()
        first.script(when(changed, answers.error(500)))
        caller = threading.Thread(target=lambda: found.append(ask(gateway, CHAT)))
        caller.start()
        eventually(lambda: first.calls)
        gateway.change(World(sources[:1], gateway.world.people))
        changed.set()
        caller.join(2 * WAIT_S)
        assert found[0].status == 200 and found[0].headers["x-interlock-source"] == "b"
        assert gateway.records_of(Intent)[0].snapshot_version == 2


@pytest.mark.parametrize(("age_s", "allowed"), [(60, 4), (200, 3), (300, 2), (400, 1), (600, 0)])
def test_a_stale_snapshot_refuses_the_more_the_more_sensitive_the_data_is(age_s: int, allowed: int) -> None:
    ages: dict[str, Any] = {
        "snapshot_age_max_s_restricted": 100,
        "snapshot_age_max_s_confidential": 250,
        "snapshot_age_max_s_internal": 350,
        "snapshot_age_max_s_public": 500,
    }
    who = Who(data_class=DataClass.public)
    with serving(lambda url: World([source("s", url)], [who]), **ages) as (gateway, _engine):
        confirmed = SystemClock().wall_ns() - age_s * 1_000_000_000
        gateway.call(lambda: gateway.board.confirm_snapshot(1, confirmed))
        gateway.call(lambda: gateway.worker._sweep())
        found = [
            ask(gateway, CHAT, x_interlock_data_class=name)
            for name in ("public", "internal", "confidential", "restricted")
        ]
        assert [a.status for a in found] == [200] * allowed + [503] * (4 - allowed)
        for answer in found[allowed:]:
            assert answer.error["code"] == "snapshot_stale" and answer.headers["retry-after"] == "5"
        listing = ask(gateway, None, "/v1/models", method="GET")
        assert listing.status == (200 if allowed else 503)


def test_a_damaged_snapshot_is_rejected_and_the_old_one_stays() -> None:
    from interlock.gateway.link import NewSnapshot, Rejected

    with serving() as (gateway, _engine):
        worker: Worker = gateway.worker
        for file in (gateway.folder / "snapshot").iterdir():
            file.write_bytes(b"nonsense")
        gateway.call(lambda: worker.on_message(NewSnapshot(99, "99.delta")))
        assert ask(gateway, CHAT).status == 200
        assert gateway.call(lambda: worker.runtime.state.version) == 1  # type: ignore[union-attr]
        assert any(isinstance(message, Rejected) for message in gateway.told)


# -- what is passed along


def test_request_ids_trace_context_and_headers_go_through() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving() as (gateway, engine):
        answer = ask(gateway, CHAT, x_request_id="mine-1", traceparent=trace, tracestate="a=b")
        request_id = answer.headers["x-interlock-request-id"]
        assert answer.headers["x-request-id"] == request_id and request_id.startswith("req_")
        assert answer.headers["x-interlock-source"] == "local" and answer.headers["x-interlock-model"] == "m"
        assert "offer=local::m" in answer.headers["x-interlock-decision"]
        (sent,) = engine.calls
        assert sent.header("x-request-id") == request_id
        assert (sent.header("traceparent"), sent.header("tracestate")) == (trace, "a=b")
        assert sent.header("authorization") is None
        assert gateway.key() not in str(sent.headers) + sent.body.decode()
        (intent,) = gateway.records_of(Intent)
        assert (intent.client_request_id, intent.trace_id) == ("mine-1", trace[3:35])
        assert "interlock" not in sent.json


@pytest.mark.parametrize("trace", ["x" * 55, "00-" + "Z" * 32 + "-b7ad6b7169203331-01", "\xff" * 55])
def test_a_trace_context_that_is_none_is_not_recorded(trace: str) -> None:
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT, traceparent=trace).status == 200
        assert gateway.records_of(Intent)[0].trace_id == ""


def test_vllm_gets_a_cache_salt_for_each_tenant() -> None:
    from interlock.types.source import SourceKind

    def world(url: str) -> World:
        return World([source("s", url, kind=SourceKind.vllm)], [Who(), Who("bob"), Who("eve", tenant="other")])

    with serving(world) as (gateway, engine):
        for name in ("alice", "bob", "eve"):
            assert ask(gateway, CHAT, key=gateway.key(name)).status == 200
        salts = [call.json["cache_salt"] for call in engine.calls]
        assert salts[0] == salts[1] != salts[2]


@pytest.mark.parametrize(("rule", "status"), [("pass", 200), ("drop", 200), ("refuse", 400)])
def test_fields_that_nobody_interprets_follow_the_sources_rule(rule: str, status: int) -> None:
    with serving(lambda url: World([source("s", url, extra_fields=rule)])) as (gateway, engine):
        answer = ask(gateway, {**CHAT, "my_own_field": {"a": 1}, "temperature": 0.5})
        assert answer.status == status
        if status == 200:
            assert ("my_own_field" in engine.calls[0].json) == (rule == "pass")
            assert engine.calls[0].json["temperature"] == 0.5
        else:
            assert answer.error["code"] == "unknown_field" and answer.error["param"] == "my_own_field"


@pytest.mark.parametrize(
    ("header", "body", "status"), [("audit", None, 200), (None, "audit", 200), ("x" * 257, None, 400)]
)
def test_the_purpose_of_a_call_is_recorded_and_bounded(header: str | None, body: str | None, status: int) -> None:
    with serving() as (gateway, _engine):
        document = {**CHAT, **({"interlock": {"purpose": body}} if body else {})}
        headers = {"x_interlock_purpose": header} if header else {}
        answer = ask(gateway, document, **headers)
        assert answer.status == status
        if status == 200:
            assert gateway.records_of(Intent)[-1].features.purpose == "audit"
