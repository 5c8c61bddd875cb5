"""A canary that fails, over two nodes of two workers, while the database is away and when it is back."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from interlock.errors import InterlockError
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from tests.postgres import owned_home
from tests.prove.ledger import NODES, Stack, database, set_up

BODY = {"model": "a", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
ALLOWED = 2
"""A tenth of twenty: the third failure takes the canary back."""
CALLERS = 4


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with ScriptedEngine(kind="openai", models=("bad",), default=answers.error(500)).in_thread() as made:
        yield made


@pytest.fixture(scope="module")
def stack(engine: ScriptedEngine) -> Iterator[tuple[Stack, str]]:
    with owned_home() as home, database(home) as server:
        made = Stack(home.parent, server)
        try:
            key, _ = set_up(made)
            document = {
                "sources": [
                    {
                        "name": "tried",
                        "kind": "openai",
                        "url": engine.base_url,
                        "granted_to": ["acme"],
                        "labels": {"region": "eu", "on_prem": True},
                    }
                ],
                "tenants": [{"name": "acme", "aliases": [alias("bad")]}],
            }
            files = [{"name": "canary.json", "text": json.dumps(document)}]
            made.admin().call("POST", "/apply", {"files": files}, reason="a test")
            yield made, key
        finally:
            made.stop()


def alias(model: str) -> dict[str, Any]:
    canary = {"model": model, "share_milli": 1000, "calls_min": 20, "errors_milli_max": 100}
    return {"name": "a", "targets": [{"model": "near-model"}], "canary": canary}


def call(stack: tuple[Stack, str], node: str) -> tuple[int, str]:
    """(status, who answered) of one call on a connection of its own, so that both workers are met."""
    connection = http.client.HTTPConnection("127.0.0.1", stack[0].ports[node], timeout=60)
    try:
        headers = {"authorization": f"Bearer {stack[1]}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(BODY).encode(), headers)
        with connection.getresponse() as response:
            response.read()
        return response.status, response.getheader("x-interlock-model") or ""
    finally:
        connection.close()


def flood(stack: tuple[Stack, str], node: str, each: int) -> Counter[tuple[int, str]]:
    """Calls of several callers at once."""
    found: list[tuple[int, str]] = []

    def calls() -> None:
        found.extend(call(stack, node) for _ in range(each))

    callers = [threading.Thread(target=calls) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    return Counter(found)


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.1)


def shown(stack: tuple[Stack, str]) -> dict[str, Any]:
    try:
        item: dict[str, Any] = stack[0].admin().call("GET", "/tenants/acme/aliases/a")
    except InterlockError:
        return {"canary_state": {"state": "?"}}
    return item


def test_a_node_takes_it_back_by_itself_and_the_others_follow(stack: tuple[Stack, str], engine: ScriptedEngine) -> None:
    north, south = NODES
    for node in (north, south):  # each until it has the snapshot, and then once
        until(lambda node=node: call(stack, node)[1] == "bad")  # type: ignore[misc]
    tried = len(engine.calls)
    assert tried == 2, "one failure at each node so far"
    # Without its database the node decides alone; calls that are under way when the verdict falls still fail.
    stack[0].server.stop()
    found = flood(stack, north, 10)
    failed = found[500 + 2, "bad"]
    assert failed <= ALLOWED + CALLERS - 1 and found[200, "near-model"] == CALLERS * 10 - failed, found
    assert len(engine.calls) - tried == failed
    assert {call(stack, north) for _ in range(20)} == {(200, "near-model")}
    # A restart does not forget it.
    stack[0].processes[north].stop()
    stack[0].start(north)
    assert {call(stack, north) for _ in range(20)} == {(200, "near-model")}
    assert len(engine.calls) - tried == failed
    # The database is back: the control plane makes it permanent, on record, and the other node follows.
    stack[0].server.start()
    until(lambda: shown(stack)["canary_state"]["state"] == "failed")
    state = shown(stack)["canary_state"]
    assert "calls failed; at most 10 % may (node north)" in state["why"] and state["ended_at"]
    until(lambda: call(stack, south) == (200, "near-model"))
    # The other node had its own failures before it heard: no more than would have ended it there.
    assert len(engine.calls) - tried - failed <= ALLOWED
    changes = stack[0].admin().call("GET", "/tenants/acme/changes")["items"]
    change = next(c for c in changes if c["action"] == "alias.canary_failed")
    assert change["actor"] == "canary watch" and "node north took it back" in change["reason"]
    assert (change["before"]["canary"].get("state"), change["after"]["canary"]["state"]) == (None, "failed")
    again = stack[0].admin().call("PUT", "/tenants/acme/aliases/a", alias("bad"), reason="the same document again")
    assert again["item"]["canary_state"]["state"] == "failed", "the same declaration starts nothing anew"
    fresh = stack[0].admin().call("PUT", "/tenants/acme/aliases/a", {**alias("bad"), "canary": None}, reason="x")
    assert "canary_state" not in fresh["item"]
    started = stack[0].admin().call("PUT", "/tenants/acme/aliases/a", alias("bad"), reason="once more")
    assert started["item"]["canary_state"]["state"] == "running"
    until(lambda: call(stack, north)[1] == "bad")
