"""The Responses dialect at a whole worker: what sources are asked, callers get, and whose conversation is whose."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import openai
import pytest
from pydantic import BaseModel

from interlock.gateway.link import StateKept
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import STREAM_HEAD, Received, Script, Step, chunk, http
from interlock.types.identity import DataClass, Recording, Retention
from interlock.types.record import Intent, Outcome, Refusal
from tests.gateway import ABILITIES, Who, WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import WAIT_S, Answer, ask, eventually, raw_request, serving

PATH = "/v1/responses"
MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say something."}]}


def respond(
    gateway: WorkerHarness, key: str | None = None, headers: dict[str, str] | None = None, **body: Any
) -> Answer:
    return ask(gateway, {"model": "m", "input": "Say something.", **body}, PATH, key, **(headers or {}))


def stored(
    gateway: WorkerHarness, response_id: str, key: str | None = None, method: str = "GET", **headers: str
) -> Answer:
    return ask(gateway, None, f"{PATH}/{response_id}", key, method, **headers)


def client(gateway: WorkerHarness, who: str = "alice", **given: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(who), max_retries=0, **given)


def people(*more: Who) -> Callable[[str], World]:
    return lambda url: World([source("local", url)], [Who(), *more])


def events(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.body.decode().split("\n") if line.startswith("data: ")]


def messages(engine: ScriptedEngine, call: int = -1) -> Any:
    return engine.calls[call].json["messages"]


def test_a_response_is_a_chat_at_its_source_and_recorded_as_what_it_was() -> None:
    with serving() as (gateway, engine):
        engine.script(answers.answer("It is.", cached_tokens=2))
        answer = respond(gateway, instructions="Be brief.", max_output_tokens=9, metadata={"a": "b"}, temperature=0.5)
        assert answer.status == 200, answer.body
        made = answer.json
        request_id = answer.headers["x-interlock-request-id"]
        assert made["id"].startswith("resp_" + request_id.removeprefix("req_") + "_") and len(made["id"]) <= 64
        assert (made["object"], made["status"], made["model"], made["store"]) == ("response", "completed", "m", True)
        assert made["metadata"] == {"a": "b"} and made["temperature"] == 0.5 and made["tools"] == []
        (item,) = made["output"]
        assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
        assert item["content"] == [{"type": "output_text", "annotations": [], "logprobs": [], "text": "It is."}]
        assert made["usage"]["input_tokens_details"]["cached_tokens"] == 2
        sent = engine.calls[0].json
        assert engine.calls[0].path == "/v1/chat/completions"
        assert sent["messages"][0] == {"role": "system", "content": "Be brief."} and sent["max_completion_tokens"] == 9
        assert not {"metadata", "store", "input", "instructions", "previous_response_id"} & set(sent)
        (intent,) = gateway.records_of(Intent)
        assert (intent.dialect, intent.features.operation, intent.features.actions) == ("responses", "chat", ())
        assert json.loads(intent.body)["input"] == "Say something."
        (outcome,) = gateway.records_of(Outcome)
        assert json.loads(outcome.body)["choices"][0]["message"]["content"] == "It is."


def test_a_stream_ends_when_it_is_stored() -> None:
    with serving() as (gateway, engine):
        engine.script(answers.answer("one two three"))
        found = events(respond(gateway, stream=True))
        kinds = [event["type"] for event in found]
        assert kinds == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        last = found[-1]["response"]
        assert last["store"] is True and last["usage"]["output_tokens"] == 3
        assert stored(gateway, last["id"]).json == last, "what was said last is what is kept"


def test_a_conversation_goes_on_and_costs_each_turn_once() -> None:
    with serving() as (gateway, engine):
        previous = None
        sizes = []
        for turn in range(6):
            engine.script(answers.answer(f"answer {turn}"))
            said = f"question {turn} " + "".join(random.Random(turn).choices("abcdefghij", k=900))
            answer = respond(gateway, input=said, previous_response_id=previous, instructions=f"i{turn}")
            assert answer.status == 200, answer.body
            previous = answer.json["id"]
            assert answer.json["previous_response_id"] == (None if not turn else answer.json["previous_response_id"])
            sizes.append(len(gateway.states.rows["ten_acme", "prn_acme_alice", previous].sealed))
        assert max(sizes) < 1.2 * min(sizes), "a turn holds what it added, not what was before"
        sent = messages(engine)
        assert [m["role"] for m in sent] == ["system", *["user", "assistant"] * 5, "user"]
        assert sent[0]["content"] == "i5", "instructions are of one turn"
        assert [m["content"] for m in sent[2::2]] == [f"answer {n}" for n in range(5)]
        intent = gateway.records_of(Intent)[-1]
        recorded = json.loads(intent.body)["input"]
        assert len(recorded) == 11 and recorded[1]["content"][0]["text"] == "answer 0"
        assert intent.features.prompt_bytes > 5 * 900


def test_a_tool_loop_with_the_sdk() -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
    with serving() as (gateway, engine), client(gateway) as sdk:
        two = answers.answer(tools=[("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})])
        engine.script(two, answers.answer("It rains."), answers.answer(), two)
        first = sdk.responses.create(model="m", input="Where does it rain?", tools=tools)
        calls = [item for item in first.output if item.type == "function_call"]
        assert [json.loads(c.arguments)["city"] for c in calls] == ["Rome", "Oslo"] and first.tools[
            0
        ].type == "function"
        outputs: Any = [{"type": "function_call_output", "call_id": c.call_id, "output": "rain"} for c in calls]
        with pytest.raises(openai.BadRequestError, match="No tool output found"):
            sdk.responses.create(model="m", input="So?", previous_response_id=first.id, tools=tools)
        second = sdk.responses.create(model="m", input=outputs, previous_response_id=first.id, tools=tools)
        assert second.output_text == "It rains."
        sent = messages(engine)
        assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool"] and len(sent[1]["tool_calls"]) == 2
        by_hand: Any = [{"role": "user", "content": "Where?"}, *first.output, *outputs]
        sdk.responses.create(model="m", input=by_hand, tools=tools, store=False)
        assert messages(engine)[1:] == sent[1:], "items that were given may be sent again"
        with sdk.responses.stream(model="m", input="Where?", tools=tools) as stream:
            deltas = "".join(e.delta for e in stream if e.type == "response.function_call_arguments.delta")
            final = stream.get_final_response()
        assert deltas == "".join(c.arguments for c in final.output if c.type == "function_call") != ""


def test_structured_output_and_images_with_the_sdk() -> None:
    class City(BaseModel):
        name: str

    def world(url: str) -> World:
        return World([source("local", url)], policies=[permit_all(features=("use_images",))])

    shown: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]
    with serving(world) as (gateway, engine), client(gateway) as sdk:
        engine.script(answers.answer('{"name": "Rome"}'), answers.answer('{"name": "Oslo"}'))
        parsed = sdk.responses.parse(model="m", input="Which?", text_format=City).output_parsed
        assert parsed == City(name="Rome")
        assert engine.calls[-1].json["response_format"]["json_schema"]["strict"] is True
        with sdk.responses.stream(model="m", input="Which?", text_format=City) as stream:
            assert stream.get_final_response().output_parsed == City(name="Oslo")
        assert sdk.responses.create(model="m", input=shown).status == "completed"
        assert messages(engine)[0]["content"][0]["image_url"] == {"url": "data:image/png;base64,AAAA"}
    with serving() as (gateway, engine), client(gateway) as sdk:
        with pytest.raises(openai.PermissionDeniedError):
            sdk.responses.create(model="m", input=shown)
        assert not engine.calls


def test_stored_responses_are_read_listed_and_deleted_with_the_sdk() -> None:
    with serving() as (gateway, _), client(gateway) as sdk:
        first = sdk.responses.create(model="m", input=[{"role": "user", "content": f"part {n}"} for n in range(5)])
        assert sdk.responses.retrieve(first.id) == first
        page = sdk.responses.input_items.list(first.id, limit=2, order="asc")
        assert [item.content[0].text for item in page] == [f"part {n}" for n in range(5)], "it pages"  # type: ignore[union-attr]
        assert next(i.content[0].text for i in sdk.responses.input_items.list(first.id).data) == "part 4"  # type: ignore[union-attr]
        second = sdk.responses.create(model="m", input="and?", previous_response_id=first.id)
        sdk.responses.delete(first.id)
        for gone in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                gone(first.id)
        with pytest.raises(openai.NotFoundError, match="was deleted, or has expired"):
            sdk.responses.create(model="m", input="and?", previous_response_id=second.id)
        assert sdk.responses.retrieve(second.id).output_text


def test_what_is_stored_is_sealed_and_nothing_is_when_it_is_not_wanted() -> None:
    with serving() as (gateway, engine):
        engine.script(answers.answer("the answer nobody else sees"))
        respond(gateway, input="the question nobody else sees")
        (row,) = gateway.states.rows.values()
        assert b"nobody" not in row.sealed and all(b"nobody" not in key for _, key in gateway.states.keys.values())
        off = respond(gateway, store=False)
        assert off.json["store"] is False and len(gateway.states.rows) == 1
        assert stored(gateway, off.json["id"]).status == 404
    with serving(responses_store_default=0) as (gateway, _):
        assert respond(gateway).json["store"] is False and not gateway.told_of(StateKept)
        assert respond(gateway, store=True).json["store"] is True
    with serving(responses_keep_days=0) as (gateway, _):
        assert respond(gateway).json["store"] is False
        assert respond(gateway, store=True).error["code"] == "store_off"
    with serving(responses_bytes_max=10) as (gateway, _):
        assert respond(gateway, store=True).json["store"] is False, "it says so when it is too large"


def test_nobody_else_reads_goes_on_with_or_deletes_a_response() -> None:
    others = [Who("bob"), Who("alice", tenant="globex"), Who("app", scopes=("infer", "assert-user"))]
    with serving(people(*others)) as (gateway, engine):
        engine.script(answers.answer("alice's secret"))
        mine = respond(gateway).json["id"]
        calls = len(engine.calls)
        globex = next(w.key for w in gateway.world.people if w.tenant == "globex")
        for key in (gateway.key("bob"), globex, gateway.key("app")):
            for answer in (
                stored(gateway, mine, key),
                stored(gateway, f"{mine}/input_items", key),
                stored(gateway, mine, key, "DELETE"),
                respond(gateway, key, previous_response_id=mine),
                respond(gateway, key, previous_response_id=mine, store=False),
                respond(gateway, key, previous_response_id=mine, stream=True),
            ):
                assert answer.status == 404 and b"secret" not in answer.body, answer.body
        assert len(engine.calls) == calls and stored(gateway, mine).status == 200
        # who acts for alice has alice's responses, and what it makes for her is hers
        acting = {"x_interlock_assert_user": "alice"}
        app = gateway.key("app")
        assert stored(gateway, mine, app, **acting).status == 200
        hers = respond(gateway, app, acting, previous_response_id=mine)
        assert hers.status == 200 and stored(gateway, hers.json["id"], app).status == 404
        assert stored(gateway, hers.json["id"]).json == hers.json
        assert (
            stored(gateway, mine, "").status == 401
            and stored(gateway, mine, app, x_interlock_assert_user="no").status == 403
        )


def test_sealed_responses_do_not_open_in_another_place() -> None:
    """Whoever can write the database cannot give one person's response to another, nor put it into another chain."""
    with serving(people(Who("bob"))) as (gateway, _):
        a, b = respond(gateway).json["id"], respond(gateway).json["id"]
        bobs = respond(gateway, gateway.key("bob")).json["id"]
        rows, owner, bob = gateway.states.rows, ("ten_acme", "prn_acme_alice"), ("ten_acme", "prn_acme_bob")
        moved = rows[(*owner, a)]
        rows[(*bob, bobs)] = msgspec.structs.replace(rows[(*bob, bobs)], sealed=moved.sealed)
        assert stored(gateway, bobs, gateway.key("bob")).status == 503
        gateway.states.keys[bob] = gateway.states.keys[owner]
        assert stored(gateway, bobs, gateway.key("bob")).status == 503, "nor with its key"
        rows[(*owner, b)] = msgspec.structs.replace(rows[(*owner, b)], previous=a)
        assert respond(gateway, previous_response_id=b).error["code"] == "responses_unavailable"


