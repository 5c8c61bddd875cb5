"""Which calls run, as a worker tells it when somebody watches: how far each is, and nothing of what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from interlock.gateway.link import LINE_BYTES_MAX, CallsTold, TellCalls
from interlock.gateway.running import NAME_CHARS, TOLD_MAX, RunningCalls
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Step
from interlock.types.running import RunningCall, WorkerCalls
from interlock.types.snapshot import Alias, AliasTarget
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import CHAT, connected, eventually, raw_request

from .test_workloads import Caller, full

SECRET = "a word that nobody else may read"


def told(gateway: WorkerHarness, most: int = 100) -> WorkerCalls:
    """As the worker tells it over the link."""
    before = len(gateway.told_of(CallsTold))
    gateway.call(lambda: gateway.worker.on_message(TellCalls(most)))
    message: CallsTold = gateway.told_of(CallsTold)[before]
    return message.calls


def states(gateway: WorkerHarness) -> dict[str, str]:
    return {each.principal_id: each.state for each in told(gateway).calls}


def test_how_far_a_call_is() -> None:
    with full(people=[Who(), Who(name="bob")]) as (gateway, own, _, _doors):
        Caller(gateway, SECRET, who="bob")
        eventually(lambda: sorted(states(gateway).values()) == ["asked", "seat"])
        calls = {each.state: each for each in told(gateway).calls}
        assert calls["asked"].source == "own" and calls["asked"].model == "m" and calls["asked"].pieces == -1
        assert calls["seat"].source == "" and calls["seat"].attempts == 0
        eventually(lambda: {c.state: c for c in told(gateway).calls}["seat"].waited_ms > 0)
        assert calls["asked"].why == "asked for by name" and calls["asked"].asked == "m"
        assert SECRET not in msgspec.json.encode(told(gateway)).decode()
    assert own.calls


def test_a_stream_tells_how_much_came_and_how_it_was_found() -> None:
    seen: list[Received] = []

    def script(received: Received) -> Iterator[Step]:
        """Fails the first time, and speaks slowly the second."""
        seen.append(received)
        play = answers.error(500) if len(seen) == 1 else answers.answer(f"{SECRET} and more", between_ms=1500)
        yield from play(received)  # type: ignore[misc]

    with ScriptedEngine(models=("m",)).in_thread() as one, ScriptedEngine(models=("m",)).in_thread() as two:
        one.default = two.default = script  # type: ignore[assignment]
        sources = [source("one", one.base_url), source("two", two.base_url)]
        with WorkerHarness(World(sources, aliases=[Alias("fast", targets=(AliasTarget("m"),))])) as gateway:
            with connected(gateway) as sock:
                sock.sendall(raw_request(gateway, {**CHAT, "model": "fast", "stream": True}))
                eventually(lambda: any(c.pieces > 0 for c in told(gateway).calls))
                (call,) = told(gateway).calls
                assert call.source in ("one", "two") and call.attempts == 2 and call.events >= 1 and call.pieces >= 1
                assert call.why == "alias fast; 2 of 2" and call.asked == "fast"
                assert SECRET.split()[-1] not in msgspec.json.encode(told(gateway)).decode()
            eventually(lambda: not told(gateway).calls)


def test_one_tenant_does_not_push_out_another() -> None:
    people = [Who(), Who(name="tom", tenant="other")]
    with full(people=people) as (gateway, _, _, doors):
        callers = [Caller(gateway, "hold") for _ in range(3)]
        callers += [Caller(gateway, "hold", who="tom") for _ in range(4)]  # either could fill what is told alone
        eventually(lambda: len(told(gateway).calls) == 8)
        some = told(gateway, 3)
        tenants = [each.tenant_id for each in some.calls]
        assert len(set(tenants)) == 2 and len(tenants) == 3
        assert sorted(some.counts.values()) == [4, 4], "how many there are is told anyway"
        doors.open.set()
        for caller in callers:
            caller.join(10)


class Slot:
    """A worker's place that notes what it is asked."""

    def __init__(self, number: int, *, alive: bool = True) -> None:
        self.number, self.alive, self.asked = number, alive, []  # type: ignore[var-annotated]

    def send(self, message: TellCalls, /) -> bool:
        self.asked.append(message.most)
        return self.alive


def test_a_node_shares_its_bound_and_forgets_dead_workers() -> None:
    slots = [Slot(0), Slot(1)]
    node = RunningCalls(lambda: slots, 9)
    node.ask()
    assert [slot.asked for slot in slots] == [[4], [4]]
    for slot in slots:
        node.told(slot.number, CallsTold(WorkerCalls(f"e{slot.number}")))
    assert [each.epoch for each in node.now()] == ["e0", "e1"]
    node.died(0)
    slots[1].alive = False
    assert [each.epoch for each in node.now()] == ["e1"]
    node.ask()
    assert node.now() == []


def test_the_longest_message_fits_into_the_link() -> None:
    name = "\x01" * NAME_CHARS
    given: dict[str, Any] = {"pieces": 10**6, "events": 10**6, "attempts": 99, "waited_ms": 10**9, "shadow": True}
    call = RunningCall("req_" + "f" * 40, "ten_" + "f" * 26, "team_" + "f" * 26, "p" * 64, name, 10**9, "streaming",
                       name, name, name, **given)  # fmt: skip
    many = WorkerCalls("e" * 32, (call,) * TOLD_MAX, {f"ten_{n:026}": 9 for n in range(TOLD_MAX)})
    assert len(msgspec.json.encode(CallsTold(many))) < LINE_BYTES_MAX
