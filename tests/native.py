"""The native part for tests: every variant that this machine can run, and none."""

from __future__ import annotations

import ctypes
import platform
import sys

import pytest

from interlock.ledger.proof import entry, parts
from interlock.native import library
from interlock.native.scan import Native
from tests.scripts import script


def expected() -> str:
    """Why there need be no native part here; "" where there must be one."""
    if sys.platform != "linux" or platform.machine() not in {each.machine for each in library.VARIANTS}:
        return f"there is no native part for {sys.platform} on {platform.machine()}"
    return "" if script("native").compiler_version() else "the compiler is not installed (ziglang)"


def variants() -> list[Native]:
    """Those that are there and run here, the best first."""
    try:
        flags = library.processor_flags(library.CPUINFO.read_text())
    except OSError:
        flags = frozenset()
    fit = [each.name for each in library.VARIANTS if each.machine == platform.machine() and each.flags <= flags]
    files = {name: library.FOLDER / f"{name}.so" for name in fit if sys.platform == "linux"}
    return [Native(name, ctypes.CDLL(str(file))) for name, file in files.items() if file.exists()]


def use(patch: pytest.MonkeyPatch, native: Native | None) -> None:
    """Let entries be read by this one, or by none."""
    for module in (entry, parts):
        patch.setattr(module, "native", lambda: native)
