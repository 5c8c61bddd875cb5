"""The measurements, each a function from running subjects to plain figures."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import procs
from bench.engine import MODEL
from bench.subjects import OTHER_CORES, ROOT, Direct, Gateway, Subject, end, python_server, spawn


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured. `quick` trades precision for time."""

    rounds: int = 12
    requests: int = 8_000
    connections: int = 32
    streams: int = 200
    events: int = 60
    interval_ms: int = 20
    latency_seconds: float = 5.0
    latency_rounds: int = 3
    memory_requests: int = 200_000
    many_streams: int = 2_000
    many_events: int = 40
    many_interval_ms: int = 200
    starts: int = 5
    ledger_calls: int = 20_000
    verify_entries: int = 1_000_000
    search_entries: int = 1_000_000
    decide_rounds: int = 40


QUICK = Plan(
    rounds=4, requests=4_000, events=40, latency_seconds=2.0, latency_rounds=1, memory_requests=20_000, many_events=20,
    starts=3, ledger_calls=3_000, verify_entries=200_000, search_entries=100_000, decide_rounds=12,
)  # fmt: skip

SMOKE = Plan(
    rounds=1, requests=200, connections=4, streams=10, events=5, latency_seconds=0.2, latency_rounds=1,
    memory_requests=200, many_streams=20, many_events=3, many_interval_ms=20, starts=1,
    ledger_calls=50, verify_entries=500, search_entries=2_000, decide_rounds=1,
)  # fmt: skip
"""Enough to see that everything works; the figures mean nothing."""


class Bench:
    """The mock engine and the load generator, and orders to them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.engine, self.engine_port = python_server("bench.engine", cores=OTHER_CORES)
        self.load = spawn(
            [sys.executable, "-m", "bench.load"], OTHER_CORES, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def order(self, subject: Subject, do: str, **more: Any) -> dict[str, Any]:
        """Have the load generator do something to a subject. Raises RuntimeError when it cannot."""
        assert self.load.stdin is not None and self.load.stdout is not None
        order = {"do": do, "port": subject.port, "model": MODEL, "key": subject.key, **more}
        self.load.stdin.write(json.dumps(order) + "\n")
        self.load.stdin.flush()
        line = self.load.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{do} on {subject.name}: {answer['error']}")
        return answer

    def pace(self, interval_ms: int) -> None:
        """Set the interval between two events of a stream."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.engine_port}/pace", json.dumps({"interval_ms": interval_ms}).encode()
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()

    def close(self) -> None:
        """End both processes."""
        end(self.load)
        end(self.engine)


def refuse_faults(subject: Subject, answer: dict[str, Any]) -> None:
    """A figure is worth nothing when answers were wrong. Raises RuntimeError."""
    if answer.get("faults"):
        raise RuntimeError(f"{subject.name}: {answer['faults']}")


