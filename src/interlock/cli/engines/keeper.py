"""The process between a supervisor and its engine. When the supervisor goes, however it goes, the whole engine goes.

    python -m interlock.cli.engines.keeper --parent PID --grace-ms N -- COMMAND...

An engine is several processes, some of which leave the group that they were started in. All that lose their parent come
to this process (PR_SET_CHILD_SUBREAPER), which ends them when the engine's first process has ended. It is told of its
parent's end by the kernel (PR_SET_PDEATHSIG), and its engine of its own. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_END_S = 3.0
"""How long ended processes may take to be gone: the kernel frees their memory meanwhile."""


def end_with_parent(number: int) -> None:
    """Have the kernel send us this signal when our parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Process ids of our children, dead ones that nobody has waited for among them."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def end_children() -> None:
    """Kill all descendants, and wait until they are gone: whose parent dies comes to us, and is met the next time."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        left = children()
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def _before_engine() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    end_with_parent(signal.SIGKILL)


def keep(command: list[str], grace_s: float) -> int:
    """Run a command until it ends or we are told to; then end all that it left. Returns its exit code."""
    # one thread, so that code before exec is safe
    engine = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_before_engine,
    )
    deadline = None
    code: int | None = None
    while code is None:
        wait_s = 60.0 if deadline is None else max(0.0, deadline - time.monotonic())
        told = signal.sigtimedwait(_SIGNALS, wait_s)
        code = engine.poll()
        if code is not None:
            break
        if told is not None and told.si_signo != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + grace_s
            with contextlib.suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGTERM)
        elif told is None and deadline is not None:
            engine.kill()
            code = engine.wait()
        elif told is not None and told.si_signo == signal.SIGCHLD:
            _reap(engine.pid)
    end_children()
    return code if code >= 0 else 128 - code


def _reap(engine: int) -> None:
    """Take the ends of adopted processes, and leave the engine's own to whoever waits for it."""
    for pid in children():
        if pid != engine:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def main(arguments: list[str]) -> int:
    """Entry point. Returns the engine's exit code."""
    parser = argparse.ArgumentParser(prog="python -m interlock.cli.engines.keeper")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--grace-ms", type=int, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    end_with_parent(signal.SIGTERM)
    adopt_orphans()
    if os.getppid() != given.parent:
        return 1
    return keep(given.command[1:], given.grace_ms / 1000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
