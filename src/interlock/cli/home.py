"""Who runs on a home folder: `interlock up` alone, or `interlock control` and `interlock gateway` side by side.

Two files in `<home>/run` are locked (flock(2); the kernel gives them back whatever happens to a process):

    up.lock         held by the `interlock up` process itself: a second one says so at once
    processes.lock  held by everything that runs on the home, children included: after a kill -9 the next start waits
                    until the last of them has ended, and nobody stops a database that others still use
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from interlock.errors import ConfigError, Unavailable
from interlock.settings import Settings

LEFTOVERS_S = 15.0
"""How long processes of a killed run may take to end: longer than any of them is given when asked to stop."""
_POLL_S = 0.05


@contextlib.contextmanager
def held_alone(settings: Settings, say: Callable[[str], object]) -> Iterator[int]:
    """Hold the home for one `interlock up`. Yields the descriptor that its children are to inherit.

    `say` is told, once, when processes of an earlier run are waited for. Raises Unavailable when the home is in use,
    ConfigError when it cannot be used at all.
    """
    home = settings.home_path()
    with _opened(home, "up.lock") as mine, _opened(home, "processes.lock") as shared:
        if not _lock(mine, fcntl.LOCK_EX):
            raise Unavailable(f"{home} is in use: `interlock up` runs on it already{_who(mine)}", code="home_in_use")
        os.ftruncate(mine, 0)
        os.pwrite(mine, str(os.getpid()).encode(), 0)
        deadline = time.monotonic() + LEFTOVERS_S
        waited = False
        while not _lock(shared, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{home} is in use: `interlock gateway`, `interlock control` or what is left of a killed"
                    " `interlock up` runs on it",
                    code="home_in_use",
                )
            if not waited:
                say("waiting for processes that still run on this home to end")
                waited = True
            time.sleep(_POLL_S)
        yield shared


@contextlib.contextmanager
def held_together(settings: Settings) -> Iterator[Callable[[], bool]]:
    """Hold the home for one process among others. Yields a function that tells whether it is the last one.

    Raises Unavailable when `interlock up` has the home, ConfigError when it cannot be used at all.
    """
    home = settings.home_path()
    with _opened(home, "processes.lock") as shared:
        if not _lock(shared, fcntl.LOCK_SH):
            raise Unavailable(f"{home} is in use: `interlock up` runs on it", code="home_in_use")
        yield lambda: _lock(shared, fcntl.LOCK_EX)


@contextlib.contextmanager
def _opened(home: Path, name: str) -> Iterator[int]:
    path = home / "run" / name
    try:
        for folder in (home, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be used: {e.strerror}", param="home") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _who(fd: int) -> str:
    text = os.pread(fd, 20, 0).decode(errors="replace")
    return f" (process {text})" if text.isdigit() else ""
