"""The node's side of measured energy: reads the meters, splits what they count over all workers' calls.

Only the node can do this: a meter counts for the whole engine, and each worker knows its own calls only. What becomes
final goes back to the worker in whose log the call is. What no call gets, because nothing was under way, because not
all is known of what was, or because its worker is gone, is counted as unallocated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from interlock.errors import InterlockError
from interlock.gateway.link import Measured, Worked
from interlock.metering.allocate import Allocator
from interlock.sources.meters import Meter, open_meter
from interlock.telemetry.metrics import Metrics
from interlock.types.clock import Clock
from interlock.types.source import EnergyMeter, Source

log = logging.getLogger("interlock.gateway.node")

SAMPLES_MAX = 10_000
"""Readings held for calls that are under way: two and a half hours at one a second."""
CALLS_MAX = 100_000
"""Ended calls held for one source until their energy is final."""
RETRY_S = 30.0
"""How soon a meter that could not be opened or read is tried again."""
CALLS_TOLD_MAX = 4096
_Key = tuple[int, str, int]
"""Slot, epoch, call."""


class Worker(Protocol):
    """A slot of the node, as far as this module needs it."""

    number: int
    ready: bool

    def send(self, message: Measured, /) -> bool:
        """Tell the worker; False when there is none."""


class _Metered:
    """One source with a meter."""

    def __init__(self, source: Source, declared: EnergyMeter) -> None:
        self.source = source
        self.declared = declared
        self.meter: Meter | None = None
        self.allocator: Allocator[_Key] = Allocator(samples_max=SAMPLES_MAX, calls_max=CALLS_MAX)
        self.retry_ns = 0
        self.told = False


class MeterService:
    """All meters of a node. `run` works until cancelled; the rest is called from the same loop."""

    def __init__(
        self,
        node: str,
        workers: Callable[[], Sequence[Worker]],
        metrics: Metrics,
        clock: Clock,
        sample_ms: int,
        open_meter: Callable[[EnergyMeter], Meter] = open_meter,
    ) -> None:
        self._node = node
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._sample_s = sample_ms / 1000
        self._open = open_meter
        self._metered: dict[str, _Metered] = {}
        self._heard: dict[int, Worked] = {}

    def update(self, sources: Iterable[Source]) -> None:
        """Meter these sources, as far as their meters are at this node, and no others.

        A device that several sources declare would be counted for each of them: none of these is metered.
        """
        wanted = {s.id: s for s in sources if s.meter is not None and s.meter.node == self._node}
        users: dict[str, int] = {}
        for source in wanted.values():
            for device in source.meter.devices if source.meter is not None else ():
                users[device] = users.get(device, 0) + 1
        for source_id in list(self._metered):
            now = wanted.get(source_id)
            if now is None or now.meter != self._metered[source_id].declared:
                self._end(self._metered.pop(source_id))
        for source_id, source in wanted.items():
            declared = source.meter
            if declared is None:
                continue
            if any(users[device] > 1 for device in declared.devices):
                if source_id in self._metered:
                    self._end(self._metered.pop(source_id))
                log.error("source %s is not metered: it shares a device with another source's meter", source.name)
            elif source_id not in self._metered:
                self._metered[source_id] = _Metered(source, declared)

    def worked(self, slot: int, message: Worked) -> None:
        """A worker tells what it did."""
        before = self._heard.get(slot)
        if before is not None and before.epoch != message.epoch:
            self._void()
        self._heard[slot] = message
        for source_id, call, began_ns, ended_ns, work in message.calls:
            metered = self._metered.get(source_id)
            if metered is not None:
                metered.allocator.add((slot, message.epoch, call), began_ns, ended_ns, work)
        if message.lost_ns:
            for metered in self._metered.values():
                metered.allocator.void(message.lost_ns)

    def died(self, slot: int) -> None:
        """A worker is gone, and with it what it had not told of the time until now."""
        if self._heard.pop(slot, None) is not None:
            self._void()

    async def run(self) -> None:
        """Read the meters, and settle what is over, until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._sample_s)
                for metered in list(self._metered.values()):
                    await self._read(metered)
                    self._settle(metered)
        finally:
            for metered in self._metered.values():
                self._end(metered)
            self._metered.clear()

    async def _read(self, metered: _Metered) -> None:
        now_ns = self._clock.mono_ns()
        if metered.meter is None and now_ns < metered.retry_ns:
            return
        try:
            if metered.meter is None:
                metered.meter = await asyncio.to_thread(self._open, metered.declared)
            counter_uj = await asyncio.to_thread(metered.meter.read)
        except InterlockError as e:
            if not metered.told:
                metered.told = True
                log.warning("the energy of source %s is not metered: %s", metered.source.name, e.message)
            self._close(metered)
            metered.retry_ns = now_ns + int(RETRY_S * 1e9)
            return
        metered.told = False
        metered.allocator.sample(self._clock.mono_ns(), counter_uj)

    def _settle(self, metered: _Metered) -> None:
        source, allocator = metered.source, metered.allocator
        until_ns = self._clock.mono_ns()
        for worker in self._workers():
            if worker.ready:
                heard = self._heard.get(worker.number)
                # 0: it has not said yet what it does there, so nothing can be final
                until_ns = min(until_ns, heard.open.get(source.id, 0) if heard is not None else 0)
        done = allocator.settle(until_ns)
        by_worker: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for (slot, epoch, call), uj in done.calls:
            by_worker.setdefault((slot, epoch), []).append((call, uj))
        allocated, unallocated = 0, done.unallocated_uj
        slots = {worker.number: worker for worker in self._workers()}
        method = metered.meter.method if metered.meter is not None else metered.declared.kind
        for (slot, epoch), calls in by_worker.items():
            heard = self._heard.get(slot)
            for at in range(0, len(calls), CALLS_TOLD_MAX):
                some = calls[at : at + CALLS_TOLD_MAX]
                uj = sum(each for _, each in some)
                alive = heard is not None and heard.epoch == epoch and slot in slots
                if alive and slots[slot].send(Measured(epoch, method, some)):
                    allocated += uj
                else:
                    unallocated += uj
        self._count(source, allocated, unallocated)

    def _count(self, source: Source, allocated: int, unallocated: int) -> None:
        if allocated:
            self._metrics.energy_metered.add((source.name, "calls"), allocated)
        if unallocated:
            self._metrics.energy_metered.add((source.name, "unallocated"), unallocated)

    def _void(self) -> None:
        now_ns = self._clock.mono_ns()
        for metered in self._metered.values():
            metered.allocator.void(now_ns)

    def _end(self, metered: _Metered) -> None:
        """Stop metering a source: what was held for calls under way is nobody's."""
        self._count(metered.source, 0, metered.allocator.held_uj)
        self._close(metered)

    def _close(self, metered: _Metered) -> None:
        meter, metered.meter = metered.meter, None
        if meter is not None:
            try:
                meter.close()
            except InterlockError as e:
                log.warning("the meter of source %s: %s", metered.source.name, e.message)
