"""Simulated engines in a process of their own, and who connects to what.

    python -m tests.prove.simulated NOTES SPEC     (writes one line of JSON, the base URLs by name, when they listen)

SPEC: JSON, by name the fields of an `EngineShape` and `speed`. Each inference request that ended is noted in the file
NOTES as a line of JSON. The engines' listeners are what a source can be reached by: a call that leaves the gateway for
one of them is in its notes, whatever the gateway's own records say.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from interlock.testing.script import Received
from interlock.testing.simulator import EngineShape, Job, SimulatedEngine

from .gateway import workers_of

PARENT_POLL_S = 0.2
MARKER = re.compile(r"<([a-z0-9.-]+)>")
"""How a call says in its last message whose it is: "<tenant.class.user.turn>"."""
LOOK_S = 0.02
LISTENING, TIME_WAIT = "0A", "06"


def marker_of(asked: dict[str, Any]) -> str:
    """The marker in the last message of a request, "" without one."""
    messages = asked.get("messages") or [{}]
    found = MARKER.search(str(messages[-1].get("content", "")))
    return found[1] if found else ""


def _words(asked: dict[str, Any]) -> list[str]:
    return [f"<{marker_of(asked)}>"]


def engine(name: str, spec: dict[str, Any], notes: int) -> SimulatedEngine:
    """One engine, which notes what it was asked."""
    speed = float(spec.pop("speed", 1.0))

    def note(received: Received, job: Job) -> None:
        asked = received.json
        line = {
            "source": name,
            "marker": marker_of(asked),
            "salt": asked.get("cache_salt", ""),
            "prompt_tokens": len(job.prompt),
            "cached_tokens": job.cached_tokens,
            "tokens": job.made,
            "whole": not job.cancelled,
            "at_ns": received.at_ns,
            "ended_ns": time.monotonic_ns(),
            "connection": received.connection,
        }
        os.write(notes, json.dumps(line).encode() + b"\n")

    return SimulatedEngine(EngineShape(**spec), models=("m",), speed=speed, words=_words, on_end=note)


async def serve(notes: int, specs: dict[str, dict[str, Any]]) -> None:
    """Until the process that started this one is gone."""
    engines = {name: engine(name, dict(spec), notes) for name, spec in specs.items()}
    for each in engines.values():
        await each.start()
    sys.stdout.write(json.dumps({name: each.base_url for name, each in engines.items()}) + "\n")
    sys.stdout.flush()
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_S)
        for each in engines.values():
            each.requests.clear()


def noted(file: Path) -> list[dict[str, Any]]:
    """What the engines have noted so far."""
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


class Sockets(threading.Thread):
    """Looks, all the time, to what a node and its children are connected: the kernel's own list of sockets."""

    def __init__(self, node_pid: int) -> None:
        super().__init__(daemon=True)
        self.seen: set[tuple[str, int]] = set()
        """(address, port) of the other end of each connection that a worker began."""
        self.looks = 0
        self._node = node_pid
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _look(self) -> None:
        self.looks += 1
        for pid in workers_of(self._node):
            owned, listening = _inodes(pid), set()
            found = []
            for version in ("tcp", "tcp6"):
                for local, remote, state, inode in _table(pid, version):
                    if state == LISTENING:
                        listening.add(local[1])
                    elif inode in owned and state != TIME_WAIT:
                        found.append((local, remote))
            self.seen |= {remote for local, remote in found if local[1] not in listening}


def _inodes(pid: int) -> set[str]:
    owned = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                owned.add(target[8:-1])
    except OSError:
        pass  # the process or the descriptor is gone
    return owned


def _table(pid: int, version: str) -> list[tuple[tuple[str, int], tuple[str, int], str, str]]:
    try:
        lines = Path(f"/proc/{pid}/net/{version}").read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [(_end(row[1]), _end(row[2]), row[3], row[9]) for row in rows]


def _end(text: str) -> tuple[str, int]:
    """(address, port) of an entry such as 0100007F:1F90."""
    address, _, port = text.partition(":")
    if len(address) == 8:
        address = ".".join(str(byte) for byte in bytes.fromhex(address)[::-1])
    return address, int(port, 16)


if __name__ == "__main__":
    descriptor = os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    asyncio.run(serve(descriptor, json.loads(sys.argv[2])))
