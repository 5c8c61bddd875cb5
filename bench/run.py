"""`make bench`: measure everything and write `bench/results.json`.

    .venv/bin/python -m bench.run [--quick | --smoke] [--only nginx,probe,gateway] [--rounds N] [--profile] [--out FILE]

Needs nginx for the ratios (installed by apt when absent and permitted). `--profile` says where the worker's time goes
and takes no part in the figures: it runs after them.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import measure, profile, report
from bench.measure import QUICK, SMOKE, Bench, Plan
from bench.subjects import ROOT, Gateway, Nginx, Probe, Skipped, Subject


def say(words: str) -> None:
    """Tell whoever waits."""
    print(words, file=sys.stderr, flush=True)


def start(bench: Bench, wanted: list[str], folder: Path, skipped: list[str]) -> list[Subject]:
    """Start the subjects that can run here; why others cannot goes to `skipped`."""
    makers: dict[str, Callable[[], Subject]] = {
        "nginx": lambda: Nginx(bench.engine_port, folder / "nginx"),
        "probe": lambda: Probe(bench.engine_port),
        "gateway": lambda: Gateway(bench.engine_port, folder),
    }
    subjects: list[Subject] = []
    for name in wanted:
        try:
            subjects.append(makers[name]())
        except Skipped as e:
            skipped.append(f"{name}: {e}")
            say(f"skipped {name}: {e}")
    return subjects


def measure_all(bench: Bench, subjects: list[Subject], folder: Path, skipped: list[str]) -> dict[str, Any]:
    """Every measurement that the running subjects allow."""
    rounds = measure.cpu_rounds(bench, subjects, say)
    results: dict[str, Any] = {
        "cpu_per_request_ratio_nginx": report.ratio(rounds, "gateway", "cpu_us_per_request"),
        "cpu_per_event_ratio_nginx": report.ratio(rounds, "gateway", "cpu_us_per_event"),
        "profile": report.PROFILE,
        "profile_words": report.PROFILE_WORDS,
        "method": report.plan_words(bench.plan),
        "machine": report.machine(folder),
        "subjects": report.summary(rounds),
        "ratios": {
            s.name: {
                "cpu_per_request": report.ratio(rounds, s.name, "cpu_us_per_request"),
                "cpu_per_event": report.ratio(rounds, s.name, "cpu_us_per_event"),
            }
            for s in subjects
        },
        "rounds": rounds,
        "skipped": skipped,
        "fsync": measure.fsync(folder),
    }
    slowest = min(subjects, key=lambda s: results["subjects"][s.name]["requests_per_second"])
    rate = results["subjects"][slowest.name]["requests_per_second"] / 2
    results["latency_rate"] = round(rate)
    say(f"latency at {rate:.0f} requests/s: half of what {slowest.name} can do")
    results["latency"] = measure.latencies(bench, subjects, rate)
    say(f"{bench.plan.many_streams} streams at a time")
    results["many_streams"] = {s.name: measure.many_streams(bench, s) for s in subjects}
    results["imports"] = measure.import_seconds(bench.plan.starts)
    gateway = next((s for s in subjects if isinstance(s, Gateway)), None)
    if gateway is not None:
        results["memory"] = measure.memory(bench, gateway, say)
        bench.order(gateway, "forget")
        warm = sorted(gateway.restart() for _ in range(bench.plan.starts))
        results["start"] = {"cold_s": round(gateway.start_s, 2), "warm_s": round(warm[len(warm) // 2], 2)}
    for subject in subjects:
        subject.stop()  # the gateway's shipper would still be at work on what was called: what follows is alone
    say("decisions")
    results["decisions"] = measure.decisions(bench.plan.decide_rounds)
    say("the ledger")
    results["ledger"] = measure.ledger(bench.plan.ledger_calls)
    say("verifying an export")
    results["ledger_verify"] = measure.verifying(bench.plan.verify_entries)
    say("searching the ledger")
    results["ledger_search"] = measure.search(bench.plan.search_entries)
    results["targets"] = report.verdicts(results)
    return results


def main() -> int:
    """Command line. 0: measured; 1: something could not be measured that should have been."""
    parser = argparse.ArgumentParser(description="Measure the gateway beside a bare nginx reverse proxy.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, less exact")
    parser.add_argument("--smoke", action="store_true", help="seconds only: does everything run? no valid figures")
    parser.add_argument("--only", default="nginx,probe,gateway", help="subjects, in order")
    parser.add_argument("--rounds", type=int, help="alternating rounds")
    parser.add_argument("--profile", action="store_true", help="afterwards, say where the worker's time goes")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results.json")
    options = parser.parse_args()
    plan = SMOKE if options.smoke else QUICK if options.quick else Plan()
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="interlock-bench-"))
    folder.chmod(0o755)
    bench = Bench(plan)
    subjects: list[Subject] = []
    skipped: list[str] = []
    try:
        subjects = start(bench, options.only.split(","), folder, skipped)
        if not subjects:
            return 1
        results = measure_all(bench, subjects, folder, skipped)
        results["seconds"] = round(time.monotonic() - began)
        report.write(results, options.out)
        print(report.table(results))
        if options.profile:
            for subject in subjects:
                subject.stop()
            subjects = []
            print(profile.profile(bench, folder, options.out.parent / "out", say))
    finally:
        for subject in subjects:
            subject.stop()
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
