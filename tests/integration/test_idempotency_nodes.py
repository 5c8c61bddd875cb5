"""Idempotency keys over two nodes and a database: a retry at the other node finds the call of the first."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.errors import InterlockError
from tests.postgres import owned_home
from tests.prove.ledger import NODES, Stack, database, set_up

BODY = {"model": "near-model", "messages": [{"role": "user", "content": "once"}], "max_tokens": 20}


@pytest.fixture(scope="module")
def stack() -> Iterator[tuple[Stack, str]]:
    with owned_home() as home, database(home) as server:
        made = Stack(home.parent, server, INTERLOCK_IDEMPOTENCY_WAIT_MS="60000")
        try:
            key, _ = set_up(made)
            budget = {"name": "all", "calls": 1000, "window": "total"}
            made.admin().call("POST", "/tenants/acme/budgets", budget, reason="a test")
            yield made, key
        finally:
            made.stop()


def call(stack: tuple[Stack, str], node: str, name: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", stack[0].ports[node], timeout=120)
    try:
        headers = {"authorization": f"Bearer {stack[1]}", "content-type": "application/json", "idempotency-key": name}
        connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, **more}).encode(), headers)
        with connection.getresponse() as response:
            text = response.read()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, text
    finally:
        connection.close()


def used(stack: tuple[Stack, str]) -> int:
    """Calls charged once everything has got its place."""
    before = -1
    while True:
        try:
            (found,) = stack[0].admin().call("GET", "/tenants/acme/budget-use")
        except InterlockError:
            found = {"used": -2}
        if found["used"] == before:
            return int(before)
        before = found["used"]
        time.sleep(1.2)


def test_both_nodes_at_once_make_one_call(stack: tuple[Stack, str]) -> None:
    before = used(stack)
    found: list[tuple[int, dict[str, str], bytes]] = []
    askers = [
        threading.Thread(target=lambda node=node: found.append(call(stack, node, "race", stream=True)))
        for node in (*NODES, *NODES, *NODES)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(180)
    assert {status for status, _, _ in found} == {200} and len({text for _, _, text in found}) == 1
    assert sum("x-interlock-replayed" not in headers for _, headers, _ in found) == 1
    assert len({headers["x-interlock-request-id"] for _, headers, _ in found}) == 1
    began = time.monotonic()
    while (now := used(stack)) <= before:
        assert time.monotonic() < began + 120, "the call is charged nowhere"
    assert now == before + 1


def test_a_retry_at_the_other_node_finds_the_answer_of_a_call_that_was_left(stack: tuple[Stack, str]) -> None:
    before = used(stack)
    data = json.dumps(BODY).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {stack[1]}\r\n"
        f"content-type: application/json\r\nidempotency-key: left\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stack[0].ports[NODES[0]])) as sock:
        sock.sendall(head.encode() + data)
        time.sleep(0.05)
    status, _, text = call(stack, NODES[1], "left")
    assert status == 200 and json.loads(text)["choices"]
    assert used(stack) <= before + 1
    assert call(stack, NODES[0], "left")[2] == text