def test_a_conversation_keeps_the_highest_class_that_it_had() -> None:
    def world(url: str) -> World:
        near = source("near", url)
        return World([near], [Who(data_class=DataClass.public)])

    with serving(world) as (gateway, _):
        first = respond(gateway, headers={"x_interlock_data_class": "restricted"}).json["id"]
        second = respond(gateway, previous_response_id=first).json["id"]
        third = respond(gateway, previous_response_id=second, interlock={"data_class": "internal"})
        assert third.status == 200
        assert respond(gateway, previous_response_id=first, interlock={"data_class": "odd"}).status == 400
        classes = [intent.features.data_class for intent in gateway.records_of(Intent)]
        assert classes == [DataClass.restricted] * 3
        assert respond(gateway).status == 200 and gateway.records_of(Intent)[-1].features.data_class == DataClass.public


def test_what_is_not_recorded_is_not_stored() -> None:
    for who in (Who(recording=Recording.metadata), Who(tenant_recording=Recording.prompt_only)):
        with serving(lambda url, who=who: World([source("s", url)], [who])) as (gateway, engine):
            assert respond(gateway).json["store"] is False and not gateway.told_of(StateKept)
            refused = respond(gateway, store=True)
            assert (refused.status, refused.error["code"]) == (400, "store_not_recorded") and len(engine.calls) == 1
    with serving() as (gateway, _):
        first = respond(gateway).json["id"]
        asked = respond(gateway, previous_response_id=first, interlock={"recording": "metadata"})
        assert asked.status == 200 and asked.json["store"] is False
        assert gateway.records_of(Intent)[-1].body == b""


