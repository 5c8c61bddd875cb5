"""Where the worker's time goes: Python by sampling, the kernel by `perf` when it is there. Apart from the figures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Bench
from bench.subjects import ROOT, Gateway


def profile(bench: Bench, folder: Path, out: Path, say: Callable[[str], None]) -> str:
    """Unstreamed requests, then streams, through a worker that samples itself. The report, also kept in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "samples.json"
    path = os.pathsep.join(p for p in (str(ROOT / "bench" / "profiler"), os.environ.get("PYTHONPATH", "")) if p)
    home = folder / "profiled"
    home.mkdir(mode=0o755)
    gateway = Gateway(bench.engine_port, home, {"BENCH_PROFILE_FILE": str(file), "PYTHONPATH": path})
    plan = bench.plan
    loads: dict[str, dict[str, Any]] = {
        "unstreamed requests": {"do": "requests", "connections": plan.connections, "count": plan.requests * 3},
        "streamed events": {"do": "streams", "streams": plan.streams, "rounds": 3, "events": plan.events},
    }
    texts = []
    try:
        bench.order(gateway, "requests", connections=plan.connections, count=2_000)
        for name, order in loads.items():
            say(f"profiling {name}")
            worker = gateway.workers()[0]
            file.unlink(missing_ok=True)
            os.kill(worker, signal.SIGUSR1)
            bench.order(gateway, **order)
            os.kill(worker, signal.SIGUSR2)
            texts.append(f"== {name}: Python\n{_python(file)}")
            texts.append(f"== {name}: all, by perf\n{_perf(bench, gateway, order, folder)}")
    finally:
        gateway.stop()
    text = "\n".join(texts)
    (out / "profile.txt").write_text(text + "\n")
    return text


def _python(file: Path) -> str:
    stop_at = time.monotonic() + 10
    while not file.exists() and time.monotonic() < stop_at:
        time.sleep(0.05)
    if not file.exists():
        return "the worker wrote no samples"
    found = json.loads(file.read_text())
    total = max(1, found["samples"])
    lines = [f"{n / total:7.1%}  {where}" for where, n in found["lines"][:40]]
    functions = [f"{n / total:7.1%}  {where}" for where, n in found["functions"][:40]]
    return "\n".join(
        [f"{total} samples; on the line itself:", *lines, "in the function and what it calls:", *functions]
    )


def _perf(bench: Bench, gateway: Gateway, order: dict[str, Any], folder: Path) -> str:
    perf = shutil.which("perf")
    if perf is None:
        return "perf is not installed"
    data = folder / "perf.data"
    recorder = subprocess.Popen(
        [perf, "record", "-q", "-F", "999", "-g", "-o", str(data), "-p", str(gateway.workers()[0])],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(0.5)
    bench.order(gateway, **order)
    recorder.send_signal(signal.SIGINT)
    recorder.wait(30)
    told = subprocess.run(
        [perf, "report", "-i", str(data), "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in told.stdout.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(lines[:60]) or f"perf recorded nothing: {told.stderr.strip()[:200]}"
