"""Stored responses over two nodes and a database: a conversation begun at one node goes on at the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.postgres import owned_home
from tests.prove.ledger import NODES, Stack, database, set_up


@pytest.fixture(scope="module")
def stack() -> Iterator[tuple[Stack, str]]:
    with owned_home() as home, database(home) as server:
        made = Stack(home.parent, server, INTERLOCK_RESPONSES_WAIT_MS="60000")
        try:
            key, _ = set_up(made)
            yield made, key
        finally:
            made.stop()


def client(stack: tuple[Stack, str], node: str, key: str = "") -> openai.OpenAI:
    url = f"http://127.0.0.1:{stack[0].ports[node]}/v1"
    return openai.OpenAI(base_url=url, api_key=key or stack[1], max_retries=0)


def following(made: Any, text: str) -> Any:
    """What a caller says next: this engine sometimes calls a function that nobody offered."""
    calls = [item.call_id for item in made.output if item.type == "function_call"] if made is not None else []
    outputs = [{"type": "function_call_output", "call_id": call, "output": "done"} for call in calls]
    return [*outputs, {"role": "user", "content": text}]


def test_a_conversation_goes_on_at_the_other_node(stack: tuple[Stack, str]) -> None:
    with client(stack, NODES[0]) as one, client(stack, NODES[1]) as other:
        _talk_by_turns(one, other)


def _talk_by_turns(one: openai.OpenAI, other: openai.OpenAI) -> None:
    made: Any = None
    previous: Any = None
    tokens = []
    for turn, sdk in enumerate((one, other, one, other)):
        with sdk.responses.stream(
            model="near-model", input=following(made, f"turn {turn}"), previous_response_id=previous
        ) as stream:
            made = stream.get_final_response()
        assert made.store is True
        previous = made.id
        tokens.append(made.usage.input_tokens)
    assert tokens == sorted(set(tokens)), "each turn holds the ones before"
    assert one.responses.retrieve(previous).output == other.responses.retrieve(previous).output != []
    other.responses.delete(previous)
    with pytest.raises(openai.NotFoundError):
        one.responses.retrieve(previous)


def test_large_turns_of_many_conversations_pass_between_node_and_workers(stack: tuple[Stack, str]) -> None:
    """More than the link between them holds at once."""
    wrong: list[object] = []

    def talk(n: int) -> None:
        text = "".join(chr(0x4E00 + (n * 7919 + i * i * 31) % 20000) for i in range(60_000))
        made: Any = None
        previous: Any = None
        try:
            with client(stack, NODES[n % 2]) as sdk:
                for _ in range(3):
                    made = sdk.responses.create(
                        model="near-model",
                        input=following(made, text),
                        previous_response_id=previous,
                        max_output_tokens=4,
                    )
                    if made.to_dict()["store"] is not True:
                        wrong.append(made)
                    previous = made.id
        except openai.OpenAIError as e:
            wrong.append(e)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    assert not wrong, wrong[:2]