def test_a_tenant_that_keeps_contents_for_less_keeps_responses_for_less() -> None:
    class Kept(World):
        def parts(self, version: int) -> Any:
            import tests.gateway as module

            real = module.Tenant
            module.Tenant = lambda **f: real(**f, retention=Retention(90, {"restricted": 2}))  # type: ignore[misc, assignment]
            try:
                return super().parts(version)
            finally:
                module.Tenant = real  # type: ignore[misc]

    with serving(lambda url: Kept([source("s", url)])) as (gateway, _):
        respond(gateway)
        respond(gateway, interlock={"data_class": "restricted"})
        assert [kept.keep_s for kept in gateway.told_of(StateKept)] == [30 * 86_400, 2 * 86_400]


def test_while_nobody_answers_for_stored_responses() -> None:
    with serving(responses_wait_ms=200) as (gateway, engine):
        first = respond(gateway).json["id"]
        gateway.states_answered = False
        unasked = respond(gateway)
        assert unasked.status == 200 and unasked.json["store"] is False, "it goes on, and says that it is not stored"
        for answer in (
            respond(gateway, store=True),
            respond(gateway, previous_response_id=first),
            stored(gateway, first),
        ):
            assert (answer.status, answer.error["code"]) == (503, "responses_unavailable")
        assert len(engine.calls) == 2 and respond(gateway, store=False).status == 200
        gateway.states_answered = True
        assert respond(gateway, previous_response_id=first).status == 200
        assert not gateway.worker.states.waiting and not gateway.call(lambda: gateway.worker.runtime.waiting)  # type: ignore[union-attr]


