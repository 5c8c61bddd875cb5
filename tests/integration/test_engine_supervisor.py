"""A supervisor over a real llama.cpp, beside a control process without a gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.client import connect
from interlock.control.main import listen, run_control
from interlock.settings import Settings
from tests.engines import model_file


@pytest.fixture
def home(postgres_url: str) -> Iterator[Path]:
    """The home folder of a control process that runs in a thread."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=folder, control_port=0, stop_grace_ms=1000)
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=run_control,
            args=(settings, postgres_url),
            kwargs={"sock": listen(settings), "stop": stop, "ready": lambda _: ready.set()},
        )
        thread.start()
        try:
            assert ready.wait(120)
            yield Path(folder)
        finally:
            stop.set()
            thread.join(60)


def eventually(true: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not become true in time"
        time.sleep(0.05)


def test_an_engine_that_is_killed_is_started_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTERLOCK_ADMIN_KEY", "INTERLOCK_CONTROL_URL"):
        monkeypatch.delenv(name, raising=False)
    admin = connect(Settings(home=str(home)))
    command = [sys.executable, "-m", "interlock.cli.main", "source", "run", "llamacpp", "--home", str(home)]
    command += ["--model", str(model_file()), "--name", "own", "--served-name", "m"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def managed() -> dict[str, Any]:
        rows = {row["name"]: row for row in admin.pages("/sources")}
        found: dict[str, Any] = rows.get("own", {}).get("managed", {})
        return found

    def engine() -> int:
        """The engine: the keeper's child."""
        keeper = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        return int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])

    try:
        eventually(lambda: managed().get("state") == "ready")
        first = engine()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: managed().get("restarts") == 1 and managed()["state"] == "ready")
        assert engine() != first
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert managed()["state"] == "stopped"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
