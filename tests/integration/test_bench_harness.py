"""The bench runs from end to end, and its CPU figures are what processes burn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_smoke_run_over_the_probe_writes_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--smoke", "--only", "probe", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert results["profile"] == "direct" and results["cpu_per_request_ratio_nginx"] is None
    probe = results["subjects"]["probe"]
    assert 5 < probe["cpu_us_per_request"] < 2_000
    assert 5 < probe["cpu_us_per_event"] < 2_000
    assert results["many_streams"]["probe"] | {"seconds": 0} and not results["many_streams"]["probe"]["faults"]
    assert results["latency"]["probe"]["p99_ms"] >= results["latency"]["probe"]["p50_ms"] > 0

    verified = results["ledger_verify"]
    assert verified["entries"] == 500 and verified["verified_per_cpu_s"] > 0
    assert results["targets"]["verified_per_s"]["measured"] == verified["verified_per_s"] > 0
    assert results["targets"]["records_shipped_per_cpu_s_undisturbed"]["measured"] > 0

    decisions = results["decisions"]
    assert decisions["candidates"] == 50 and decisions["in_sorts"]["sort"] == 1
    assert all(us >= decisions["us_undisturbed"][name] > 0 for name, us in decisions["us"].items())
    assert results["targets"]["decide_50_us"]["measured"] == decisions["us_undisturbed"]["decide_all"]
    assert results["targets"]["decide_50_different_us"]["measured"] == decisions["us_undisturbed"]["decide_exploring"]


def test_cpu_time_of_a_process_tree_is_what_it_burns() -> None:
    code = """
import os, resource, sys
sys.path.insert(0, ".")
from bench import procs
import subprocess, time
burn = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass\\ninput()"
parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
child = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
before = time.monotonic()
while procs.cpu(procs.tree(child.pid)).total_us < 300_000 and time.monotonic() - before < 60:
    time.sleep(0.02)
time.sleep(0.1)
used = procs.cpu(procs.tree(child.pid))
alive = len(procs.tree(child.pid))
child.communicate(b"x\\n")
whole = resource.getrusage(resource.RUSAGE_CHILDREN)
print(alive, used.total_us, used.user_us + used.system_us, 1e6 * (whole.ru_utime + whole.ru_stime))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    processes, scheduled, ticks, to_their_end = (float(x) for x in done.stdout.split())
    assert processes == 2
    assert 300_000 <= scheduled < 1.1 * to_their_end, "counted twice"
    assert abs(scheduled - ticks) < 60_000