def test_one_person_cannot_take_all_the_room_of_the_others() -> None:
    with serving(people(Who("bob")), responses_waiting_own_max=3, responses_wait_ms=1500) as (gateway, _):
        gateway.states_answered = False
        waiting = [threading.Thread(target=respond, args=(gateway,)) for _ in range(3)]
        for thread in waiting:
            thread.start()
        eventually(lambda: gateway.worker.states.waiting == 3)
        assert respond(gateway, store=True).status == stored(gateway, "resp_x").status == 429
        assert respond(gateway, store=False).status == 200
        assert respond(gateway).json["store"] is False, "what does not say goes on"
        gateway.states_answered = True
        assert respond(gateway, gateway.key("bob")).json["store"] is True
        for thread in waiting:
            thread.join(2 * WAIT_S)
        assert gateway.worker.states.waiting == 0 and respond(gateway).json["store"] is True


def test_failures_are_told_in_the_responses_own_events() -> None:
    with serving() as (gateway, engine):
        engine.script(faults.dies_mid_stream(3))
        answer = respond(gateway, stream=True)
        found = events(answer)
        assert found[-1]["type"] == "response.failed" and answer.body.endswith(b"<cut>")
        failed = found[-1]["response"]
        assert failed["status"] == "failed" and failed["error"]["code"] == "server_error"
        assert [e["sequence_number"] for e in found] == list(range(len(found)))
        assert stored(gateway, failed["id"]).status == 404
        engine.script(answers.error(400, message="too odd"))
        refused = respond(gateway)
        assert (refused.status, refused.error["code"]) == (400, "upstream_refused")
        assert respond(gateway, input=[]).error["param"] == "input"
        assert respond(gateway, tools=[{"type": "file_search"}]).error["code"] == "unsupported_tool"
        assert ask(gateway, b"{", PATH).error["code"] == "invalid_json"
        assert ask(gateway, b'{"model": "m"' + b' ,"input": ' + b"[" * 200 + b"]" * 200 + b"}", PATH).status == 400
        assert ask(gateway, None, PATH, method="GET").status == 405
        assert [r.dialect for r in gateway.records_of(Refusal)].count("responses") >= 3
        assert stored(gateway, "x/cancel", method="POST").error["code"] == "not_cancellable"
        assert stored(gateway, "input_tokens", method="POST").status == 501
        assert respond(gateway, previous_response_id="resp_\0").error["code"] == "previous_response_not_found"
        assert respond(gateway, previous_response_id="x" * 300).status == 404
        assert stored(gateway, "x" * 300).status == stored(gateway, "%C3%A4").status == 404
        assert stored(gateway, "x/input_items?limit=1000").status == stored(gateway, "x?stream=true").status == 400


