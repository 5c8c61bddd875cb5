"""Measured energy through a whole worker: from a call to its linked record."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.gateway.link import Measured, ToNode, ToWorker, Worked
from interlock.gateway.metered import MeterService
from interlock.gateway.node import GatewayNode, Running
from interlock.ledger.reader import epochs, read_epoch
from interlock.settings import Settings
from interlock.telemetry.metrics import Metrics
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.meter import ScriptedMeter
from interlock.types.clock import SystemClock
from interlock.types.record import EnergyMeasured, Outcome
from interlock.types.source import EnergyMeter, Power
from tests.gateway import PEPPER, WorkerHarness, World, model, source
from tests.integration.gateway.client import CHAT, ask, eventually, serving
from tests.integration.gateway.test_node import NoWatcher
from tests.unit.gateway.snapshots import Compiler
from tests.unit.gateway.test_feed import FakeStore

STREAM = {**CHAT, "stream": True}
WATT_UJ = 1000
"""Microjoules of a watt in a millisecond."""


class Slot:
    """The worker of a harness as the node sees it: messages pass through their wire form."""

    number = 0
    ready = True

    def __init__(self, gateway: WorkerHarness) -> None:
        self._gateway = gateway

    def send(self, message: Measured) -> bool:
        decoded = msgspec.json.decode(msgspec.json.encode(message), type=ToWorker)
        self._gateway.worker.on_message(decoded)
        return True


Metered = tuple[WorkerHarness, ScriptedEngine, Metrics]


@pytest.fixture
def metered() -> Iterator[Metered]:
    """A worker, its engine, and a node's meters beside it on the same loop; the engine draws 200 W all the time."""
    power = Power(10, 100, method="declared")

    def world(url: str) -> World:
        return World([source("s", url, model(power=power), meter=EnergyMeter("test", ("0",)))])

    with serving(world, energy_sample_ms=100) as (gateway, engine):
        clock = SystemClock()
        metrics = Metrics(None, "node", gateway.settings, clock)
        slot = Slot(gateway)
        meter = ScriptedMeter(lambda: clock.mono_ns() // 1_000_000 * 200 * WATT_UJ)
        service = MeterService("test", lambda: [slot], metrics, clock, 100, lambda _: meter)
        service.update(gateway.view.sources)

        def hear(message: ToNode) -> bool:
            decoded = msgspec.json.decode(msgspec.json.encode(message), type=ToNode)
            if isinstance(decoded, Worked):
                service.worked(0, decoded)
            return True

        gateway.worker.send = hear
        tasks = []
        gateway.call(lambda: tasks.append(gateway.worker.loop.create_task(service.run())))
        eventually(lambda: meter.read_last > 0)
        time.sleep(0.3)
        yield gateway, engine, metrics
        if not gateway.worker.stopped.done():
            gateway.call(tasks[0].cancel)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_a_measured_call_has_a_later_record_of_what_it_took(metered: Metered, body: dict[str, object]) -> None:
    gateway, engine, metrics = metered
    engine.script(answers.answer(), answers.answer(usage=False))
    assert ask(gateway, body).status == 200
    assert ask(gateway, body).status == 200
    eventually(lambda: len(gateway.records_of(EnergyMeasured)) == 2)
    outcomes = gateway.records_of(Outcome)
    found = gateway.records_of(EnergyMeasured)
    assert [each.call for each in found] == [outcome.call for outcome in outcomes]
    assert all(each.method == "scripted" and each.uj >= 0 for each in found)
    assert [outcome.energy.method for outcome in outcomes] == ["declared"] * 2, "the estimate stays where it was"
    for each, outcome in zip(found, outcomes, strict=True):
        # alone at 200 W: nearly that for as long as it ran (the meter steps in milliseconds)
        assert each.uj <= 200 * WATT_UJ * (outcome.total_us / 1000 + 100)

    def counted() -> dict[str, int]:
        return {labels[1]: value for labels, value in metrics.energy_metered.cells.items()}

    eventually(lambda: counted().get("calls") == sum(each.uj for each in found))
    assert counted()["unallocated"] > 0, "the engine was idle between"


def test_calls_of_several_workers_are_measured_by_their_node(tmp_path: Path) -> None:
    """Real processes: two workers, one node that reads the meter, four calls at a time."""

    async def main() -> None:
        clock = SystemClock()
        meter = ScriptedMeter(lambda: clock.mono_ns() // 1_000_000 * 200 * WATT_UJ)
        (tmp_path / "pepper").write_bytes(PEPPER)
        async with ScriptedEngine() as engine:
            engine.default = answers.answer(delay_ms=30)
            world = World([source("s", f"http://127.0.0.1:{engine.port}", meter=EnergyMeter("test", ("0",)))])
            compiler = Compiler()
            compiler.parts = {part.name: part for part in world.parts(1)[0]}
            compiler.version = 1
            ready: list[Running] = []
            node = GatewayNode(
                Settings(
                    home=str(tmp_path),
                    pepper_file=str(tmp_path / "pepper"),
                    node="test",
                    workers=2,
                    gateway_port=0,
                    energy_sample_ms=100,
                ),
                clock,
                store=FakeStore(compiler),
                watcher=lambda *_: NoWatcher(),
                meter=lambda _: meter,
                ready=ready.append,
            )
            life = asyncio.create_task(node.run())
            async with asyncio.timeout(120):
                while not ready or meter.read_last == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.5)
                for _ in range(5):
                    found = [asyncio.to_thread(call, ready[0].port, world.people[0].key) for _ in range(4)]
                    assert await asyncio.gather(*found) == [200] * 4
                await asyncio.sleep(0.5)
                node.stop()
                await life
            shares = {labels[1]: value for labels, value in node.metrics.energy_metered.cells.items()}
        records = [
            s.record for epoch in epochs(tmp_path / "node/log") for s in read_epoch(tmp_path / "node/log", epoch)
        ]
        measured = [record.uj for record in records if isinstance(record, EnergyMeasured)]
        assert len(measured) == sum(isinstance(record, Outcome) for record in records) == 20
        assert sum(measured) == shares["calls"] > 0
        assert shares["unallocated"] > 0

    asyncio.run(main())


def call(port: int, key: str) -> int:
    """One call over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body, headers = json.dumps(CHAT), {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_the_last_calls_before_a_stop_are_measured_too(metered: Metered) -> None:
    gateway, _engine, _metrics = metered
    assert ask(gateway, CHAT).status == 200
    gateway.stop(grace_ms=2000)
    assert len(gateway.records_of(EnergyMeasured)) == 1


def test_a_message_about_another_epoch_changes_nothing(metered: Metered) -> None:
    gateway, _engine, _metrics = metered
    gateway.call(lambda: gateway.worker.on_message(Measured("0123456789abcdef", "scripted", [(1, 5)])))
    assert gateway.records_of(EnergyMeasured) == []


def test_a_source_without_a_meter_is_not_told_of() -> None:
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT).status == 200
        assert gateway.worker.runtime is not None and gateway.worker.runtime.desk is None
        assert not any(isinstance(message, Worked) for message in gateway.told)
