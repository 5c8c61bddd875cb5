"""Exports that pages make: in a folder of their own, bounded in number and size, and gone when they were used."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlock.control.services import ledger
from interlock.errors import BadRequest, InterlockError, LimitExceeded
from interlock.ledger.proof.written import write_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.control.web import Api
    from interlock.storage.ledger_keys import LedgerKeys

LEFT_S = 3600
"""A folder this old is of a process that ended before it could remove it."""
PIECE_BYTES = 1 << 18
LINE_BYTES = 64
"""What a line takes besides its text."""


class Stopped(InterlockError):
    """Whoever wanted the work does not wait for it any more."""


class Exports:
    """The exports under way of this process: one at a time for each person, a few for all."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    @contextlib.contextmanager
    def turn(self, principal_id: str) -> Iterator[Path]:
        """A person's turn, with an empty folder that is removed afterwards. Raises LimitExceeded."""
        with self._lock:
            if principal_id in self._busy:
                raise LimitExceeded("An export of yours is being made or verified; wait for it, or stop it.")
            if len(self._busy) >= self._api.tools.settings.console_exports_max:
                raise LimitExceeded("Others are having exports made or verified; try again in a minute.")
            self._busy.add(principal_id)
        try:
            place = self._api.tools.settings.home_path("control", "exports")
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sweep(place)
            folder = Path(tempfile.mkdtemp(dir=place))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            with self._lock:
                self._busy.discard(principal_id)

    def make(
        self,
        folder: Path,
        tenant_id: str,
        range_ns: tuple[int, int],
        payloads: LedgerKeys | None = None,
        say: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write an export to an empty folder. `say(done, total)` counts entries, and may raise to stop it.

        Raises NotFound, BadRequest when it is larger than `console_export_bytes_max`, StoreError, OSError.
        """
        api = self._api
        with api.store.platform() as conn:
            keys = api.keyring.public(conn)
        made = ledger.Export(api.store, api.tools.settings, tenant_id, *range_ns, keys, payloads)
        first = made.manifest.get("pruned", made.manifest["start_size"])
        total = int(str(made.manifest["end_size"])) - int(str(first))
        write_lines(folder, self._bounded(made, total, say))

    def _bounded(
        self, made: ledger.Export, total: int, say: Callable[[int, int], None] | None
    ) -> Iterator[tuple[str, Any]]:
        most = self._api.tools.settings.console_export_bytes_max
        size = done = 0
        yield "manifest", made.manifest
        for kind, value in made.lines():
            size += _size(value)
            if size > most:
                raise BadRequest(
                    f"this range has more than console_export_bytes_max ({most} bytes): choose a shorter one, or use"
                    " `interlock ledger export`"
                )
            done += kind == "entry"
            if say is not None and (kind != "entry" or done % 100 == 0):
                say(done, total)
            yield kind, value


def tar(folder: Path, name: str) -> Iterator[bytes]:
    """A folder as a tar archive whose files are under `name`, piece by piece."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        info = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
        info.size, info.mtime, info.mode = path.stat().st_size, int(path.stat().st_mtime), 0o600
        yield info.tobuf()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _size(value: Any) -> int:
    """About how many bytes a value of an export takes."""
    if isinstance(value, str):
        return len(value) + LINE_BYTES
    if isinstance(value, dict):
        return sum(map(_size, value.values())) + LINE_BYTES
    if isinstance(value, list):
        return sum(map(_size, value))
    return LINE_BYTES


def _sweep(place: Path) -> None:
    """Remove what a process that ended left behind."""
    old: Iterable[Path] = [each for each in place.iterdir() if time.time() - each.stat().st_mtime > LEFT_S]
    for each in old:
        shutil.rmtree(each, ignore_errors=True)
