"""Everything at once: random engines, random callers, some of whom leave. The record must tell it all, exactly once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import CLOSE, RESET, Received, Script
from interlock.types.identity import LimitSet
from interlock.types.record import Attempt, AttemptEnd, Chunk, Intent, Outcome, Refusal, parse_request_id
from interlock.types.source import Labels, SourceLimits, Timeouts
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import (
    CHAT,
    connected,
    events,
    eventually,
    raw_request,
    text_of,
)

CALLS, CALLERS = 120, 6
SCRIPTS: tuple[Script, ...] = (
    *[answers.answer()] * 6,
    answers.answer(between_ms=1),
    answers.answer(usage=False),
    answers.error(500),
    answers.error(429, retry_after="0"),
    answers.error(400),
    faults.dies_mid_stream(2, RESET),
    faults.dies_mid_stream(5, CLOSE),
    faults.closes_at_once(),
    faults.garbage(),
    faults.malformed_sse(),
    faults.wrong_content_length(),
    faults.ends_without_done(),
    faults.error_event(),
    faults.never_answers(),
    faults.stalls_mid_stream(),
    faults.drip(answers.answer("a b c d"), size=7),
    faults.excess_body(),
)


class Caller(threading.Thread):
    """Makes calls one after the other and remembers every byte."""

    def __init__(self, gateway: WorkerHarness, seed: int) -> None:
        super().__init__()
        self.gateway = gateway
        self.random = random.Random(seed)
        self.got: list[bytes] = []

    def run(self) -> None:
        for _ in range(CALLS // CALLERS):
            body = {**CHAT, "stream": self.random.random() < 0.7}
            with connected(self.gateway) as sock:
                sock.sendall(raw_request(self.gateway, body, "connection: close"))
                leaves_after = self.random.choice((0, 1, 500, *[10**9] * 6))
                got = b""
                while len(got) < leaves_after and (data := sock.recv(400)):
                    got += data
                self.got.append(got)


def body_of(got: bytes) -> bytes:
    """The body as far as it came, chunk framing removed."""
    head, _, data = got.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return data
    out = b""
    while b"\r\n" in data:
        size, _, rest = data.partition(b"\r\n")
        out, data = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


def check(gateway: WorkerHarness, answers_got: list[bytes]) -> Counter[str]:
    """Compare what callers got with the record; returns how calls ended."""
    records = gateway.records()
    by_call: dict[int, list[Any]] = {}
    for record in records:
        if isinstance(record, Intent | Attempt | AttemptEnd | Chunk | Outcome | Refusal):
            by_call.setdefault(record.call, []).append(record)
    for call, found in by_call.items():
        kinds = Counter(type(r).__name__ for r in found)
        assert kinds["Refusal"] + kinds["Intent"] == 1, (call, kinds)
        assert kinds["Outcome"] == kinds["Intent"], (call, kinds)
        assert kinds["Attempt"] - kinds["AttemptEnd"] in (0, 1), (call, kinds)
        order = [type(r).__name__ for r in found]
        assert order[0] in ("Intent", "Refusal") and (order[-1] == "Outcome" or len(order) == 1)
    for got in answers_got:
        if b"x-interlock-request-id: req_" not in got or b"\r\n\r\n" not in got:
            continue
        identifier = got.partition(b"x-interlock-request-id: ")[2].partition(b"\r\n")[0].decode()
        found = by_call[parse_request_id(identifier)[1]]
        body = body_of(got)
        if got.startswith(b"HTTP/1.1 200") and b"text/event-stream" in got:
            said = text_of(events(body[: body.rfind(b"\n\n") + 2]))
            assert "".join(r.text for r in found if isinstance(r, Chunk)).startswith(said)
            if b"[DONE]" in body:
                assert found[-1].state == "completed"
                assert found[-1].bytes_sent == len(body)
        elif got.startswith(b"HTTP/1.1 200"):
            assert found[-1].body.startswith(body)
        else:
            assert found[-1].status == int(got[9:12])
    return Counter(r.state for r in records if isinstance(r, Outcome))


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_and_nothing_is_said_twice(seed: int) -> None:
    timeouts = Timeouts(first_event_ms=1000, between_events_ms=1000, total_ms=2000)
    draw = random.Random(seed)
    lock = threading.Lock()

    def any_script(received: Received) -> Any:
        with lock:
            script = draw.choice(SCRIPTS)
        return script(received)

    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(models=("m",), default=any_script).in_thread()) for _ in range(3)]
        world = World(
            [
                source("a", engines[0].base_url, timeouts=timeouts),
                source("b", engines[1].base_url, timeouts=timeouts, limits=SourceLimits(concurrency=3)),
                source("c", engines[2].base_url, timeouts=timeouts, labels=Labels(on_prem=False)),
            ],
            [Who(limits=LimitSet(concurrency=5, requests_per_minute=100_000, tokens_per_minute=10**9))],
        )
        gateway = stack.enter_context(WorkerHarness(world, breaker_open_ms=50))
        callers = [Caller(gateway, seed * 100 + n) for n in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(180)
            assert not caller.is_alive()
        eventually(lambda: not gateway.call(lambda: len(gateway.worker.runtime.runs)))  # type: ignore[union-attr]
        eventually(lambda: len(gateway.records_of(Intent)) == len(gateway.records_of(Outcome)))
        ended = check(gateway, [got for caller in callers for got in caller.got])
        assert ended["completed"] > 10 and len(ended) >= 3
        for name in ("a", "b", "c"):
            eventually(lambda n=name: gateway.call(lambda: gateway.board.inflight(gateway.board.row(f"src_{n}"))) == 0)  # type: ignore[misc]
        for engine in engines:
            eventually(lambda e=engine: all(r.ended for r in e.calls))  # type: ignore[misc]
