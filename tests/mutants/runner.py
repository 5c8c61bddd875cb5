"""Run tests against broken copies of the source: a test of a promise that no mutant can fail proves nothing.

    python -m tests.mutants.runner                  every mutant, after the same tests on an unchanged copy
    python -m tests.mutants.runner --sample 3       a few, drawn with --seed
    python -m tests.mutants.runner NAME...          these

A mutant is a textual patch: in `file` (below `src/interlock`) the one place that reads `old` becomes `new`, in a copy
of the source in a temporary folder; then the pytest node `test` must fail. The list is data, in `mutants.toml`. An
`old` that is not found exactly once is an error: the code has moved on and the mutant has to follow. A mutant of the
native part is compiled, for this machine; where there is no native part nothing can be said about it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.native import expected, variants

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "interlock"
LIST = Path(__file__).with_name("mutants.toml")
TIMEOUT_S = 120
PASSED, FAILED = 0, 1
"""Exit codes of pytest: all tests passed; some failed. Any other means that nothing was tested."""


class MutantError(Exception):
    """A mutant that does not fit the source, or a run that says nothing about it."""


class Mutant(NamedTuple):
    """One patch, the promise it breaks, and the test that must notice."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    test: str


class Verdict(NamedTuple):
    """What the test said: `noticed` when it failed, as it must."""

    mutant: Mutant
    noticed: bool
    seconds: float
    output: str


def load(path: Path = LIST) -> list[Mutant]:
    """All mutants of the list. Raises MutantError when a name is used twice or a field is missing."""
    try:
        mutants = [Mutant(**entry) for entry in tomllib.loads(path.read_text())["mutant"]]
    except (KeyError, TypeError) as e:
        raise MutantError(f"{path}: {e}") from e
    names = [mutant.name for mutant in mutants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise MutantError(f"{path}: used twice: {', '.join(sorted(twice))}")
    return mutants


def patched(mutant: Mutant, source: Path = SOURCE) -> str:
    """The mutated text of its file. Raises MutantError when `old` is not there exactly once, or nothing changes."""
    file = source / mutant.file
    text = file.read_text() if file.is_file() else ""
    count = text.count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        raise MutantError(f"{mutant.name}: {count} places in {mutant.file} read what is to be replaced; need one")
    return text.replace(mutant.old, mutant.new)


def judge(mutant: Mutant) -> Verdict:
    """Run the mutant's test on a mutated copy. Raises MutantError when the run says nothing."""
    began = time.monotonic()
    code, output = _run_copy([mutant.test], mutant)
    if code not in (PASSED, FAILED):
        raise MutantError(f"{mutant.name}: pytest ended with {code}:\n{output}")
    return Verdict(mutant, code == FAILED, time.monotonic() - began, output)


def baseline(tests: Iterable[str]) -> None:
    """The same tests on an unchanged copy must pass. Raises MutantError when they do not."""
    code, output = _run_copy(sorted(set(tests)), None)
    if code != PASSED:
        raise MutantError(f"the unchanged source does not pass (pytest ended with {code}):\n{output}")


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` mutants drawn with `seed`."""
    return random.Random(seed).sample(list(mutants), min(count, len(mutants)))


def _run_copy(tests: Sequence[str], mutant: Mutant | None) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="interlock-mutant-") as name:
        copy = Path(name) / "interlock"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("*.pyc.*"))  # bytecode that is being written
        if mutant is not None:
            changed = copy / mutant.file
            changed.write_text(patched(mutant))
            for bytecode in changed.parent.glob(f"__pycache__/{changed.stem}.*.pyc"):
                bytecode.unlink()  # it is told from other bytecode by time and size alone, which may be the same
            if changed.suffix == ".zig":
                _compile(mutant, changed.parent)
        paths = [name, str(ROOT)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "INTERLOCK_MUTANT_COPY": str(copy)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider"]
        command += ["-p", "tests.mutants.loaded", *tests]
        try:
            ran = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S * max(len(tests) // 10, 1),
            )
        except subprocess.TimeoutExpired:
            return FAILED, "the test did not end"  # a test that hangs has noticed
        return ran.returncode, ran.stdout[-4000:]


def _compile(mutant: Mutant, source: Path) -> None:
    """The native part of the copy. Raises MutantError when there is none here, or the mutant is no program."""
    if why := expected():
        raise MutantError(f"{mutant.name}: {why}")
    command = [sys.executable, str(ROOT / "scripts" / "native.py"), "--source", str(source)]
    ran = subprocess.run([*command, "--only", variants()[0].name], capture_output=True, text=True, timeout=TIMEOUT_S)
    if ran.returncode:
        raise MutantError(f"{mutant.name}: {ran.stderr}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: one line for each mutant, exit code 1 when one lived or could not be judged."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.runner", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to run; all of them when none is named")
    parser.add_argument("--sample", type=int, default=0, help="run only this many, drawn with --seed")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    mutants = [m for m in load() if not given.names or m.name in given.names]
    if given.sample:
        mutants = sample(mutants, given.sample, given.seed)
    failed = 0
    try:
        for mutant in mutants:
            patched(mutant)
        if not given.sample:
            baseline(m.test for m in mutants)
    except MutantError as e:
        print(e)
        return 1
    for mutant in mutants:
        try:
            verdict = judge(mutant)
        except MutantError as e:
            failed += 1
            print(f"ERROR    {e}")
            continue
        failed += not verdict.noticed
        word = "noticed" if verdict.noticed else "LIVED  "
        print(f"{word}  {mutant.promise}  {mutant.name}  ({verdict.seconds:.1f} s, {mutant.test})", flush=True)
    print(f"{len(mutants) - failed} of {len(mutants)} mutants noticed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
