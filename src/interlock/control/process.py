"""What the processes of the control plane have in common."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

from interlock.errors import ConfigError, InterlockError

logger = logging.getLogger(__name__)


def until_orphaned(parent: int, stop: threading.Event) -> None:
    """Set `stop` when the process that started this one is gone; returns when it is set."""
    while not stop.wait(0.25):
        if os.getppid() != parent:
            logger.warning("the process that started this one is gone")
            stop.set()


def failed(error: InterlockError, ready_fd: int | None) -> int:
    """Say in one line of JSON why a process did not start, to whoever waits for it, else on stderr; its exit code."""
    line = json.dumps({"error": error.code, "message": error.message, "param": error.param}) + "\n"
    os.write(sys.stderr.fileno() if ready_fd is None else ready_fd, line.encode())
    return 2 if isinstance(error, ConfigError) else 1
