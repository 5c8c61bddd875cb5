"""CPU time, memory and core affinity of process trees, from /proc."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """CPU time of a process tree. `total_us` from the scheduler's run time (schedstat, nanoseconds), `user_us` and
    `system_us` from utime and stime (10 ms steps)."""

    total_us: float
    user_us: float
    system_us: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.total_us - other.total_us, self.user_us - other.user_us, self.system_us - other.system_us)


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
            except (OSError, IndexError):
                continue  # ended meanwhile
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu(pids: list[int]) -> Cpu:
    """CPU time of these processes so far, all threads. An ended process counts nothing: sum over a stable set."""
    total = user = system = 0.0
    for pid in pids:
        fields = _stat(pid)
        user += int(fields[11]) / TICKS * 1e6
        system += int(fields[12]) / TICKS * 1e6
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1000
    return Cpu(total, user, system)


def rss_mb(pids: list[int]) -> float:
    """Resident memory of these processes, megabytes (shared pages count in each)."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE / 1e6


def pss_mb(pids: list[int]) -> float:
    """Proportional memory of these processes, megabytes (shared pages are divided)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6


def pin(pids: list[int], cores: set[int]) -> None:
    """Keep all threads of these processes on these cores."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def command_line(pid: int) -> str:
    """Its arguments, joined by blanks."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _stat(pid: int) -> list[str]:
    """Fields of /proc/pid/stat after the command's name: index 0 is the state, 1 the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent(pid: int) -> int:
    """Its parent's id."""
    return int(_stat(pid)[1])
