"""Feedback at two real nodes: what was answered is there, whatever is killed then, and of one kind there is one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.errors import InterlockError
from tests.postgres import owned_home
from tests.prove.gateway import workers_of
from tests.prove.ledger import NODES, Stack, database, set_up

CHAT = {"model": "near-model", "messages": [{"role": "user", "content": "once"}], "max_tokens": 20}
NORTH, SOUTH = NODES


class Callers:
    """Two nodes and a caller."""

    def __init__(self, stack: Stack, key: str) -> None:
        self.stack, self.key = stack, key

    def post(self, node: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.ports[node], timeout=60)
        try:
            headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
            connection.request("POST", path, json.dumps(body).encode(), headers)
            with connection.getresponse() as response:
                return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(response.read())
        finally:
            connection.close()

    def say(self, node: str = NORTH) -> str:
        status, headers, _ = self.post(node, "/v1/chat/completions", CHAT)
        assert status == 200
        return headers["x-interlock-request-id"]

    def give(self, call: str, node: str = NORTH, **said: Any) -> tuple[int, Any]:
        status, _, body = self.post(node, "/v1/feedback", {"request_id": call, **said})
        return status, body

    def shown(self, call: str) -> Any:
        return self.stack.admin().call("GET", f"/tenants/acme/ledger/calls/{call}")

    def counted(self, call: str) -> list[Any]:
        """What counts of a call's feedback."""
        try:
            return [each for each in self.shown(call)["feedback"] if each["counts"]]
        except InterlockError:
            return []

    def arrived(self, call: str) -> None:
        until(lambda: self.give(call, SOUTH, score=2)[0] == 400 and self._is_there(call), "the call in the ledger")

    def _is_there(self, call: str) -> bool:
        try:
            return bool(self.shown(call)["entries"])
        except InterlockError:
            return False


def until(true: Any, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def callers() -> Iterator[Callers]:
    with owned_home() as home, database(home) as server:
        stack = Stack(home.parent, server, INTERLOCK_FEEDBACK_WAIT_MS="60000")
        try:
            yield Callers(stack, set_up(stack)[0])
        finally:
            stack.stop()


def test_at_both_nodes_at_once_one_of_a_kind_is_taken(callers: Callers) -> None:
    call = callers.say()
    callers.arrived(call)
    found: list[tuple[int, Any]] = []

    def give(number: int) -> None:
        found.append(callers.give(call, NODES[number % 2], score=number / 8))

    askers = [threading.Thread(target=give, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(120)
    assert sorted(status for status, _ in found) == [200] + [409] * 7
    until(lambda: callers.counted(call), "what was taken")
    assert len(callers.counted(call)) == 1


def test_what_was_answered_survives_the_workers(callers: Callers) -> None:
    fresh, known = callers.say(), callers.say()
    callers.arrived(known)
    assert callers.give(known, SOUTH, thumb="down", corrected="so it is right")[0] == 200
    assert callers.give(fresh, SOUTH, thumb="up")[0] in (200, 202)
    for pid in workers_of(callers.stack.processes[SOUTH].pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: callers.counted(known) and callers.counted(fresh), "what was answered")
    assert callers.counted(known)[0]["counts"] == ["corrected", "thumb"]
    until(lambda: _there(callers, known), "a new worker")
    assert callers.give(known, SOUTH, thumb="down", corrected="so it is right")[0] == 200, "said again"
    assert callers.give(known, SOUTH, thumb="up")[0] == 409


def _there(callers: Callers, call: str) -> bool:
    try:
        return callers.give(call, SOUTH, score=2)[0] == 400
    except (OSError, http.client.HTTPException):
        return False


def test_of_a_call_of_a_moment_ago_it_is_taken_at_the_other_node(callers: Callers) -> None:
    call = callers.say(NORTH)
    status, body = callers.give(call, SOUTH, thumb="up")
    assert (status, body["linked"]) in ((202, False), (200, True))
    until(lambda: callers.counted(call), "its call")


def test_an_id_of_long_ago_that_never_was_is_unknown(callers: Callers) -> None:
    status, body = callers.give("req_0000000000000000_1", thumb="up")
    assert (status, body["error"]["code"]) == (404, "call_not_found")
