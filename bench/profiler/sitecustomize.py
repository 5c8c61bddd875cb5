"""A sampling profiler for the worker process, loaded through PYTHONPATH by `bench.run --profile` and nowhere else.

Every millisecond of CPU time it notes the running function and its callers; time inside C code falls on the line that
called it. SIGUSR1 clears the counts, SIGUSR2 writes them to `BENCH_PROFILE_FILE`.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
from pathlib import Path
from types import CodeType, FrameType

INTERVAL_S = 0.001
DEPTH_MAX = 40

_self: collections.Counter[tuple[CodeType, int]] = collections.Counter()
_total: collections.Counter[CodeType] = collections.Counter()
_samples = 0


def _sample(_signal: int, frame: FrameType | None) -> None:
    global _samples
    if frame is None:
        return
    _samples += 1
    _self[frame.f_code, frame.f_lineno] += 1
    seen: set[CodeType] = set()
    depth = 0
    while frame is not None and depth < DEPTH_MAX:
        seen.add(frame.f_code)
        frame = frame.f_back
        depth += 1
    _total.update(seen)


def _clear(_signal: int, _frame: FrameType | None) -> None:
    global _samples
    _samples = 0
    _self.clear()
    _total.clear()


def _place(code: CodeType, line: int) -> str:
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line} {code.co_qualname}"


def _write(_signal: int, _frame: FrameType | None) -> None:
    lines = [[_place(c, line), n] for (c, line), n in _self.most_common(60)]
    functions = [[_place(c, c.co_firstlineno), n] for c, n in _total.most_common(80)]
    file = Path(os.environ["BENCH_PROFILE_FILE"])
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"samples": _samples, "lines": lines, "functions": functions}))
    new.rename(file)


if os.environ.get("BENCH_PROFILE_FILE") and any("interlock.gateway.worker" in a for a in sys.orig_argv):
    signal.signal(signal.SIGPROF, _sample)
    signal.signal(signal.SIGUSR1, _clear)
    signal.signal(signal.SIGUSR2, _write)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
