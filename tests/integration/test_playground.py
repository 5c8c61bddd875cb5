"""The playground over a real database, with a scripted server in the gateway's place: whose key it calls with, for how
long, what the bounds are, and who is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.console.sessions import Sessions, digest
from interlock.control.console.upstream import Gateway, gateway_url, relay
from interlock.errors import LimitExceeded, Unauthenticated, Unavailable
from interlock.storage import keys, nodes, principals, tenants
from interlock.storage.nodes import Node
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received
from interlock.types.snapshot import key_digest

from .control_client import Running, control_over

TENANTS = """
tenants:
  - name: acme
    principals:
      - {name: dora, kind: user}
      - {name: victor, kind: user}
    roles:
      - {principal: dora, role: developer}
      - {principal: victor, role: viewer}
"""
PASSWORD = "correct horse battery"
ASK = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}


@dataclasses.dataclass
class Scene:
    running: Running
    gateway: ScriptedEngine

    def browser(self, name: str) -> Browser:
        made = TestClient(make_app(self.running.control.api), base_url="https://testserver")
        made.headers["origin"] = "https://testserver"
        found = made.post("/console/sign-in", data={"name": f"acme/{name}", "password": PASSWORD})
        assert found.status_code == 200
        return Browser(made)

    def session(self, name: str) -> tuple[Sessions, str]:
        """Sessions of a process of its own, and the token of one that somebody began there."""
        api = self.running.control.api
        sessions = Sessions(api)
        with api.store.platform() as conn:
            tenant = tenants.by_name(conn, "acme")
            assert tenant is not None
            found = principals.by_name(conn, tenant.value.id, name)
        assert found is not None
        who = found.value
        return sessions, sessions.begin(method="password", principal_id=who.id, name=name, tenant_id=who.tenant_id)

    def called(self) -> list[Received]:
        return [call for call in self.gateway.calls if call.path.endswith("/chat/completions")]

    def stored(self, secret: str) -> keys.KeyRow:
        control = self.running.control
        with control.store.platform() as conn:
            found = keys.by_digest(conn, key_digest(control.tools.pepper, secret.encode()))
        assert found is not None
        return found.value


class Browser:
    def __init__(self, http: TestClient) -> None:
        self.http = http
        page = http.get("/console/").text
        self.csrf = page.partition('data-csrf="')[2].partition('"')[0]

    def send(self, ask: Any = ASK, **headers: str) -> Any:
        fields = {"ask": json.dumps(ask), "csrf": self.csrf}
        return self.http.post("/console/playground/send", data=fields, headers=headers)

    def events(self, ask: Any = ASK) -> list[tuple[str, Any]]:
        answer = self.send(ask)
        assert answer.status_code == 200, answer.text
        pieces = [each.split("\n") for each in answer.text.split("\n\n") if each]
        return [(first[len("event: ") :], json.loads(second[len("data: ") :])) for first, second in pieces]


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[Scene]:
    with ScriptedEngine(kind="openai").in_thread() as engine:
        url = engine.base_url.removesuffix("/v1")
        with control_over(
            postgres_url, playground_gateway_url=url, playground_answer_bytes_max=2000, playground_call_ms=8000
        ) as running:
            running.owner.apply(TENANTS)
            for name in ("dora", "victor"):
                running.owner.do("POST", f"/tenants/acme/principals/{name}/password", {"password": PASSWORD})
            yield Scene(running, engine)


@pytest.fixture
def scene(whole: Scene) -> Scene:
    whole.gateway.default = answers.answer("It works.")
    return whole


def secret_of(call: Received) -> str:
    return (call.header("authorization") or "").removeprefix("Bearer ")


def test_a_call_is_made_with_a_short_lived_key_of_the_signed_in_person(scene: Scene) -> None:
    browser = scene.browser("dora")
    events = browser.events({**ASK, "mode": "eco", "system": "Be brief.", "temperature": 0.5, "max_tokens": 9})
    assert events[0][0] == "head" and events[-1][0] == "end"
    assert "".join(value["text"] for kind, value in events if kind == "text") == "It works."
    assert events[-1][1]["first_ms"] >= 0
    call = scene.called()[-1]
    body = call.json
    assert body["interlock"] == {"mode": "eco"} and body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.5, 9, True)
    key = scene.stored(secret_of(call))
    control = scene.running.control
    now_s = control.tools.clock.wall_ns() // 1_000_000_000
    assert key.scopes == ("infer",) and key.name.startswith("console-")
    assert 0 < key.not_after_s - now_s <= control.settings.playground_key_s
    with control.store.platform() as conn:
        row = conn.execute("SELECT name FROM interlock.principals WHERE id = %s", (key.principal_id,)).fetchone()
    assert row == ("dora",)
    browser.events()
    assert secret_of(scene.called()[-1]) == secret_of(call), "one key for a session"


def test_the_key_is_nowhere_but_in_memory_and_opens_nothing_else(scene: Scene) -> None:
    browser = scene.browser("dora")
    said = browser.send().text
    secret = secret_of(scene.called()[-1])
    assert secret.startswith("il_") and secret not in said
    assert secret not in browser.http.get("/console/playground").text
    home = Path(scene.running.control.settings.home)
    assert not [path for path in home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    status, answer = scene.running.as_(secret).call("GET", "/tenants")
    assert status == 403 and answer["error"]["code"] == "admin_denied"


def test_signing_out_revokes_the_key_whichever_process_made_it(scene: Scene) -> None:
    browser = scene.browser("dora")
    browser.events()
    secret = secret_of(scene.called()[-1])
    assert not scene.stored(secret).revoked
    # another process behind the same balancer, which never saw the key
    other = TestClient(make_app(scene.running.control.api), base_url="https://testserver", cookies=browser.http.cookies)
    other.headers["origin"] = "https://testserver"
    assert other.post("/console/sign-out", data={"csrf": browser.csrf}).status_code == 200
    key = scene.stored(secret)
    assert key.revoked and key.cut, "what runs with it is cut off"
    calls = len(scene.called())
    answer = browser.send()
    assert "text/event-stream" not in answer.headers["content-type"] and len(scene.called()) == calls


def test_a_key_that_gateways_have_not_heard_of_yet_is_tried_again(scene: Scene) -> None:
    asked: list[str] = []

    def early(received: Received) -> Any:
        asked.append(secret_of(received))
        return (answers.error(401) if len(asked) <= 3 else answers.answer("Known."))(received)

    scene.gateway.default = early
    dora = scene.browser("dora")
    assert "".join(value["text"] for kind, value in dora.events() if kind == "text") == "Known."
    assert len(asked) == 4 and len(set(asked)) == 1
    calls = len(scene.called())
    scene.gateway.default = answers.error(403)
    assert [kind for kind, _ in dora.events()].count("problem") == 1 and len(scene.called()) == calls + 1


def test_who_may_not_is_refused_before_anything_is_made(scene: Scene) -> None:
    victor, dora = scene.browser("victor"), scene.browser("dora")
    calls = len(scene.called())
    assert victor.send().status_code == 403 and victor.http.get("/console/playground").status_code == 403
    assert dora.send(origin="https://evil.example").status_code == 403
    assert dora.http.post("/console/playground/send", data={"ask": json.dumps(ASK)}).status_code == 403
    assert dora.send({**ASK, "key": "il_live_x"}).status_code == 400, "nothing else is passed on"
    assert dora.send({**ASK, "messages": [{"role": "system", "content": "x"}]}).status_code == 400
    assert len(scene.called()) == calls


def test_a_key_made_while_somebody_signs_out_works_no_more(scene: Scene) -> None:
    sessions, token = scene.session("dora")
    session, actor = sessions.find(token)
    sessions.end(token)
    with pytest.raises(Unauthenticated):
        sessions.calls.key(digest(token), session, actor)
    found = scene.running.owner.get("/tenants/acme/keys?limit=500")["items"]
    assert [k["state"] for k in found if k["name"] == f"console-{digest(token).hex()[:16]}"] == ["revoked"]


def test_an_answer_is_bounded_in_size_and_time_and_its_failures_are_told(scene: Scene) -> None:
    dora = scene.browser("dora")

    def problem() -> str:
        (words,) = [value["words"] for kind, value in dora.events() if kind == "problem"]
        return str(words)

    scene.gateway.default = answers.answer("word " * 1000)
    assert "playground_answer_bytes_max" in problem()
    scene.gateway.default = answers.answer("word " * 300, between_ms=100)
    assert "playground_call_ms" in problem()
    scene.gateway.default = answers.error(403)
    assert problem()
    for fault in (faults.garbage(), faults.malformed_sse(), faults.huge_event(10_000), faults.dies_mid_stream()):
        scene.gateway.default = fault
        assert problem()


def test_only_so_many_calls_of_one_person_run(scene: Scene) -> None:
    dora = scene.browser("dora")
    most = scene.running.control.settings.playground_calls_max
    for _ in range(most + 1):
        assert dora.events()[-1][0] == "end", "each that has ended makes room"
    sessions, _ = scene.session("dora")
    for _ in range(most):
        sessions.calls.begin("usr_1")
    with pytest.raises(LimitExceeded):
        sessions.calls.begin("usr_1")
    sessions.calls.begin("usr_2")
    sessions.calls.done("usr_1")
    sessions.calls.begin("usr_1")


def test_a_key_goes_over_tls_or_stays_on_the_machine(scene: Scene) -> None:
    control = scene.running.control
    api = dataclasses.replace(
        control.api,
        tools=dataclasses.replace(
            control.tools, settings=dataclasses.replace(control.settings, playground_gateway_url="")
        ),
    )
    now = control.tools.now()

    def heard(address: str) -> None:
        with control.store.node() as conn:
            nodes.seen(conn, Node("n", 1, 1, now, now, "", address))

    with pytest.raises(Unavailable):
        gateway_url(api)
    for address in ("http://10.0.0.7:8080", "http://0.0.0.0:8080", "https://[::]:8080", "http://gateway:8080"):
        heard(address)
        with pytest.raises(Unavailable):
            gateway_url(api)
    for address in ("http://127.0.0.1:8080", "https://10.0.0.7:8080", "https://gateway.acme.example"):
        heard(address)
        assert gateway_url(api) == address


def test_what_is_said_of_an_answer_goes_through_the_gateway_as_oneself(scene: Scene) -> None:
    browser = scene.browser("dora")
    browser.events()
    for status, linked in ((200, True), (202, False)):
        scene.gateway.default = answers.page({"linked": linked}, status)
        fields = {"request": "req_1", "thumb": "down", "csrf": browser.csrf}
        answer = browser.http.post("/console/playground/feedback", data=fields)
        assert (answer.status_code, answer.json()) == (200, {"linked": linked})
    given = [call for call in scene.gateway.calls if call.path.endswith("/feedback")][-1]
    assert given.json == {"request_id": "req_1", "thumb": "down"}
    assert secret_of(given) == secret_of(scene.called()[-1]), "with the key of the signed-in person"
    scene.gateway.default = answers.error(404)
    refused = browser.http.post("/console/playground/feedback", data=fields)
    assert refused.status_code == 502 and refused.json()["problem"], "in the gateway's words"
    for thumb in ("", "sideways"):
        assert browser.http.post("/console/playground/feedback", data={**fields, "thumb": thumb}).status_code == 400
    assert browser.http.post("/console/playground/feedback", data={**fields, "csrf": "x"}).status_code == 403
    victor = scene.browser("victor")
    fields["csrf"] = victor.csrf
    assert victor.http.post("/console/playground/feedback", data=fields).status_code == 403


class Held(Gateway):
    """Says `said` when it is told to, and then nothing more."""

    def __init__(self, *said: Any) -> None:
        self.said, self.go, self.closed = said, asyncio.Event(), False

    async def chat(self, body: dict[str, Any], event_bytes_max: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        await self.go.wait()
        for each in self.said:
            if isinstance(each, Exception):
                raise each
            yield "text", {"text": each}
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


async def signed_in() -> None:
    pass


@pytest.mark.parametrize("turns", range(8))
def test_who_leaves_as_a_piece_arrives_ends_the_call_all_the_same(turns: int) -> None:
    async def leave() -> bool:
        gateway = Held("a piece")
        pieces = relay(gateway, {}, 1000, 60, signed_in)
        waiting = asyncio.ensure_future(anext(pieces))
        for _ in range(4):
            await asyncio.sleep(0)
        gateway.go.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.done():
            await pieces.aclose()
            return gateway.closed
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return gateway.closed

    assert asyncio.run(leave())


def test_what_cannot_be_read_ends_the_call_with_a_word() -> None:
    async def read() -> list[bytes]:
        gateway = Held(AttributeError("no choice"))
        gateway.go.set()
        return [each async for each in relay(gateway, {}, 1000, 60, signed_in)]

    problem, end = asyncio.run(read())
    assert b"cannot be read" in problem and b"event: end" in end
