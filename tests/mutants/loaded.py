"""A pytest plugin of the mutants' runs: stop when it is not the copy that gets tested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import interlock


def pytest_configure(config: pytest.Config) -> None:
    """Compare where `interlock` came from with where the copy is."""
    copy = os.environ["INTERLOCK_MUTANT_COPY"]
    found = interlock.__file__ or ""
    if Path(found).resolve().parent != Path(copy).resolve():
        raise pytest.UsageError(f"not the mutated copy {copy} would be tested, but {found}")
