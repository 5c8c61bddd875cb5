"""Energy meters of sources: what the devices under an engine have used, as a counter that only rises.

NVML counts the energy of a GPU since its driver was loaded, in millijoules, from the Volta generation on. Source: NVML
API reference, "nvmlDeviceGetTotalEnergyConsumption".
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from interlock.errors import InterlockError
from interlock.types.source import EnergyMeter

UJ_PER_MJ = 1000
"""Microjoules of a millijoule."""


class MeterError(InterlockError):
    """A meter cannot be opened or read; the message says why."""

    code = "meter_failed"


class Meter(Protocol):
    """A counter of energy. `method` names it in records."""

    method: str

    def read(self) -> int:
        """Microjoules used so far, since an instant that stays the same. May take milliseconds. Raises MeterError."""

    def close(self) -> None:
        """Let go of the devices."""


class NvmlMeter:
    """The sum over NVIDIA GPUs of this machine."""

    method = "nvml"

    def __init__(self, devices: tuple[str, ...], nvml: Any) -> None:
        """`devices`: indices or UUIDs; `nvml`: the module `pynvml`. Raises MeterError."""
        self._nvml = nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as e:
            raise MeterError(f"NVML cannot be used: {e}") from None
        try:
            self._handles = [self._handle(device) for device in devices]
            self.read()
        except MeterError:
            self.close()
            raise

    def read(self) -> int:
        """See `Meter`."""
        try:
            used = [int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self._handles]
        except self._nvml.NVMLError as e:
            raise MeterError(f"the energy of a GPU cannot be read: {e}") from None
        return sum(used) * UJ_PER_MJ

    def close(self) -> None:
        """See `Meter`."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as e:
            raise MeterError(f"NVML cannot be closed: {e}") from None

    def _handle(self, device: str) -> Any:
        try:
            if device.isdecimal():
                return self._nvml.nvmlDeviceGetHandleByIndex(int(device))
            return self._nvml.nvmlDeviceGetHandleByUUID(device)
        except self._nvml.NVMLError as e:
            raise MeterError(f"there is no GPU {device!r} here: {e}") from None


def open_meter(declared: EnergyMeter) -> Meter:
    """The meter that a source declares. Raises MeterError."""
    if declared.kind != "nvml":
        raise MeterError(f"meters of kind {declared.kind!r} are not known")
    return NvmlMeter(declared.devices, _pynvml())


def _pynvml() -> ModuleType:
    try:
        import pynvml
    except ImportError:
        raise MeterError("the package nvidia-ml-py is not installed (the extra nvml)") from None
    module: ModuleType = pynvml
    return module
