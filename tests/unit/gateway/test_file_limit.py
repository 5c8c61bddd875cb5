"""A worker may open as many files as the system lets it, whatever the soft limit it was started under."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource
from interlock.gateway.worker import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize("soft, hard", [(128, 512), (512, 512)])
def test_the_soft_limit_becomes_the_hard_one(soft: int, hard: int) -> None:
    ran = subprocess.run([sys.executable, "-c", COUNT.format(soft=soft, hard=hard)], capture_output=True, text=True)
    assert ran.stdout.split() == [str(hard)] * 2, ran.stderr
