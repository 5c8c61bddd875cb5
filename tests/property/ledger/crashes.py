"""A model of what a crash leaves on a disk.

`TracingFiles` makes the real system calls and notes them. `crash_states` then builds, for a crash after any of them,
folders as the next start could find them:

- death of the process (`kill`): everything that was written is there; a write that was running may be there in part;
- loss of power (`power`): only what an fsync or fdatasync covered is certain. Of what came after, any prefix may be
  there, with any of its 512-byte sectors missing (zeros); a name in a folder that was not synced may be missing.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.unit.ledger.support import FaultyFiles

SECTOR = 512


@dataclass
class Event:
    """One step: a system call's effect, or `ack` when somebody was told something."""

    kind: str
    path: Path
    data: bytes = b""
    size: int = 0
    ticket: int = 0


class TracingFiles(FaultyFiles):
    """Real system calls, noted, with the faults one asks for; only syncs are left to the model.

    A sync is two events: it covers what was there when it started. `meanwhile` is called once between the two.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.events: list[Event] = []
        self.meanwhile: Callable[[], object] | None = None
        self._paths: dict[int, Path] = {}
        self._mutex = threading.Lock()
        self._tickets = 0

    def ack(self, what: str, number: int) -> None:
        """Somebody was told that `number` is `what`."""
        self._note(Event("ack", Path(what), size=number))

    def open(self, path: Path, flags: int) -> int:
        existed = path.exists()
        fd = super().open(path, flags)
        self._paths[fd] = path
        if flags & os.O_CREAT and not existed:
            self._note(Event("create", path))
        elif flags & os.O_TRUNC:
            self._note(Event("truncate", path))
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        count = super().write(fd, data)
        self._note(Event("write", self._paths[fd], bytes(data[:count])))
        return count

    def fdatasync(self, fd: int) -> None:
        self._sync(fd)

    def fsync(self, fd: int) -> None:
        self._sync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        super().ftruncate(fd, size)
        self._note(Event("truncate", self._paths[fd], size=size))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._note(Event("mkdir", path))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note(Event("unlink", path))

    def _sync(self, fd: int) -> None:
        with self._mutex:
            self._tickets += 1
            ticket = self._tickets
            self.events.append(Event("sync-start", self._paths[fd], ticket=ticket))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self._note(Event("sync-end", self._paths[fd], ticket=ticket))

    def _note(self, event: Event) -> None:
        with self._mutex:
            self.events.append(event)


@dataclass
class _File:
    content: bytes = b""
    durable: bytes = b""


@dataclass
class _Folder:
    names: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)


class Disk:
    """The state of the traced folder after some events: what is there, and what of it would outlive a power loss."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[Path, _File] = {}
        self.folders: dict[Path, _Folder] = {root: _Folder()}
        self._started: dict[int, bytes | set[str]] = {}

    def base(self) -> None:
        """What lies under the root now is durable: the state that a trace begins with."""
        for path in sorted(self.root.rglob("*")):
            self.folders[path.parent].names.add(path.name)
            self.folders[path.parent].durable.add(path.name)
            if path.is_dir():
                self.folders[path] = _Folder()
            else:
                content = path.read_bytes()
                self.files[path] = _File(content, content)

    def apply(self, event: Event) -> None:
        path = event.path
        match event.kind:
            case "mkdir":
                self.folders[path] = _Folder()
                self.folders[path.parent].names.add(path.name)
            case "create":
                self.files[path] = _File()
                self.folders[path.parent].names.add(path.name)
            case "unlink":
                self.folders[path.parent].names.discard(path.name)
            case "write":
                self.files[path].content += event.data
            case "truncate":
                self.files[path].content = self.files[path].content[: event.size]
            case "sync-start":
                if path in self.folders:
                    self._started[event.ticket] = set(self.folders[path].names)
                else:
                    self._started[event.ticket] = self.files[path].content
            case "sync-end":
                state = self._started.pop(event.ticket)
                if isinstance(state, set):
                    self.folders[path].durable = state
                else:
                    self.files[path].durable = state

    def after_kill(self, target: Path, last: Event, rng: random.Random) -> None:
        """Materialize the state after the death of the process, perhaps in the middle of the `last` write."""
        contents = {path: file.content for path, file in self.files.items()}
        if last.kind == "write" and rng.random() < 0.5:
            contents[last.path] = contents[last.path][: -rng.randint(1, len(last.data))]
        self._put(target, contents, lambda folder: folder.names)

    def after_power_loss(self, target: Path, rng: random.Random) -> None:
        """Materialize one state that a loss of power may leave."""
        contents = {path: _survivor(file, rng) for path, file in self.files.items()}

        def names(folder: _Folder) -> set[str]:
            unsure = folder.names ^ folder.durable
            return (folder.names & folder.durable) | {name for name in sorted(unsure) if rng.random() < 0.5}

        self._put(target, contents, names)

    def _put(self, target: Path, contents: dict[Path, bytes], names: object) -> None:
        assert callable(names)
        todo = [self.root]
        while todo:
            folder = todo.pop()
            (target / folder.relative_to(self.root)).mkdir(parents=True, exist_ok=True)
            for name in names(self.folders[folder]):
                path = folder / name
                if path in self.folders:
                    todo.append(path)
                elif path in self.files:
                    (target / path.relative_to(self.root)).write_bytes(contents[path])


def _survivor(file: _File, rng: random.Random) -> bytes:
    """A content that a power loss may leave: the durable one, and something of what came after."""
    content, durable = file.content, file.durable
    if not content.startswith(durable):
        return rng.choice([content, durable])
    choice = rng.random()
    if choice < 0.25:
        return durable
    end = len(content) if choice < 0.5 else rng.randint(len(durable), len(content))
    out = bytearray(content[:end])
    if choice > 0.6:
        for sector in range(len(durable) // SECTOR, len(out) // SECTOR + 1):
            start, stop = max(sector * SECTOR, len(durable)), min((sector + 1) * SECTOR, len(out))
            if rng.random() < 0.3:
                out[start:stop] = bytes(max(stop - start, 0))
    return bytes(out)
