"""The NVML meter over a stand-in for the library, as this machine has no GPU."""

from __future__ import annotations

import pytest

from interlock.sources import meters
from interlock.sources.meters import MeterError, NvmlMeter, open_meter
from interlock.types.source import EnergyMeter


class Nvml:
    """As much of `pynvml` as the meter calls; energies in millijoules by device."""

    class NVMLError(Exception):
        pass

    def __init__(self, **energies: int) -> None:
        self.energies = energies
        self.missing = False
        self.sessions = 0

    def nvmlInit(self) -> None:
        if self.missing:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._handle(f"gpu{index}")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return self._handle(uuid)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.energies[handle] < 0:
            raise self.NVMLError("Not Supported")
        return self.energies[handle]

    def _handle(self, name: str) -> str:
        if name not in self.energies:
            raise self.NVMLError("Not Found")
        return name


def test_a_meter_is_the_sum_of_its_devices_in_microjoules() -> None:
    nvml = Nvml(gpu0=5, gpu1=100, GPU_x=7)
    meter = NvmlMeter(("0", "GPU_x"), nvml)
    assert meter.read() == 12_000
    nvml.energies["gpu0"] = 6
    assert meter.read() == 13_000
    meter.close()
    assert nvml.sessions == 0


def test_what_cannot_be_read_is_told_and_let_go() -> None:
    nvml = Nvml(gpu0=-1)
    with pytest.raises(MeterError, match="the energy of a GPU cannot be read: Not Supported"):
        NvmlMeter(("0",), nvml)
    with pytest.raises(MeterError, match="there is no GPU '3' here"):
        NvmlMeter(("3",), nvml)
    assert nvml.sessions == 0
    nvml.missing = True
    with pytest.raises(MeterError, match="NVML cannot be used"):
        NvmlMeter(("0",), nvml)


def test_the_real_library_is_there_and_says_what_it_lacks() -> None:
    """On a machine with GPUs this opens one; elsewhere the reason is one sentence."""
    try:
        open_meter(EnergyMeter("here", ("0",))).close()
    except MeterError as e:
        assert "NVML" in e.message or "GPU" in e.message


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="the extra nvml"):
        meters.open_meter(EnergyMeter("here", ("0",)))
    with pytest.raises(MeterError, match="kind 'dcgm'"):
        meters.open_meter(EnergyMeter("here", ("0",), "dcgm"))
