"""An engine as its supervisor holds it: the keeper's process, and a log of what the engine prints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from interlock.cli.engines.launch import Launch

GRACE_S = 2.0
"""How long an engine may take to end when it is asked to."""
_KILL_S = 1.0


class Log:
    """A file that is closed and begun anew when it is large; the last `kept` are kept as NAME.1 (newest), NAME.2, ...

    Only we may read it. What cannot be written is dropped: an engine does not stand still for its log.
    """

    def __init__(self, path: Path, bytes_max: int, kept: int) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._kept = kept
        self._fd = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self._open()
            elif self._size + len(data) > self._bytes_max and self._size:
                self._turn()
            self._size += os.write(self._fd, data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _turn(self) -> None:
        self.close()
        for number in range(self._kept, 0, -1):
            before = self._old(number - 1)
            if before.exists():
                before.rename(self._old(number))
        if not self._kept:
            self.path.unlink(missing_ok=True)
        self._open()

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


class EngineProcess:
    """A started engine. `pid` is the keeper's; what the engine prints goes to the log."""

    def __init__(self, launch: Launch, log: Log) -> None:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "interlock.cli.engines.keeper", "--parent", str(os.getpid())]
        command += ["--grace-ms", str(int(GRACE_S * 1000)), "--", *launch.arguments]
        try:
            self._process = subprocess.Popen(
                command,
                env=launch.environment,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd="/",
                start_new_session=True,  # a Ctrl-C is for the supervisor
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._pump = threading.Thread(target=self._copy, args=(reading, log), name="engine log", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """Process id of the keeper."""
        return self._process.pid

    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Ask it to end, and end it when it has not within GRACE_S. Returns when it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S + _KILL_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pump.join(0.5)

    @staticmethod
    def _copy(reading: int, log: Log) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(reading, 65_536):
                log.write(data)
        os.close(reading)
