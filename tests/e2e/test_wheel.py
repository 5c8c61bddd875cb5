"""Installed from the built wheel into an empty virtual environment; see scripts/wheel_check.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import interlock
from tests.figures import note
from tests.native import expected

SCRIPT = Path(__file__).parents[2] / "scripts" / "wheel_check.py"
NO_REGISTRY = 4


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_wheel_works_on_its_own() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--json"], capture_output=True, text=True, timeout=390)
    if done.returncode == NO_REGISTRY:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["version"] == interlock.__version__
    assert found["native"] or expected()
    for name, value in found.items():
        note(f"wheel: {name} {value}")
