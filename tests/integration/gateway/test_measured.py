"""Measured energy through a whole worker: from a call to its linked record."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from interlock.types.record import Attempt, EnergyMeasured, Outcome, StepEnd
from interlock.types.snapshot import Alias, Cascade, CascadeStep
from interlock.types.source import EnergyMeter, Power
from tests.gateway import PEPPER, WorkerHarness, World, model, source
from tests.integration.gateway.client import CHAT, WAIT_S, ask, eventually, serving, when
from tests.integration.gateway.test_node import NoWatcher
from tests.unit.gateway.snapshots import Compiler
from tests.unit.gateway.test_feed import FakeStore

STREAM = {**CHAT, "stream": True}
CASCADE = Alias("a", cascade=Cascade((CascadeStep("m"), CascadeStep("n")), ("json",)))
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
        models = [model(name, power=power) for name in ("m", "n")]
        return World([source("s", url, *models, meter=EnergyMeter("test", ("0",)))], aliases=[CASCADE])

    with serving(world, ScriptedEngine(models=("m", "n")), energy_sample_ms=100) as (gateway, engine):
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


@contextmanager
def cascading(second: str) -> Iterator[tuple[WorkerHarness, ScriptedEngine, list[Worked]]]:
    """A cascade whose first step is at a metered source, its second at `second`. What the worker tells is kept."""
    power = Power(10, 100, method="declared")

    def world(url: str) -> World:
        meter = EnergyMeter("test", ("0",))
        models = [model("m", power=power), *([model("n", power=power)] if second == "s" else [])]
        sources = [source("s", url, *models, meter=meter)]
        if second != "s":
            own = EnergyMeter("test", ("1",)) if second == "metered" else None
            sources.append(source("t", url, model("n", power=power), meter=own))
        return World(sources, aliases=[CASCADE])

    with serving(world, ScriptedEngine(models=("m", "n"))) as (gateway, engine):
        told: list[Worked] = []

        def hear(message: ToNode) -> bool:
            if isinstance(message, Worked) and message.calls:
                told.append(message)
            return True

        gateway.worker.send = hear
        yield gateway, engine, told


def measure(gateway: WorkerHarness, call: int, uj: int, method: str = "nvml") -> None:
    epoch = gateway.worker.record_log.epoch
    gateway.call(lambda: gateway.worker.on_message(Measured(epoch, method, [(call, uj)])))


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", [True, False], ids=["told", "untold"])
def test_each_step_of_a_cascade_is_measured_for_its_time_and_work(body: dict[str, object], usage: bool) -> None:
    with cascading("s") as (gateway, engine, told):
        engine.default = answers.answer("no JSON at all", usage=usage)
        assert ask(gateway, {**body, "model": "a"}).status == 200
        eventually(lambda: sum(len(each.calls) for each in told) == 2)
        first, second = sorted((each for message in told for each in message.calls), key=lambda each: each[2])
        begun = [each.mono_ns for each in gateway.records_of(Attempt)]
        steps = gateway.records_of(StepEnd)
        (outcome,) = gateway.records_of(Outcome)
        assert [first[2], second[2]] == begun
        assert [first[3], second[3]] == [step.mono_ns for step in steps]
        assert first[3] <= second[2] and first[4] > 0 and second[4] > 0
        if usage:
            assert first[4] == second[4], "the same was asked and said"
        measure(gateway, first[1], 500)
        assert not gateway.records_of(EnergyMeasured), "a part must not take the place of the whole"
        measure(gateway, second[1], 700)
        eventually(lambda: gateway.records_of(EnergyMeasured))
        (found,) = gateway.records_of(EnergyMeasured)
        assert (found.call, found.uj, found.method) == (outcome.call, 1200, "nvml")


def test_steps_that_different_meters_measure_are_put_together() -> None:
    with cascading("metered") as (gateway, engine, told):
        engine.default = answers.answer("no JSON at all")
        assert ask(gateway, {**CHAT, "model": "a"}).status == 200
        eventually(lambda: sum(len(each.calls) for each in told) == 2)
        calls = [each for message in told for each in message.calls]
        assert {each[0] for each in calls} == {"src_s", "src_t"}
        measure(gateway, calls[0][1], 1, "nvml")
        measure(gateway, calls[1][1], 2, "other")
        eventually(lambda: gateway.records_of(EnergyMeasured))
        (found,) = gateway.records_of(EnergyMeasured)
        assert (found.uj, found.method) == (3, "mixed")


def test_a_step_without_a_meter_leaves_the_estimate_of_the_whole() -> None:
    with cascading("unmetered") as (gateway, engine, told):
        engine.default = answers.answer("no JSON at all")
        assert ask(gateway, {**CHAT, "model": "a"}).status == 200
        eventually(lambda: told)
        ((source_id, number, *_),) = told[0].calls
        assert source_id == "src_s"
        measure(gateway, number, 9)
        assert gateway.call(lambda: not gateway.worker.desk._steps)
        assert ask(gateway, {**CHAT, "model": "m"}).status == 200
        eventually(lambda: len(told) == 2)
        measure(gateway, told[1].calls[0][1], 8)
        eventually(lambda: gateway.records_of(EnergyMeasured))
        assert [each.uj for each in gateway.records_of(EnergyMeasured)] == [8]


def test_what_a_step_took_is_written_when_its_call_has_ended() -> None:
    opened = threading.Event()
    with cascading("s") as (gateway, engine, told):
        engine.script(answers.answer("no JSON at all"), when(opened, answers.answer("{}")))
        caller = threading.Thread(target=lambda: ask(gateway, {**CHAT, "model": "a"}))
        caller.start()
        eventually(lambda: told)
        measure(gateway, told[0].calls[0][1], 5)
        assert not gateway.records_of(Outcome) and not gateway.records_of(EnergyMeasured)
        opened.set()
        caller.join(WAIT_S)
        eventually(lambda: len(told) == 2)
        measure(gateway, told[1].calls[0][1], 6)
        eventually(lambda: gateway.records_of(EnergyMeasured))
        (found,) = gateway.records_of(EnergyMeasured)
        kinds = [type(each) for each in gateway.records()]
        assert found.uj == 11 and kinds.index(Outcome) < kinds.index(EnergyMeasured)


def test_a_nodes_meter_measures_a_cascade_as_a_whole(metered: Metered) -> None:
    gateway, engine, metrics = metered
    engine.default = answers.answer("no JSON at all")
    assert ask(gateway, {**CHAT, "model": "a"}).status == 200
    eventually(lambda: gateway.records_of(EnergyMeasured))
    (found,) = gateway.records_of(EnergyMeasured)

    def counted() -> int | None:
        return {labels[1]: value for labels, value in metrics.energy_metered.cells.items()}.get("calls")

    eventually(lambda: counted() == found.uj)


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
