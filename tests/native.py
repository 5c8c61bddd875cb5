"""The native part for tests: every variant that this machine can run, and none."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest

from interlock.ledger.proof import entry, verify
from interlock.native import library
from interlock.native.scan import Native

ROOT = Path(__file__).resolve().parents[1]


def build_script() -> ModuleType:
    """scripts/native.py."""
    spec = importlib.util.spec_from_file_location("scripts_native", ROOT / "scripts" / "native.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def expected() -> str:
    """Why there need be no native part here; "" where there must be one."""
    if sys.platform != "linux" or platform.machine() not in {each.machine for each in library.VARIANTS}:
        return f"there is no native part for {sys.platform} on {platform.machine()}"
    return "" if build_script().compiler_version() else "the compiler is not installed (ziglang)"


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
    for module in (entry, verify):
        patch.setattr(module, "native", lambda: native)
