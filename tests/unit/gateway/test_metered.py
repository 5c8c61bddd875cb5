"""The node's side of measured energy: whose calls get what, and what nobody gets."""

from __future__ import annotations

import asyncio

import msgspec

from interlock.gateway.link import Measured, Worked
from interlock.gateway.metered import MeterService
from interlock.settings import Settings
from interlock.sources.meters import MeterError
from interlock.telemetry.metrics import Metrics
from interlock.testing.meter import ScriptedMeter
from interlock.types.clock import SystemClock
from interlock.types.source import EnergyMeter, Source, SourceKind

S = 1_000_000_000
METER = EnergyMeter("here", ("0",))


class Now(SystemClock):
    """The monotonic clock as a test sets it."""

    ns = 0

    def mono_ns(self) -> int:
        return self.ns


class FakeSlot:
    def __init__(self, number: int) -> None:
        self.number, self.ready, self.alive = number, True, True
        self.told: list[Measured] = []

    def send(self, message: Measured) -> bool:
        if self.alive:
            self.told.append(msgspec.json.decode(msgspec.json.encode(message), type=Measured))
        return self.alive


class Case:
    """Two workers, one source with a meter; `step` lets a second pass in which the meter counts `uj`."""

    def __init__(self, *sources: Source) -> None:
        self.clock = Now()
        self.counter = 0
        self.slots = [FakeSlot(0), FakeSlot(1)]
        self.metrics = Metrics(None, "node", Settings(), self.clock)
        self.meter = ScriptedMeter(lambda: self.counter)
        self.opened: list[EnergyMeter] = []
        self.service = MeterService("here", lambda: self.slots, self.metrics, self.clock, 1000, self._open)
        self.service.update(sources or (_source(),))

    def _open(self, declared: EnergyMeter) -> ScriptedMeter:
        self.opened.append(declared)
        if self.meter.broken:
            raise MeterError("no such device")
        return self.meter

    def step(self, uj: int = 0) -> None:
        self.clock.ns += S
        self.counter += uj
        for metered in self.service._metered.values():
            asyncio.run(self.service._read(metered))
            self.service._settle(metered)

    def tell(
        self, slot: int, *calls: tuple[int, float, float, int], epoch: str = "", since: float | None = None
    ) -> None:
        """A worker's report as of now: (call, began, ended, work) in seconds."""
        now_ns = self.clock.ns
        told = [("src_s", call, int(began * S), int(ended * S), work) for call, began, ended, work in calls]
        opened = {"src_s": now_ns if since is None else int(since * S)}
        self.service.worked(slot, Worked(epoch or f"epoch{slot}", now_ns, opened, told))

    def shares(self) -> dict[str, int]:
        return {labels[1]: value for labels, value in self.metrics.energy_metered.cells.items()}


def _source(name: str = "s", meter: EnergyMeter | None = METER) -> Source:
    return Source(f"src_{name}", name, SourceKind.vllm, "http://x", meter=meter)


def test_the_meters_energy_is_split_over_the_calls_of_all_workers() -> None:
    case = Case()
    case.step()
    case.tell(0)
    case.tell(1)
    case.step(900)
    case.tell(0, (7, 1, 2, 100))
    case.tell(1, (3, 1, 2, 200))
    case.step(50)
    assert case.slots[0].told == [Measured("epoch0", "scripted", [(7, 300)])]
    assert case.slots[1].told == [Measured("epoch1", "scripted", [(3, 600)])]
    assert case.shares() == {"calls": 900}
    case.tell(0)
    case.tell(1)
    case.step()
    assert case.shares() == {"calls": 900, "unallocated": 50}, "the meter to the microjoule"


def test_nothing_is_final_while_a_call_is_under_way_or_a_worker_is_silent() -> None:
    case = Case()
    case.step()
    case.tell(0, (1, 0.9, 1, 10))
    case.step(100)
    assert case.shares() == {}, "worker 1 has not said what it does"
    case.tell(0, (2, 1, 2, 10))
    case.tell(1, since=1)
    case.step(100)
    assert case.shares() == {}, "worker 1 has a call under way since the first second"
    case.tell(0)
    case.tell(1, (5, 1, 3, 20))
    case.step()
    assert case.slots[0].told == [Measured("epoch0", "scripted", [(2, 50)])]
    assert case.slots[1].told == [Measured("epoch1", "scripted", [(5, 150)])]
    assert case.shares() == {"calls": 200}


def test_what_a_dead_worker_did_is_nobodys() -> None:
    case = Case()
    case.step()
    case.tell(0)
    case.tell(1)
    case.step(100)
    case.tell(0, (1, 1, 2, 10))
    case.slots[1].ready = case.slots[1].alive = False
    case.service.died(1)
    case.step(100)
    case.tell(0)
    case.step()
    assert case.slots[0].told == [], "the other worker's calls of that time are not known"
    assert case.shares() == {"unallocated": 200}


def test_energy_of_a_worker_that_cannot_be_told_is_nobodys() -> None:
    case = Case()
    case.slots.pop()
    case.step()
    case.tell(0)
    case.step(100)
    case.tell(0, (1, 1, 2, 10))
    case.slots[0].alive = False
    case.step()
    assert case.shares() == {"unallocated": 100}


def test_a_new_worker_is_not_told_of_the_calls_of_the_one_before() -> None:
    case = Case()
    case.slots.pop()
    case.step()
    case.tell(0)
    case.step(100)
    case.tell(0, (1, 1, 2, 10), epoch="first")
    case.tell(0, epoch="second")
    case.step()
    assert case.slots[0].told == [] and case.shares() == {"unallocated": 100}


def test_calls_that_a_worker_lost_make_their_time_nobodys() -> None:
    case = Case()
    case.slots.pop()
    case.step()
    case.tell(0)
    case.step(100)
    case.service.worked(0, Worked("epoch0", 2 * S, {"src_s": 2 * S}, [("src_s", 1, S, 2 * S, 10)], lost_ns=2 * S))
    case.step()
    assert case.shares() == {"unallocated": 100}


def test_a_meter_that_cannot_be_opened_is_tried_again_later() -> None:
    case = Case()
    case.meter.broken = True
    for _ in range(3):
        case.step()
    assert case.opened == [METER]
    case.meter.broken = False
    case.clock.ns += 30 * S
    case.step()
    assert case.opened == [METER, METER] and not case.meter.closed


def test_only_meters_of_this_node_are_read_and_no_device_twice() -> None:
    case = Case(
        _source("a"),
        _source("b"),
        _source("elsewhere", EnergyMeter("there", ("1",))),
        _source("alone", EnergyMeter("here", ("2",))),
        _source("none", None),
    )
    assert list(case.service._metered) == ["src_alone"]
    case.service.update([_source("a")])
    assert list(case.service._metered) == ["src_a"]


def test_a_source_that_goes_lets_its_meter_go() -> None:
    case = Case()
    case.step()
    case.service.update([])
    assert case.meter.closed and case.service._metered == {}