def cpu_rounds(bench: Bench, subjects: list[Subject], say: Any) -> dict[str, dict[str, list[float]]]:
    """CPU per request and per streamed event, in alternating rounds: subject -> figure -> one value per round."""
    plan = bench.plan
    bench.pace(plan.interval_ms)
    out: dict[str, dict[str, list[float]]] = {s.name: {} for s in subjects}
    for subject in subjects:
        one_round(
            bench, subject, dataclasses.replace(plan, requests=max(plan.connections, plan.requests // 10), events=20)
        )
    for number in range(plan.rounds):
        order = subjects if number % 2 == 0 else subjects[::-1]
        for subject in order:
            figures = one_round(bench, subject, plan)
            for name, value in figures.items():
                out[subject.name].setdefault(name, []).append(value)
            say(
                f"round {number + 1}/{plan.rounds} {subject.name:8s} {figures['cpu_us_per_request']:7.2f} us/request"
                f" {figures['cpu_us_per_event']:7.2f} us/event"
            )
    return out


def one_round(bench: Bench, subject: Subject, plan: Plan) -> dict[str, float]:
    """One fixed count of requests, then of streamed events, and the CPU time each took."""
    pids = subject.pids()
    before = procs.cpu(pids)
    whole = bench.order(subject, "requests", connections=plan.connections, count=plan.requests)
    refuse_faults(subject, whole)
    middle = procs.cpu(pids)
    streamed = bench.order(subject, "streams", streams=plan.streams, rounds=1, events=plan.events)
    refuse_faults(subject, streamed)
    time.sleep(0.02)
    requests, events = middle - before, procs.cpu(pids) - middle
    return {
        "cpu_us_per_request": requests.total_us / whole["count"],
        "cpu_user_us_per_request": requests.user_us / whole["count"],
        "cpu_system_us_per_request": requests.system_us / whole["count"],
        "requests_per_second": whole["per_second"],
        "cpu_us_per_event": events.total_us / streamed["events"],
        "cpu_user_us_per_event": events.user_us / streamed["events"],
        "cpu_system_us_per_event": events.system_us / streamed["events"],
        "events_per_second": streamed["events"] / streamed["seconds"],
        "reads_per_event": streamed["reads"] / streamed["events"],
        "stream_first_byte_p50_ms": streamed["first_byte"]["p50_ms"],
        "stream_first_byte_p99_ms": streamed["first_byte"]["p99_ms"],
    }


def latencies(bench: Bench, subjects: list[Subject], rate: float) -> dict[str, dict[str, float]]:
    """Latency at one rate, direct and through each subject, medians over rounds. `added_*`: minus direct's."""
    plan = bench.plan
    direct = Direct(bench.engine_port)
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(plan.latency_rounds):
        for subject in (direct, *subjects):
            answer = bench.order(subject, "rate", rate=rate, seconds=plan.latency_seconds)
            refuse_faults(subject, answer)
            found.setdefault(subject.name, []).append(answer)
    names = ("p50_ms", "p90_ms", "p99_ms", "p100_ms", "sent_late_p99_ms")
    out = {who: {n: statistics.median(a[n] for a in answers) for n in names} for who, answers in found.items()}
    for who, figures in out.items():
        if who != "direct":
            for percent in ("p50_ms", "p99_ms"):
                figures["added_" + percent] = round(figures[percent] - out["direct"][percent], 3)
    return out


def memory(bench: Bench, gateway: Gateway, say: Any) -> dict[str, Any]:
    """The worker's resident memory while it serves `memory_requests` calls."""
    plan = bench.plan
    worker = gateway.workers()
    step = max(1, plan.memory_requests // 10)
    series = [round(procs.rss_mb(worker), 1)]
    for _ in range(plan.memory_requests // step):
        refuse_faults(gateway, bench.order(gateway, "requests", connections=plan.connections, count=step))
        series.append(round(procs.rss_mb(worker), 1))
    say(f"worker memory over {plan.memory_requests} requests: {series} MB")
    return {
        "requests": plan.memory_requests, "worker_rss_mb": series, "worker_rss_mb_max": max(series),
        "growth_mb_second_half": round(series[-1] - series[len(series) // 2], 1),
        "worker_pss_mb": round(procs.pss_mb(worker), 1),
        "node_rss_mb": round(procs.rss_mb([p for p in gateway.pids() if p not in worker]), 1),
        "rest_pss_mb": round(procs.pss_mb(gateway.rest()), 1),
    }  # fmt: skip


def many_streams(bench: Bench, subject: Subject) -> dict[str, Any]:
    """`many_streams` at the same time: all must end whole."""
    plan = bench.plan
    bench.pace(plan.many_interval_ms)
    pids = subject.pids()
    before = procs.cpu(pids)
    answer = bench.order(subject, "streams", streams=plan.many_streams, rounds=1, events=plan.many_events)
    spent = procs.cpu(pids) - before
    refuse_faults(subject, answer)
    bench.order(subject, "forget")
    bench.pace(plan.interval_ms)
    return {
        "streams": answer["streams"], "events": answer["events"], "seconds": round(answer["seconds"], 2),
        "faults": answer["faults"], "first_byte": answer["first_byte"],
        "cpu_us_per_event": round(spent.total_us / max(1, answer["events"]), 2),
        "rss_mb": round(procs.rss_mb(pids), 1),
    }  # fmt: skip


def ledger(calls: int) -> dict[str, Any]:
    """What the ledger costs, measured in a process of its own: see `bench.ledger`."""
    command = [sys.executable, "-m", "bench.ledger", str(calls)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=600)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def verifying(entries: int) -> dict[str, Any]:
    """How fast an export of so many entries is verified, measured in a process of its own: see `bench.verify`."""
    command = [sys.executable, "-m", "bench.verify", str(entries)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=900)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def search(entries: int) -> dict[str, Any]:
    """How long a ledger of so many entries is searched, measured in a process of its own: see `bench.search`."""
    command = [sys.executable, "-m", "bench.search", str(entries)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=900)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def decisions(rounds: int) -> dict[str, Any]:
    """What a decision costs, measured in a process of its own: see `bench.decide`."""
    command = [sys.executable, "-m", "bench.decide", str(rounds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def import_seconds(starts: int) -> dict[str, float]:
    """Time to `import interlock` and the worker's module, beyond bare Python's own start (smallest of several)."""

    def smallest(code: str) -> float:
        times = []
        for _ in range(starts):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times.append(time.monotonic() - began)
        return min(times)

    bare = smallest("pass")
    out = {"python_s": round(bare, 3)}
    for module in ("interlock", "interlock.gateway.worker", "interlock.cli.main"):
        try:
            out[f"import {module}"] = round(max(0.0, smallest(f"import {module}") - bare), 3)
        except subprocess.CalledProcessError:
            continue  # not in this version
    return out


def fsync(folder: Path, count: int = 300) -> dict[str, float]:
    """The disk's own part of a durable record: 1 KB appends with fdatasync, in milliseconds."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(count):
            os.write(file.fileno(), b"x" * 1024)
            began = time.monotonic()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - began) * 1000)
    ordered = sorted(times)
    return {"p50_ms": round(ordered[count // 2], 3), "p99_ms": round(ordered[count * 99 // 100], 3)}


def median(values: Iterable[float]) -> float:
    """Median, rounded for people."""
    return round(statistics.median(values), 4)
