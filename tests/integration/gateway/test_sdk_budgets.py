"""The `openai` SDK where money ends and connections break: the classes it raises, what it retries, one charge."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import openai
import pytest

from interlock.testing import answers
from interlock.types.budget import Budget
from interlock.types.record import Intent, Outcome, Refusal
from tests.gateway import WorkerHarness, World, source
from tests.integration.gateway.client import WAIT_S, eventually, serving

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
KEY = {"Idempotency-Key": "order-7341"}


def budget(measure: str, amount: int) -> Budget:
    return Budget("bdg_1", "ten_acme", "acme's budget", "tenant", ("ten_acme",), measure, amount)


@contextmanager
def client_of(gateway: WorkerHarness, port: int = 0, retries: int = 3) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{port or gateway.port}/v1"
    with openai.OpenAI(base_url=url, api_key=gateway.key(), max_retries=retries, timeout=WAIT_S) as client:
        yield client


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model="m", messages=MESSAGES, **more)


def within(*budgets: Budget) -> Any:
    return lambda url: World([source("s", url)], budgets=list(budgets))


@pytest.mark.parametrize("stream", [False, True])
def test_a_used_up_budget_is_an_insufficient_quota_that_the_sdk_does_not_retry(stream: bool) -> None:
    with serving(within(budget("calls", 1))) as (gateway, engine), client_of(gateway) as client:
        gateway.purse = {"bdg_1": 1}
        assert ask(client).choices[0].message.content == answers.TEXT
        with pytest.raises(openai.RateLimitError) as raised:
            ask(client, stream=stream)
        error = raised.value
        assert (error.status_code, error.code, error.type) == (429, "budget_exceeded", "insufficient_quota")
        assert "acme's budget" in error.message and int(error.response.headers["retry-after"]) > 0
        eventually(lambda: gateway.records_of(Refusal))
        assert len(gateway.records_of(Refusal)) == 1 and len(engine.calls) == 1


def test_a_call_that_no_period_pays_for_is_not_retried_either() -> None:
    with serving(within(budget("tokens", 5))) as (gateway, engine), client_of(gateway) as client:
        gateway.purse = {"bdg_1": 5}
        with pytest.raises(openai.RateLimitError) as raised:
            ask(client, max_tokens=500)
        assert (raised.value.code, raised.value.type) == ("budget_too_small", "insufficient_quota")
        eventually(lambda: gateway.records_of(Refusal))
        assert len(gateway.records_of(Refusal)) == 1 and not engine.calls


def test_a_share_that_cannot_be_had_now_is_retried() -> None:
    with (
        serving(within(budget("calls", 5)), lease_wait_ms=100) as (gateway, engine),
        client_of(gateway, retries=1) as client,
    ):
        gateway.purse = None
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client)
        assert (raised.value.status_code, raised.value.code) == (503, "budget_unavailable")
        eventually(lambda: len(gateway.records_of(Refusal)) == 2)
        assert not engine.calls


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_gives_the_same_answer_and_one_charge(stream: bool) -> None:
    with serving(within(budget("calls", 5))) as (gateway, engine), client_of(gateway) as client:
        gateway.purse = {"bdg_1": 5}
        engine.script(answers.answer("the first answer"), answers.answer("another answer"))
        texts = [text_of(ask(client, stream=stream, extra_headers=KEY)) for _ in range(2)]
        assert texts == ["the first answer"] * 2 and len(engine.calls) == 1
        assert [sum(outcome.charged) for outcome in gateway.records_of(Outcome)] == [1]
        with pytest.raises(openai.UnprocessableEntityError) as raised:
            ask(client, stream=stream, extra_headers=KEY, temperature=1)
        assert raised.value.code == "idempotency_key_reused"


def test_the_sdks_own_retry_after_a_dropped_connection_is_neither_run_nor_charged_again() -> None:
    with (
        serving(within(budget("calls", 5)), idempotency_wait_ms=4000) as (gateway, engine),
        dropping(gateway.port) as (port, dropped),
        client_of(gateway, port, retries=2) as client,
    ):
        gateway.purse = {"bdg_1": 5}
        engine.script(answers.answer("the first answer", delay_ms=200), answers.answer("another answer"))
        answer = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, extra_headers=KEY)
        assert answer.parse().choices[0].message.content == "the first answer"
        assert dropped.is_set() and answer.headers["x-interlock-replayed"] == "true" and answer.retries_taken == 1
        assert len(engine.calls) == 1 and len(gateway.records_of(Intent)) == 1
        assert [sum(outcome.charged) for outcome in gateway.records_of(Outcome)] == [1]


def text_of(answer: Any) -> str:
    if isinstance(answer, openai.Stream):
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    return str(answer.choices[0].message.content)


@contextmanager
def dropping(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A relay before a gateway that loses its first connection as soon as the request has gone through."""
    dropped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    threading.Thread(target=relay, args=(near,), daemon=True).start()

        def relay(near: socket.socket) -> None:
            with near, socket.create_connection(("127.0.0.1", port)) as far, suppress(OSError):
                if not dropped.is_set():
                    head = b""
                    while b'"messages"' not in head:
                        head += near.recv(65536)
                    far.sendall(head)
                    dropped.set()
                    far.recv(1)  # the answer has begun, and is lost
                    return
                threading.Thread(target=pump, args=(far, near), daemon=True).start()
                pump(near, far)

        def pump(one: socket.socket, other: socket.socket) -> None:
            with suppress(OSError):
                while data := one.recv(65536):
                    other.sendall(data)
                other.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], dropped
