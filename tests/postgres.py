"""Home folders of embedded servers that tests start, swept when a test run was killed.

An embedded PostgreSQL outlives its parent on purpose. A run that is killed therefore leaves one behind; the next run
finds its home, sees by the lock that nobody holds it any more, and stops the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from interlock.settings import Settings
from interlock.storage.embedded import EmbeddedPostgres

_PREFIX = "interlock-test-home-"


def patient(home: Path) -> Settings:
    """Settings of a server whose first start may take long: where many tests run, it has little of the machine."""
    return Settings(home=str(home), embedded_start_timeout_ms=300_000)


@contextlib.contextmanager
def owned_home() -> Iterator[Path]:
    """A new home folder below a folder that only we may enter. It is removed at the end; stop the server before."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield folder / "home"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Stop the servers of runs that are dead, and remove their homes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.geteuid():
                continue
            with (folder / "owner").open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                home = folder / "home"
                if (home / "postgres").exists():
                    EmbeddedPostgres(home, Settings(home=str(home))).stop()
                shutil.rmtree(folder, ignore_errors=True)
