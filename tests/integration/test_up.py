"""`interlock up`: everything starts, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)


@contextmanager
def _up() -> Iterator[tuple[subprocess.Popen[bytes], str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="interlock-up-", ignore_cleanup_errors=True) as home:
        ready = Path(home, "ready.json")
        arguments = ["up", "--home", home, "--port", "0", "--control-port", "0", "--ready-file", str(ready)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("INTERLOCK_")}
        with Path(home, "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "interlock.cli.main", *arguments],
                env={**environment, "INTERLOCK_WORKERS": "1", "INTERLOCK_EMBEDDED_START_TIMEOUT_MS": "300000"},
                stdout=log,
                stderr=log,
            )
            try:
                end = time.monotonic() + 400
                while not ready.exists():
                    assert process.poll() is None, Path(home, "log").read_text()
                    assert time.monotonic() < end, Path(home, "log").read_text()
                    time.sleep(0.05)
                yield process, home, json.loads(ready.read_text())
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(180)


def _ours(home: str) -> list[str]:
    """Command lines of living processes that were told of this home."""
    out = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if home.encode() in told:
                out.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return out


def _gone(home: str, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while _ours(home):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return int(answer.status)


def test_up_is_ready_and_stops_in_good_order() -> None:
    with _up() as (process, home, said):
        assert _get(said["gateway"] + "/health") == 200
        assert _get(said["control"] + "/ready") == 200
        assert said["admin_key"].startswith("il_live_")
        assert Path(home, "ready.json").stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
        assert _gone(home, 180), _ours(home)


def test_a_part_that_dies_stops_everything_and_is_named() -> None:
    with _up() as (process, home, said):
        node = json.loads(Path(home, "node", "run", "node.json").read_text())
        os.kill(node["pid"], signal.SIGKILL)
        assert process.wait(180) == 1
        assert "interlock: the gateway ended by itself" in Path(home, "log").read_text()
        assert said["tenants"] == {}
        assert _gone(home, 180), _ours(home)


def test_parts_stop_by_themselves_when_the_command_is_killed() -> None:
    with _up() as (process, home, _):
        process.kill()
        process.wait()
        end = time.monotonic() + 180
        while [line for line in _ours(home) if "interlock." in line]:
            assert time.monotonic() < end, _ours(home)
            time.sleep(0.1)
        # the database is left running, and is adopted by the next start; here it is stopped by hand
        pid = int(Path(home, "postgres", "data", "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGINT)
        assert _gone(home, 180), _ours(home)