def test_an_idempotency_key_gives_the_same_response_again() -> None:
    with serving() as (gateway, engine):
        first = respond(gateway).json["id"]
        for stream in (False, True):
            key = {"idempotency_key": f"k-{stream}"}
            one = respond(gateway, headers=key, stream=stream, previous_response_id=first)
            two = respond(gateway, headers=key, stream=stream, previous_response_id=first)
            assert one.status == 200 and one.body == two.body and two.headers["x-interlock-replayed"] == "true"
        assert len(engine.calls) == 3


def test_a_caller_that_goes_away_is_not_stored() -> None:
    with serving() as (gateway, engine):
        import socket

        engine.script(answers.answer("one two three", between_ms=100))
        body = {"model": "m", "input": "x", "stream": True}
        data = raw_request(gateway, body).replace(b"/v1/chat/completions", PATH.encode())
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(data)
            assert b"response.created" in sock.recv(65536) + sock.recv(65536)
        eventually(lambda: gateway.records_of(Outcome))
        assert gateway.records_of(Outcome)[0].state == "disconnected" and not gateway.states.rows


def test_many_peoples_conversations_at_once_stay_apart() -> None:
    crowd = [Who(f"p{n}", tenant="acme" if n % 2 else "globex") for n in range(12)]
    wrong: list[str] = []

    def talk(gateway: WorkerHarness, n: int) -> None:
        with client(gateway, f"p{n}") as sdk:
            previous: Any = None
            for turn in range(4):
                made = sdk.responses.create(model="m", input=f"p{n} says {turn}", previous_response_id=previous)
                previous = made.id
                if made.output_text != f"p{n} says {turn}":
                    wrong.append(made.output_text)

    with serving(people(*crowd)) as (gateway, engine):
        engine.default = answers.echo()
        threads = [threading.Thread(target=talk, args=(gateway, n)) for n in range(len(crowd))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong and len(gateway.states.rows) == 4 * len(crowd)
        for call in engine.calls:
            said = {m["content"].split()[0] for m in call.json["messages"]}
            assert len(said) == 1, "one person's words only"
        longest = [call for call in engine.calls if len(call.json["messages"]) == 7]
        assert len(longest) == len(crowd)


# -- sources that have the dialect themselves

ABLE = (*ABILITIES, "responses")
REASONING = {"type": "reasoning", "id": "rs_up", "summary": [{"type": "summary_text", "text": "thought"}]}
CALLED = {"type": "function_call", "id": "fc_up", "call_id": "call_up", "name": "f", "arguments": '{"a":1}'}
SPOKEN = {
    "type": "message",
    "id": "msg_up",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "It is.", "annotations": [], "logprobs": []}],
}
USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 12,
}


def upstream(*output: dict[str, Any], status: str = "completed", **more: Any) -> Script:
    """A source's answer in the form of OpenAI's reference, whole or streamed as the request says."""

    def script(received: Received) -> Iterator[Step]:
        made = {"id": "resp_up", "object": "response", "status": status, "model": "up-1", "output": list(output)}
        made |= {"usage": USAGE, **more}
        if not received.json.get("stream"):
            yield http(200, json.dumps(made).encode())
            return
        yield STREAM_HEAD
        for number, event in enumerate(_stream_of(made)):
            data = json.dumps({**event, "sequence_number": number})
            yield chunk(f"event: {event['type']}\ndata: {data}\n\n".encode())
        yield chunk(b"")

    return script


