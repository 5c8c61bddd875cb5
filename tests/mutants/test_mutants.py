"""The mutants fit the source, and a few of them are run; `python -m tests.mutants.runner` runs all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.mutants import runner
from tests.native import expected, variants

MUTANTS = runner.load()
SEED = int(os.environ.get("INTERLOCK_TEST_SEED") or time.time())
SAMPLE = 3
NATIVE = not expected() and variants()[0].name.endswith(("-sha", "-sha2"))
"""Whether a mutant of the native part can be compiled here, and all of it is used."""
DRAWN = [mutant for mutant in MUTANTS if NATIVE or not mutant.file.endswith(".zig")]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_fits_the_source_and_its_test_exists(mutant: runner.Mutant) -> None:
    runner.patched(mutant)
    file, _, name = mutant.test.partition("::")
    text = (runner.ROOT / file).read_text()
    assert f"def {name.partition('[')[0]}(" in text


def test_every_promise_of_the_hot_path_has_a_mutant() -> None:
    assert {mutant.promise for mutant in MUTANTS} >= {"P1", "P2", "P3", "P4", "P6", "P7", "P8"}


@pytest.mark.parametrize("place", range(SAMPLE))
def test_a_drawn_mutant_is_noticed(place: int) -> None:
    mutant = runner.sample(DRAWN, SAMPLE, SEED)[place]
    verdict = runner.judge(mutant)
    assert verdict.noticed, f"INTERLOCK_TEST_SEED={SEED}: {mutant.test} did not notice {mutant.name}:\n{verdict.output}"


def test_a_mutant_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("a = 1\nb = 1\n")
    for old, new in (("c", "d"), ("1", "2"), ("a = 1", "a = 1")):
        with pytest.raises(runner.MutantError):
            runner.patched(runner.Mutant("x", "P1", "x.py", old, new, "t"), tmp_path)
    assert runner.patched(runner.Mutant("x", "P1", "x.py", "a = 1", "a = 2", "t"), tmp_path) == "a = 2\nb = 1\n"


def test_a_mutant_that_nobody_notices_is_said_to_live(tmp_path: Path) -> None:
    harmless = runner.Mutant(
        "harmless", "P8", "wire/sse.py", "_LINE_END + _LINE_END", "_LINE_END  +  _LINE_END",
        "tests/unit/wire/test_sse.py::test_a_single_byte_is_no_event",
    )  # fmt: skip
    assert not runner.judge(harmless).noticed
