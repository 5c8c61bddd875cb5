"""The learner's process: `interlock worker`, and a part of `interlock up`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence

from interlock.control.process import failed, until_orphaned
from interlock.errors import ConfigError, InterlockError
from interlock.settings import load
from interlock.storage.pool import Store
from interlock.telemetry.logs import setup_logging
from interlock.types.clock import SystemClock

NICE = 10
"""It gives way to calls."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process. Returns the exit code; a failure to start is one line of JSON."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(prog="python -m interlock.control.learner", description=__doc__)
    parser.add_argument("--ready-fd", type=int, help="file descriptor that one line of JSON is written to when ready")
    parser.add_argument("--parent", type=int, help="process id without which this process stops")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load()
        setup_logging(settings.log_level, "worker", settings=settings)
        if not settings.database_url:
            raise ConfigError("database_url is not set", param="database_url")
        if given.parent is not None:
            threading.Thread(target=until_orphaned, args=(given.parent, stop), daemon=True).start()
        from interlock.control.learning.loop import Learner  # numpy, with one thread

        if given.ready_fd is not None:
            with os.fdopen(given.ready_fd, "wb") as out:
                out.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
            given.ready_fd = None
        os.nice(NICE)
        with Store(settings.database_url, settings, name="worker") as store:
            Learner(store, settings, SystemClock()).run(stop)
    except InterlockError as e:
        return failed(e, given.ready_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
