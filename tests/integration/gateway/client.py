"""A small HTTP client for tests: requests as they are written, answers as they arrive, nothing hidden."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Pause, Received, Script, Step
from tests.gateway import WorkerHarness, World, source

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Say something."}]}
WAIT_S = 15.0
"""Long for a busy machine, and shorter than what a worker waits for unless told otherwise: 20 s for an engine, 30 s for
a seat. So a call that was to end by itself, and waits until such a time is over, is a test that fails."""


class Answer(NamedTuple):
    """A whole answer. `headers`: lower-case names, the last value of each."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


def ask(
    gateway: WorkerHarness,
    body: dict[str, Any] | bytes | None = None,
    path: str = "/v1/chat/completions",
    key: str | None = None,
    method: str = "POST",
    **headers: str,
) -> Answer:
    """One request on a connection of its own. `key` defaults to alice's, "" sends none."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    key = gateway.key() if key is None else key
    if key:
        given.setdefault("authorization", f"Bearer {key}")
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    if data is not None:
        given.setdefault("content-type", "application/json")
    try:
        connection.request(method, path, data, given)
        answer = connection.getresponse()
        try:
            text = answer.read()
        except http.client.IncompleteRead as e:
            text = e.partial + b"<cut>"
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
    finally:
        connection.close()


def head(gateway: WorkerHarness, length: int, *lines: str, key: str | None = None) -> bytes:
    """A request head as bytes, for raw sockets."""
    key = gateway.key() if key is None else key
    given = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: test",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {length}",
        *lines,
    ]
    return "\r\n".join(given).encode() + b"\r\n\r\n"


def raw_request(gateway: WorkerHarness, body: dict[str, Any], *lines: str) -> bytes:
    """A whole chat request as bytes."""
    data = json.dumps(body).encode()
    return head(gateway, len(data), *lines) + data


def ask_watching(
    gateway: WorkerHarness, body: dict[str, Any], seen: Callable[[bytes], object], path: str = "/v1/chat/completions"
) -> bytes:
    """The body of an answer. `seen` is told what there is of it, each time that more of it came."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        headers = {"authorization": f"Bearer {gateway.key()}", "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer, got = connection.getresponse(), b""
        try:
            while data := answer.read1(65_536):
                got += data
                seen(got)
        except http.client.IncompleteRead as e:
            got += e.partial + b"<cut>"
        return got


@contextlib.contextmanager
def connected(gateway: WorkerHarness) -> Iterator[socket.socket]:
    """A raw connection to the gateway."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_S)
    try:
        yield sock
    finally:
        sock.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            found += data
    return found


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Everything up to and with `mark` (and what came in the same read)."""
    found = b""
    while mark not in found:
        data = sock.recv(65536)
        assert data, f"closed before {mark!r}: {found!r}"
        found += data
    return found


def eventually(true: Callable[[], object], seconds: float = WAIT_S) -> None:
    """Wait until it is true."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.005)


def when(opened: threading.Event, script: Script, after: bytes = b"") -> Script:
    """Answers as `script` does: nothing, or nothing after the step that has `after` in it, before the event is set."""

    def play(received: Received) -> Iterator[Step]:
        held = not after
        for step in script(received):
            while held and not opened.is_set():
                yield Pause(5)
            yield step
            held = held or (isinstance(step, bytes) and after in step)

    return play


@contextlib.contextmanager
def serving(
    world: Callable[[str], World] | None = None, engine: ScriptedEngine | None = None, **settings: Any
) -> Iterator[tuple[WorkerHarness, ScriptedEngine]]:
    """A gateway before one scripted engine. `world` makes the snapshot from the engine's URL."""
    engine = engine or ScriptedEngine(models=("m",))
    with engine.in_thread():
        made = world(engine.base_url) if world else World([source("local", engine.base_url)])
        with WorkerHarness(made, **settings) as gateway:
            yield gateway, engine


def events(body: bytes) -> list[Any]:
    """The data of each event of an event stream: JSON, or the text "[DONE]"."""
    found: list[Any] = []
    for block in body.split(b"\n\n"):
        if block.startswith(b"data: "):
            text = block[6:]
            found.append(text.decode() if text == b"[DONE]" else json.loads(text))
    return found


def text_of(found: list[Any]) -> str:
    """The text of the first choice of a chat stream."""
    said = ""
    for event in found:
        if isinstance(event, dict):
            for choice in event.get("choices", ()):
                if choice["index"] == 0:
                    said += (choice.get("delta") or {}).get("content") or ""
    return said
