"""From figures to `bench/results.json` and a table. No figure stands without its profile."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench.measure import Plan, median

PROFILE = "direct"
PROFILE_WORDS = (
    "model named, 1 KB prompt, API key, policy decision warm, limits on key, principal and team, hard budgets of money "
    "and tokens, "
    "full record with fsync, metrics on, one worker"
)
TARGETS: dict[str, tuple[float, str]] = {
    "cpu_per_request_ratio_nginx": (3.0, "CPU per unstreamed request, in nginx's"),
    "cpu_per_event_ratio_nginx": (1.8, "CPU per streamed event, in nginx's"),
    "latency_added_p99_ms": (5.0, "added p99 latency at half load, without the disk's own fsync p99, ms"),
    "worker_rss_mb": (150.0, "memory of a worker, MB"),
    "start_warm_s": (2.0, "from start to ready on a warm home, s"),
    "import_interlock_s": (0.2, "`import interlock`, s"),
    "decide_50_us": (
        150.0,
        "a decision among 50 candidates, placed, by estimates, with trials, us of CPU, undisturbed",
    ),
    "decide_50_different_us": (150.0, "the same among 50 different models, not placed, us of CPU, undisturbed"),
    "understand_and_decide_us": (1000.0, "the same with reading a prompt of 4 KB, us of CPU, undisturbed"),
}
RATES: dict[tuple[str, str], tuple[float, str]] = {
    ("ledger", "records_shipped_per_cpu_s_undisturbed"): (20_000, "records of the log shipped, a second of its CPU"),
    ("ledger_verify", "verified_per_s"): (400_000, "entries of a large export verified, a second, on all cores"),
}
"""Where they are in the results. Targets that are met from below."""


def summary(rounds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds, and the spread of the two figures that ratios are made of."""
    out = {}
    for subject, figures in rounds.items():
        out[subject] = {name: median(values) for name, values in figures.items()}
        for name in ("cpu_us_per_request", "cpu_us_per_event"):
            values = figures[name]
            out[subject][name + "_min"], out[subject][name + "_max"] = round(min(values), 2), round(max(values), 2)
    return out


def ratio(rounds: dict[str, dict[str, list[float]]], subject: str, figure: str) -> float | None:
    """Median over rounds of subject / nginx in the same round; None when either was not measured."""
    if subject not in rounds or "nginx" not in rounds:
        return None
    pairs = zip(rounds[subject][figure], rounds["nginx"][figure], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def verdicts(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each target with what was measured. `met` is None when it was not."""
    latency = results.get("latency", {}).get("gateway", {})
    decided = results.get("decisions", {}).get("us_undisturbed", {})
    measured = {
        "cpu_per_request_ratio_nginx": results["cpu_per_request_ratio_nginx"],
        "cpu_per_event_ratio_nginx": results["cpu_per_event_ratio_nginx"],
        "latency_added_p99_ms": (
            round(latency["added_p99_ms"] - results["fsync"]["p99_ms"], 3) if "added_p99_ms" in latency else None
        ),
        "worker_rss_mb": results.get("memory", {}).get("worker_rss_mb_max"),
        "start_warm_s": results.get("start", {}).get("warm_s"),
        "import_interlock_s": results.get("imports", {}).get("import interlock"),
        "decide_50_us": decided.get("decide_all"),
        "decide_50_different_us": decided.get("decide_exploring"),
        "understand_and_decide_us": decided.get("understand_and_decide"),
    }
    found: dict[str, dict[str, Any]] = {
        name: {"target": target, "measured": value, "met": None if value is None else value <= target, "what": words}
        for name, (target, words) in TARGETS.items()
        for value in (measured[name],)
    }
    for (part, name), (target, words) in RATES.items():
        value = results.get(part, {}).get(name)
        met = None if value is None else value >= target
        found[name] = {"target": target, "measured": value, "met": met, "what": words}
    return found


def machine(home: Path) -> dict[str, Any]:
    """What it was measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "")
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(home)], capture_output=True, text=True, check=False)
    return {
        "cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
        "record_log_filesystem": kind.stdout.strip(), "load_average_at_start": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def plan_words(plan: Plan) -> str:
    """How the figures were taken, in one sentence."""
    return (
        f"{plan.rounds} alternating rounds of {plan.requests} unstreamed requests over {plan.connections} connections, "
        f"then {plan.streams} streams of {plan.events} events, one every {plan.interval_ms} ms each; CPU of the "
        "subject's process tree from the scheduler; medians; ratios are medians of per-round ratios"
    )


def write(results: dict[str, Any], file: Path) -> None:
    """Write the results as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = [f"profile {PROFILE}: {PROFILE_WORDS}", ""]
    lines.append(f"{'':10s} {'us/request':>12s} {'us/event':>10s} {'x nginx':>8s} {'x nginx':>8s} {'req/s':>8s}")
    for name, figures in results["subjects"].items():
        ratios = results["ratios"].get(name, {})
        lines.append(
            f"{name:10s} {figures['cpu_us_per_request']:12.2f} {figures['cpu_us_per_event']:10.2f}"
            f" {ratios.get('cpu_per_request') or float('nan'):8.2f} {ratios.get('cpu_per_event') or float('nan'):8.2f}"
            f" {figures['requests_per_second']:8.0f}"
        )
    if "latency" in results:
        lines += ["", f"latency at {results['latency_rate']:.0f} requests/s (fsync alone: {results['fsync']})"]
        for name, figures in results["latency"].items():
            lines.append(f"  {name:8s} p50 {figures['p50_ms']:.2f} ms  p99 {figures['p99_ms']:.2f} ms")
    if "decisions" in results:
        found = results["decisions"]
        lines += ["", f"deciding among {found['candidates']}, us of CPU, undisturbed, median (times of sorting them)"]
        for name, us in found["us"].items():
            lines.append(f"  {name:24s} {found['us_undisturbed'][name]:8.1f} {us:8.1f} ({found['in_sorts'][name]})")
    if "ledger" in results:
        lines += ["", "ledger: " + ", ".join(f"{name} {value}" for name, value in results["ledger"].items())]
    if "ledger_search" in results:
        found = results["ledger_search"]
        lines += ["", f"searching a ledger of {found['entries']} entries, p50 ms (times of a call by its id)"]
        for name, figures in found["search"].items():
            lines.append(f"  {name:24s} {figures['p50_ms']:8.2f} ({figures['in_lookups']})")
    lines.append("")
    for name, verdict in results["targets"].items():
        word = {True: "met", False: "MISSED", None: "not measured"}[verdict["met"]]
        lines.append(f"  {name}: {verdict['measured']} (target {verdict['target']}): {word}")
    lines += [f"  skipped: {s}" for s in results["skipped"]]
    return "\n".join(lines)
