"""Ollama's dialect at the gateway: its own Python client, `curl`, and what a client that is not well-behaved sends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import ollama as client_library
import pytest

from interlock.testing import answers, faults, ollama
from interlock.testing.engine import ScriptedEngine
from interlock.types.budget import Budget
from interlock.types.record import Attempt, Chunk, Intent, Outcome, Refusal
from interlock.types.snapshot import Alias, AliasTarget, PolicyText
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import ask, connected, eventually, read_until, serving
from tests.integration.gateway.test_budgets import overlong
from tests.integration.gateway.test_ollama_source import at_ollama

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Say something."}]}
TOOL: Any = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object"}}}
SMALL_ONLY = PolicyText(
    id="small", cedar='permit(principal, action, resource) when { resource.model == "small" };', words="small only"
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def world(url: str) -> World:
    return World([source("local", url)], policies=[permit_all(features=("use_images",))])


def client_of(gateway: WorkerHarness, key: str | None = None) -> client_library.Client:
    return client_library.Client(gateway.url, headers={"Authorization": f"Bearer {key or gateway.key()}"})


@pytest.fixture
def served() -> Iterator[tuple[client_library.Client, WorkerHarness, ScriptedEngine]]:
    with serving(world) as (gateway, engine), client_of(gateway) as client:
        yield client, gateway, engine


Served = tuple[client_library.Client, WorkerHarness, ScriptedEngine]


def lines(body: bytes) -> list[Any]:
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


def test_a_chat_whole_and_streamed(served: Served) -> None:
    client, gateway, engine = served
    options = {"temperature": 0.5, "num_predict": 40, "stop": ["x"], "num_ctx": 9, "num_gpu": 1, "top_k": 3}
    whole = client.chat(**CHAT, options=options, keep_alive="5m")
    assert whole.message.content == answers.TEXT
    assert (whole.model, whole.done, whole.done_reason) == ("m", True, "stop")
    assert (whole.prompt_eval_count, whole.eval_count) == (5, 10)
    assert whole.total_duration and whole.created_at
    sent = engine.calls[0].json
    assert {name: sent[name] for name in ("temperature", "max_tokens", "stop", "top_k", "stream")} == {
        "temperature": 0.5, "max_tokens": 40, "stop": ["x"], "top_k": 3, "stream": False
    }  # fmt: skip
    assert not sent.keys() & {"options", "keep_alive", "num_ctx", "num_gpu"}

    pieces = list(client.chat(**CHAT, stream=True))
    assert "".join(p.message.content or "" for p in pieces) == answers.TEXT
    assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("stop", 10)
    intents, outcomes = gateway.records_of(Intent), gateway.records_of(Outcome)
    assert {i.dialect for i in intents} == {"ollama"} and [o.state for o in outcomes] == ["completed"] * 2
    assert "".join(c.text for c in gateway.records_of(Chunk)) == answers.TEXT


def test_what_leaves_is_lines_and_streaming_is_the_default(served: Served) -> None:
    _, gateway, engine = served
    answer = ask(gateway, CHAT, "/api/chat")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-interlock-source"] == "local" and answer.headers["x-request-id"]
    found = lines(answer.body)
    assert len(found) > 5 and found[-1]["done"] is True and "message" in found[-1]
    assert engine.calls[0].json["stream_options"] == {"include_usage": True}
    command = ["curl", "-sN", gateway.url + "/api/generate", "-H", f"Authorization: Bearer {gateway.key()}"]
    said = subprocess.run([*command, "-d", '{"model":"m","prompt":"Go on."}'], capture_output=True, check=True).stdout
    assert "".join(line["response"] for line in lines(said)) == answers.TEXT


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_and_their_results(served: Served, streamed: bool) -> None:
    client, _, engine = served
    engine.default = answers.answer(tools=[("switch", {"to": "left"}), ("switch", {"to": "right"})])
    messages: Any = list(CHAT["messages"])
    if streamed:
        pieces = list(client.chat("m", messages, tools=[TOOL], stream=True))
        said = [call for piece in pieces for call in piece.message.tool_calls or ()]
    else:
        said = list(client.chat("m", messages, tools=[TOOL]).message.tool_calls or ())
    assert [(c.function.name, c.function.arguments) for c in said] == [
        ("switch", {"to": "left"}),
        ("switch", {"to": "right"}),
    ]
    messages.append({"role": "assistant", "tool_calls": [c.model_dump() for c in said]})
    messages += [{"role": "tool", "tool_name": "switch", "content": word} for word in ("one", "two")]
    client.chat("m", messages, tools=[TOOL])
    sent = engine.calls[-1].json["messages"]
    ids = [call["id"] for call in sent[1]["tool_calls"]]
    assert len(set(ids)) == 2 and [m["tool_call_id"] for m in sent[2:]] == ids
    assert json.loads(sent[1]["tool_calls"][1]["function"]["arguments"]) == {"to": "right"}


def test_images_formats_and_thoughts(served: Served) -> None:
    client, _, engine = served
    client.chat("m", [{"role": "user", "content": "What is it?", "images": [PIXEL]}], format={"type": "object"})
    parts = engine.calls[0].json["messages"][0]["content"]
    assert parts[1]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert engine.calls[0].json["response_format"]["json_schema"]["schema"] == {"type": "object"}
    client.generate("m", "Go on.", system="Be brief.", format="json", think="low")
    sent = engine.calls[1].json
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go on."}]
    assert (sent["response_format"], sent["reasoning_effort"]) == ({"type": "json_object"}, "low")


def test_images_are_a_policy_action_here_too() -> None:
    with serving() as (gateway, engine):
        body = {"model": "m", "messages": [{"role": "user", "content": "", "images": [PIXEL]}]}
        answer = ask(gateway, body, "/api/chat")
        assert answer.status == 403 and set(answer.json) == {"error"}
        assert not engine.calls and gateway.records_of(Refusal)[0].dialect == "ollama"


def test_raw_prompts_are_completions(served: Served) -> None:
    client, gateway, engine = served
    assert client.generate("m", "Once", raw=True).response == answers.TEXT
    assert "".join(p.response for p in client.generate("m", "Once", raw=True, stream=True)) == answers.TEXT
    client.generate("m", "def f():", suffix="return 1")
    assert [call.path for call in engine.calls] == ["/v1/completions"] * 3
    assert engine.calls[2].json["suffix"] == "return 1"
    assert {i.features.operation for i in gateway.records_of(Intent)} == {"completions"}


def test_embeddings_new_and_old(served: Served) -> None:
    client, gateway, _ = served
    new = client.embed("m", ["one", "two"])
    assert len(new.embeddings) == 2 and new.prompt_eval_count == 2
    assert client.embeddings("m", "one").embedding == new.embeddings[0]
    assert gateway.records_of(Outcome)[0].usage.prompt_tokens == 2


def test_an_ollama_client_before_an_ollama_server() -> None:
    engine = ScriptedEngine(kind="ollama", models=("m",), default=ollama.answer("It works.", thinking="Hm."))
    with serving(lambda url: World([at_ollama("local", url)]), engine) as (gateway, _), client_of(gateway) as client:
        whole = client.chat(**CHAT, think=True, options={"num_ctx": 2048, "min_p": 0.1})
        assert (whole.message.content, whole.message.thinking) == ("It works.", "Hm.")
        pieces = list(client.chat(**CHAT, think="high", stream=True))
        assert "".join(p.message.thinking or "" for p in pieces) == "Hm."
        first, second = (call.json for call in engine.calls)
        assert (first["think"], second["think"]) == (True, "high")
        assert (first["options"]["num_ctx"], first["options"]["min_p"]) == (2048, 0.1)


def test_errors_are_ollamas(served: Served) -> None:
    client, gateway, engine = served
    with pytest.raises(client_library.ResponseError) as missing:
        client.chat("nothing", CHAT["messages"])
    assert missing.value.status_code == 404 and "nothing" in missing.value.error
    stranger = ask(gateway, CHAT, "/api/chat", key="il_test_no")
    assert stranger.status == 401 and set(stranger.json) == {"error"}
    for body, words in (
        (b"{", "not valid JSON"),
        (b"[]", "Expected"),
        (b'{"model":"m","tools":[{"a":' + b"[" * 100_000, "not valid JSON"),
        ({"model": "m", "messages": []}, "governed"),
        ({"model": "m", "messages": [{"role": "user", "content": 3}]}, "Expected"),
        ({**CHAT, "format": "yaml"}, "format"),
        ({**CHAT, "options": {"num_predict": "many"}}, "options"),
        ({**CHAT, "options": {"seed": "x"}}, "seed"),
    ):
        answer = ask(gateway, body, "/api/chat")
        assert answer.status == 400 and words in answer.json["error"], answer
    for extra in ({"template": "{{ .Prompt }}"}, {"context": [1]}, {"raw": True, "system": "x"}, {"prompt": ""}):
        assert ask(gateway, {"model": "m", "prompt": "x", **extra}, "/api/generate").status == 400
    assert not engine.calls
    engine.script(faults.dies_mid_stream(), answers.error(429, retry_after="2"))
    with pytest.raises(client_library.ResponseError) as broken:
        list(client.chat(**CHAT, stream=True))
    assert "local" in broken.value.error
    limited = ask(gateway, CHAT, "/api/chat")
    assert limited.status == 429 and limited.headers["retry-after"] == "2" and set(limited.json) == {"error"}
    assert ask(gateway, None, "/api/chat", method="GET").status == 405


def test_a_silent_source_gets_no_line_and_its_error_a_status() -> None:
    with serving(world, keepalive_comment_ms=100, first_event_timeout_ms=600) as (gateway, engine):
        engine.default = answers.answer(delay_ms=5_000)
        answer = ask(gateway, CHAT, "/api/chat")
        assert answer.status == 504 and set(answer.json) == {"error"}
        engine.default = answers.answer(delay_ms=400)
        assert lines(ask(gateway, CHAT, "/api/chat").body)[-1]["done"] is True


def test_models_of_the_caller_and_what_they_can_do() -> None:
    def both(url: str) -> World:
        small = model("small", abilities=("chat", "tools"), context_length=2048, version="ab" * 32)
        return World(
            [source("local", url, small, model("secret"))],
            people=[Who(), Who("eve", tenant="other", team="")],
            policies=[SMALL_ONLY],
            aliases=[Alias(name="fast", targets=(AliasTarget("small"),))],
        )

    with serving(both) as (gateway, _), client_of(gateway) as client:
        assert [m.model for m in client.list().models] == ["fast", "small"]
        assert client.list().models[1].digest == "ab" * 32
        shown = client.show("small")
        assert shown.capabilities == ["completion", "tools"]
        assert shown.modelinfo == {"general.architecture": "interlock", "interlock.context_length": 2048}
        assert [m.model for m in client.ps().models] == ["fast", "small"]
        for name in ("secret", "nothing"):
            with pytest.raises(client_library.ResponseError) as unknown:
                client.show(name)
            assert unknown.value.status_code == 404
        assert ask(gateway, None, "/api/version", method="GET").json["version"]
        for path in ("/api/tags", "/api/ps", "/api/version"):
            assert ask(gateway, None, path, key="", method="GET").status == 401
        assert ask(gateway, None, "/api/tags").status == 405
        assert ask(gateway, b"3", "/api/show").status == 400
        assert ask(gateway, None, "/api/none", method="GET").json == {"error": "There is no /api/none here."}


def test_models_are_not_managed_here(served: Served) -> None:
    client, gateway, engine = served
    for act in (lambda: client.pull("m"), lambda: client.delete("m"), lambda: client.copy("m", "n")):
        with pytest.raises(client_library.ResponseError) as refused:
            act()
        assert refused.value.status_code == 403 and "governed" in refused.value.error
    assert ask(gateway, None, "/api/blobs/sha256:00", method="POST").status == 403
    assert not engine.requests or all(r.path.startswith("/v1") for r in engine.requests)


def test_what_ollama_has_loaded_is_what_runs() -> None:
    with (
        ScriptedEngine(kind="ollama", models=("m",)).in_thread() as engine,
        WorkerHarness(World([at_ollama("local", engine.base_url)])) as gateway,
        client_of(gateway) as client,
    ):
        row = gateway.board.row("src_local")
        for loaded, names in ((0, []), ((1 << 60) - 1, ["m"]), (-1, [])):
            gateway.board.publish(
                row, waiting=-1, running=-1, kv_permille=-1, healthy=True, saturated=False,
                read_at_ns=gateway.worker.runtime.clock.mono_ns(), loaded=loaded,
            )  # fmt: skip
            assert [m.model for m in client.ps().models] == names


def test_budgets_and_idempotency_hold(served: Served) -> None:
    _, gateway, engine = served
    first = ask(gateway, CHAT, "/api/chat", idempotency_key="k1")
    again = ask(gateway, CHAT, "/api/chat", idempotency_key="k1")
    assert again.body == first.body and again.headers["x-interlock-replayed"] == "true"
    assert again.headers["content-type"] == "application/x-ndjson" and len(engine.calls) == 1
    assert ask(gateway, CHAT, idempotency_key="k1").status == 422, "the same body in another dialect is another request"
    assert len(gateway.records_of(Attempt)) == 1


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_an_engine_that_says_more_than_it_was_told_is_cut_at_the_bound(kind: str) -> None:
    def bounded(url: str) -> World:
        budget = Budget("bud_1", "ten_acme", "one", "principal", ("prn_acme_alice",), "tokens", 10**6)
        return World([at_ollama("local", url) if kind == "ollama" else source("local", url)], budgets=[budget])

    default = ollama.answer(" ".join(["word"] * 60)) if kind == "ollama" else overlong(60)
    with serving(bounded, ScriptedEngine(kind=kind, models=("m",), default=default)) as (gateway, _):
        gateway.purse = {"bud_1": 10**6}
        found = lines(ask(gateway, {**CHAT, "options": {"num_predict": 5}}, "/api/chat").body)
        assert (found[-1]["done"], found[-1]["done_reason"]) == (True, "length")
        assert len(found) <= 5 + 8 + 1 and "eval_count" not in found[-1]
        outcome = gateway.records_of(Outcome)[0]
        assert (outcome.state, outcome.finish_reasons, outcome.usage.origin) == ("completed", ("length",), "reserved")


def test_a_caller_that_goes_away_stops_the_server() -> None:
    engine = ScriptedEngine(kind="ollama", models=("m",), default=ollama.answer("a b c d e f", between_ms=300))
    with serving(lambda url: World([at_ollama("local", url)]), engine) as (gateway, _):
        with connected(gateway) as sock:
            body = json.dumps(CHAT).encode()
            head = f"POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key()}\r\n"
            sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            read_until(sock, b'"content":"a"')
        eventually(lambda: [o.state for o in gateway.records_of(Outcome)] == ["disconnected"])
        eventually(lambda: engine.calls[0].ended == "gone")


def test_lines_leave_under_uvicorn_too() -> None:
    with serving(world, gateway_server="uvicorn") as (gateway, _), client_of(gateway) as client:
        pieces = list(client.chat(**CHAT, stream=True))
        assert "".join(p.message.content or "" for p in pieces) == answers.TEXT and pieces[-1].done
        assert ask(gateway, CHAT, "/api/chat").headers["content-type"] == "application/x-ndjson"


def test_a_budget_refuses_in_ollamas_words() -> None:
    def poor(url: str) -> World:
        budget = Budget("bud_1", "ten_acme", "one", "principal", ("prn_acme_alice",), "calls", 1)
        return World([source("local", url)], budgets=[budget])

    with serving(poor) as (gateway, engine):
        gateway.purse = {"bud_1": 1}
        assert ask(gateway, CHAT, "/api/chat").status == 200
        spent = ask(gateway, CHAT, "/api/chat")
        assert spent.status == 429 and set(spent.json) == {"error"} and len(engine.calls) == 1
