"""What the processes of the control plane have in common."""

from __future__ import annotations

import logging
import os
import threading

logger = logging.getLogger(__name__)


def until_orphaned(parent: int, stop: threading.Event) -> None:
    """Set `stop` when the process that started this one is gone; returns when it is set."""
    while not stop.wait(0.25):
        if os.getppid() != parent:
            logger.warning("the process that started this one is gone")
            stop.set()