def _stream_of(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**made, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(made["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        bare = {k: [] if k in ("content", "summary") else v for k, v in item.items() if k != "encrypted_content"}
        yield {"type": "response.output_item.added", "output_index": index, "item": {**bare, "arguments": ""}}
        for part in item.get("content", ()):
            for piece in part["text"].split(" "):
                yield {"type": "response.output_text.delta", **place, "content_index": 0, "delta": piece + " "}
        if "arguments" in item:
            for piece in item["arguments"]:
                yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{made['status']}", "response": made}


def able(url: str) -> World:
    return World([source("up", url, model(abilities=ABLE)), source("other", url, model("o", abilities=ABLE))])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_source_that_has_the_dialect_is_asked_in_it_and_reads_its_own_reasoning_again(stream: bool) -> None:
    tools: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    asked: Any = {"tools": tools, "include": ["reasoning.encrypted_content"], "stream": stream, "metadata": {"a": "b"}}
    asked |= {"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, "max_output_tokens": 50, "user": "u"}
    sealed = {**REASONING, "encrypted_content": "blob:1"}
    with serving(able) as (gateway, engine):
        engine.script(upstream(sealed, CALLED), upstream(SPOKEN), upstream(SPOKEN))
        first = _whole(respond(gateway, **asked))
        sent = engine.calls[0]
        assert sent.path == "/v1/responses" and sent.json["store"] is False and sent.json["model"] == "m"
        assert not {"metadata", "previous_response_id", "interlock"} & set(sent.json)
        assert sent.json["input"] == [{"type": "message", "role": "user", "content": MESSAGE["content"]}]
        assert (sent.json["max_output_tokens"], sent.json["user"]) == (50, "u")
        assert sent.json["tools"] == [{**tools[0], "strict": None}] and sent.json["reasoning"] == {"effort": "low"}
        reasoning, call = first["output"]
        assert reasoning["encrypted_content"] == "il1:src_up:rs_up:blob:1"
        assert reasoning["summary"] == REASONING["summary"] and call["call_id"] == "call_up"
        assert (call["arguments"], first["id"][:5], first["model"]) == (CALLED["arguments"], "resp_", "up-1")
        assert first["usage"] == {**USAGE, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}}
        output = [{"type": "function_call_output", "call_id": "call_up", "output": "done"}]
        second = _whole(respond(gateway, **asked | {"previous_response_id": first["id"], "input": output}))
        assert second["output"][0]["content"][0]["text"].strip() == "It is."
        goes_up = engine.calls[1].json["input"]
        assert [item["type"] for item in goes_up] == ["message", "reasoning", "function_call", "function_call_output"]
        back = goes_up[1]
        assert (back["id"], back["encrypted_content"], back["summary"]) == ("rs_up", "blob:1", REASONING["summary"])
        # what one source encrypted is nothing for another
        more = {"previous_response_id": second["id"], "input": "and?", "model": "o"}
        assert respond(gateway, **more).status == 200 and engine.calls[2].path == "/v1/responses"
        assert b"blob" not in engine.calls[2].body and b"encrypted" not in engine.calls[2].body
        recorded = [json.loads(i.body)["input"] for i in gateway.records_of(Intent)]
        assert len(recorded[1]) == 4 and gateway.records_of(Outcome)[0].usage.cached_tokens == 2


def _whole(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    if answer.headers["content-type"].startswith("application/json"):
        made: dict[str, Any] = answer.json
        return made
    found = events(answer)
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    last: dict[str, Any] = found[-1]["response"]
    return last


def test_what_such_a_source_fails_with_or_adds_is_told_as_ever() -> None:
    odd = {"type": "web_search_call", "id": "ws_1", "content": []}
    failed = upstream(status="failed", error={"code": "server_error", "message": "GPU on fire"})
    cut = upstream(SPOKEN, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    with serving(able) as (gateway, engine):
        for stream in (False, True):
            engine.script(cut, failed, upstream(odd), answers.error(400, message="not like this"))
            incomplete = _whole(respond(gateway, stream=stream))
            assert incomplete["incomplete_details"] == {"reason": "max_output_tokens"}
            assert incomplete["output"][0]["status"] == "incomplete"
            burnt = respond(gateway, stream=stream)
            assert burnt.status == 502 and "GPU on fire" in burnt.error["message"], burnt.body
            assert respond(gateway, stream=stream).error["code"] == "upstream_malformed"
            assert respond(gateway, stream=stream).error["code"] == "upstream_refused"


def test_fields_of_engines_follow_the_sources_rule_there_too() -> None:
    for rule, status in (("pass", 200), ("drop", 200), ("refuse", 400)):

        def world(url: str, rule: str = rule) -> World:
            return World([source("up", url, model(abilities=ABLE), extra_fields=rule)])

        with serving(world) as (gateway, engine):
            engine.script(upstream(SPOKEN))
            answer = respond(gateway, odd_knob=1, seed=3)
            assert answer.status == status, answer.body
            assert [("odd_knob" in call.json, call.json["seed"]) for call in engine.calls] == (
                [(rule == "pass", 3)] if status == 200 else []
            )
