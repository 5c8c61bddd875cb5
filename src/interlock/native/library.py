"""Which of the compiled files fits this machine."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple

VERSION = 1
"""Of the functions and tables in `native.zig`, which has the same."""

FOLDER = Path(__file__).with_name("lib")
SWITCH = "INTERLOCK_NATIVE"
"""The environment variable that leaves the native part out when it is 0."""
CPUINFO = Path("/proc/cpuinfo")


class Variant(NamedTuple):
    """A compiled file: for which machine (`platform.machine`), what its processor must have by /proc/cpuinfo."""

    name: str
    machine: str
    flags: frozenset[str]


VARIANTS = (
    Variant(
        "linux-x86_64-sha",
        "x86_64",
        frozenset(["abm", "bmi1", "bmi2", "cx16", "lahf_lm", "pni", "popcnt", "sha_ni", "sse4_1", "sse4_2", "ssse3"]),
    ),
    Variant("linux-x86_64", "x86_64", frozenset()),
    Variant("linux-aarch64-sha2", "aarch64", frozenset({"asimd", "sha2"})),
    Variant("linux-aarch64", "aarch64", frozenset({"asimd"})),
)
"""The best first."""


def choose(system: str, machine: str, flags: Set[str]) -> Variant | None:
    """The variant for a `sys.platform`, `platform.machine()` and processor; None if there is none."""
    if system != "linux":
        return None
    return next((each for each in VARIANTS if each.machine == machine and each.flags <= flags), None)


def processor_flags(text: str) -> frozenset[str]:
    """What the processor has, by the text of /proc/cpuinfo: what all that it lists have."""
    lines = [line.partition(":") for line in text.splitlines()]
    found = [frozenset(value.split()) for name, _, value in lines if name.strip() in {"flags", "Features"}]
    return frozenset.intersection(*found) if found else frozenset()


def load(environment: Mapping[str, str] = os.environ, folder: Path = FOLDER) -> tuple[Variant, ctypes.CDLL] | None:
    """The library for this machine. None if it is switched off, if there is none, or if it is of another version."""
    if environment.get(SWITCH) == "0":
        return None
    try:
        variant = choose(sys.platform, platform.machine(), processor_flags(CPUINFO.read_text()))
        if variant is None:
            return None
        library = ctypes.CDLL(str(folder / f"{variant.name}.so"))
        if library.interlock_native_version() != VERSION:
            return None
    except (OSError, AttributeError, UnicodeDecodeError):
        return None
    return variant, library
