"""`python -m tests.prove`: run the long proofs and write their evidence. Exit code 1 when one of them fails."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import budget, kill, ledger, limits, overflow, sessions, snapshot
from .evidence import ROOT, source_sha256, write

ROUNDS = 200
LIMITS_S = 60.0
OVERFLOW_S = 600.0
USERS, TURNS = 300, 8
KEYS = 100_000
REVOCATIONS = 20
MUTANTS = "tests.mutants.runner"


def mutants() -> dict[str, Any]:
    """Run every committed mutant; each must be noticed."""
    report = []
    with subprocess.Popen([sys.executable, "-u", "-m", MUTANTS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdout is not None
        for line in ran.stdout:
            sys.stderr.write(f"mutants: {line}")
            report.append(line.rstrip())
    return {
        "command": f"python -m {MUTANTS}",
        "report": report,
        "failures": [] if ran.returncode == 0 else [f"exit code {ran.returncode}"],
    }


def proofs(given: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """All proofs by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "kill": lambda: kill.prove(rounds=given.rounds, seed=given.seed, only=given.round),
        "budget": lambda: budget.prove(rounds=given.rounds, seed=given.seed),
        "ledger": lambda: ledger.prove(rounds=given.rounds, seed=given.seed),
        "limits": lambda: limits.prove(seconds=given.limits_seconds, seed=given.seed),
        "overflow": lambda: overflow.prove(seconds=given.overflow_seconds, seed=given.seed),
        "sessions": lambda: sessions.prove(users=given.users, turns=given.turns, seed=given.seed),
        "snapshot": lambda: snapshot.prove(keys=given.keys, revocations=REVOCATIONS, seed=given.seed),
    }
    if importlib.util.find_spec(MUTANTS) is not None:
        found["mutants"] = mutants
    return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument(
        "proof",
        nargs="*",
        help="kill, budget, ledger, limits, overflow, sessions, snapshot, mutants; all of them when none is named",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the kill, budget and ledger proofs")
    parser.add_argument("--round", type=int, help="play only this round of the kill proof")
    parser.add_argument("--seed", type=int, default=1, help="what all plans are made from")
    parser.add_argument("--limits-seconds", type=float, default=LIMITS_S, help="length of the limits proof")
    parser.add_argument("--overflow-seconds", type=float, default=OVERFLOW_S, help="length of the overload")
    parser.add_argument("--users", type=int, default=USERS, help="users of the sessions proof")
    parser.add_argument("--turns", type=int, default=TURNS, help="turns of each of their conversations")
    parser.add_argument("--keys", type=int, default=KEYS, help="keys of the snapshot proof")
    parser.add_argument("--out", type=Path, default=ROOT / "prove-evidence", help="folder that evidence is written to")
    given = parser.parse_args()
    available = proofs(given)
    if unknown := set(given.proof) - set(available):
        parser.error(f"no proof {', '.join(sorted(unknown))}; there are {', '.join(available)}")
    failed = []
    for name in given.proof or available:
        source = source_sha256()
        found = available[name]()
        file = write(given.out, name, found, source)
        sys.stderr.write(f"{name}: {'FAILED' if found['failures'] else 'passed'}, evidence in {file}\n")
        if found["failures"]:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
