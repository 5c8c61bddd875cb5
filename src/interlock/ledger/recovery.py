"""Close the accounts of epochs whose worker died: each call it left open is written down as interrupted, exactly once.

For each epoch X that nobody holds the lock of and that is neither closed nor recovered, in order:

1. take X's lock; make X's last segment durable, so that nothing is judged by bytes that a power loss could still take;
2. read X: calls with an intent and no outcome are the open ones;
3. put the marker `recovering.<Y>` into X, durable: whoever comes after knows that Y's log may hold some of this;
4. append Interrupted for each open call and EpochRecovered to Y, this process's own epoch, durable;
5. put the marker `recovered` into X, durable; release the lock.

Killed after 3, the next start finds the pointer, makes Y's last segment durable, reads Y and writes only what is not
there. Killed before 3 nothing was written; killed after 5 nothing is left to do. X itself is never changed. When step 4
or 5 fails, the lock is kept until this process ends: its buffered records may still reach the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from interlock.errors import LogCorrupt, LogError
from interlock.ledger.epoch import EpochReader
from interlock.ledger.files import Files, put_marker, sync_folder
from interlock.ledger.folder import (
    CLOSED,
    LOCK,
    RECOVERED,
    RECOVERING,
    birth_lock,
    epochs,
    recovering_in,
    segment_path,
    segments,
    take_lock,
)
from interlock.ledger.format import decode, record_call, record_kind
from interlock.ledger.log import RecordLog
from interlock.types.clock import Clock
from interlock.types.record import Attempt, Chunk, EpochRecovered, Intent, Interrupted, StepEnd
from interlock.types.usage import Cost

logger = logging.getLogger(__name__)

NO_COST = Cost()
_INTENT, _REFUSAL, _ATTEMPT, _CHUNK, _OUTCOME, _CLOSE, _STEP = 2, 3, 4, 6, 7, 8, 15


@dataclass(slots=True)
class OpenCall:
    """What reached the log of a call without an outcome. `attempt` is -1 when none began."""

    reserved_tokens: int = 0
    cost: Cost = NO_COST
    attempt: int = -1
    chunks: int = 0
    text_bytes: int = 0


@dataclass(slots=True)
class EpochScan:
    """What reading a dead epoch showed. `damaged`: more than its tail is unreadable."""

    epoch: str
    last_seq: int = 0
    closed: bool = False
    torn_bytes: int = 0
    damaged: bool = False
    open_calls: dict[int, OpenCall] = field(default_factory=dict)


@dataclass(slots=True)
class _Takeover:
    """An epoch whose lock this process holds, what it left open, and what earlier recoveries wrote of it already."""

    scan: EpochScan
    lock_fd: int
    written: dict[int, Interrupted]
    recovered: EpochRecovered | None


def recover(folder: Path, *, into: RecordLog, clock: Clock, files: Files | None = None) -> list[EpochRecovered]:
    """Recover every dead epoch in `folder` (see the module), blocking; for a process that does not serve yet.

    Safe with several processes at once: each epoch is recovered by the one that gets its lock. Returns what was
    written into `into`. Raises LogError or OSError; the process must then end, so that another can take over.
    """
    files = files or Files()
    done = []
    for epoch in dead_epochs(folder, into.epoch, files):
        takeover = _take_over(folder, epoch, into.epoch, files)
        if takeover is None:
            continue
        recovered = _append(takeover, into, clock)
        into.sync()
        _finish(folder, takeover, into.epoch, files)
        done.append(recovered)
    return done


async def recover_beside(
    folder: Path, *, into: RecordLog, clock: Clock, files: Files | None = None
) -> list[EpochRecovered]:
    """`recover` for a process that serves meanwhile: dead epochs are read in a thread, appends stay on the loop."""
    files = files or Files()
    loop = asyncio.get_running_loop()
    done = []
    for epoch in await asyncio.to_thread(dead_epochs, folder, into.epoch, files):
        takeover = await asyncio.to_thread(_take_over, folder, epoch, into.epoch, files)
        if takeover is None:
            continue
        recovered = _append(takeover, into, clock)
        durable: asyncio.Future[LogError | None] = loop.create_future()
        into.on_durable(into.appended_seq, _set(durable))
        error = await durable
        if error is not None:
            raise error
        await asyncio.to_thread(_finish, folder, takeover, into.epoch, files)
        done.append(recovered)
    return done


def dead_epochs(folder: Path, own: str, files: Files) -> list[str]:
    """Epochs other than `own` that are neither closed nor recovered; of some the worker may be alive."""
    with birth_lock(files, folder):
        return [epoch for epoch in epochs(folder) if epoch != own and not _settled(folder, epoch)]


def scan_epoch(folder: Path, epoch: str) -> EpochScan:
    """Read a dead epoch for its open calls. Damage is reported to the log of the process, skipped, and counted."""
    scan = EpochScan(epoch)
    bodies: dict[int, list[bytes]] = {}
    with EpochReader(folder, epoch) as reader:
        while True:
            try:
                for frame in reader.frames():
                    scan.last_seq = frame.seq
                    scan.closed = _see(bodies, frame.body) == _CLOSE
                reader.end()
                break
            except LogCorrupt as e:
                scan.damaged = True
                logger.error("recovery of a dead epoch goes on behind damage: %s", e.message)
                if not reader.salvage():
                    break
        scan.torn_bytes = reader.torn_bytes
    scan.open_calls = {call: _open_call(kept) for call, kept in bodies.items()}
    return scan


def _see(bodies: dict[int, list[bytes]], body: bytes) -> int:
    """Keep the records of calls that are open, undecoded: nearly all of them will have ended. Returns the kind."""
    kind = record_kind(body)
    if kind in (_INTENT, _ATTEMPT, _CHUNK, _STEP):
        call = record_call(body)
        kept = bodies.get(call)
        if kept is None:
            bodies[call] = [body]
        else:
            kept.append(body)
    elif kind in (_OUTCOME, _REFUSAL):
        bodies.pop(record_call(body), None)
    return kind


def _open_call(bodies: list[bytes]) -> OpenCall:
    call = OpenCall()
    spent = 0
    for body in bodies:
        try:
            record = decode(body)
        except ValueError:
            continue  # written by a newer version: it is counted as far as it is understood
        if isinstance(record, Chunk):
            call.chunks += 1
            call.text_bytes += len(record.text.encode())
        elif isinstance(record, Intent):
            call.reserved_tokens = record.reserved_tokens
        elif isinstance(record, Attempt):
            call.attempt = record.number
            call.cost = record.reserved
            if spent:
                call.cost = msgspec.structs.replace(record.reserved, nusd=spent + record.reserved.nusd)
        elif isinstance(record, StepEnd):
            spent += record.cost.nusd
            call.cost = msgspec.structs.replace(record.cost, nusd=spent)
    return call


def _settled(folder: Path, epoch: str) -> bool:
    return (folder / epoch / CLOSED).exists() or (folder / epoch / RECOVERED).exists()


def _take_over(folder: Path, epoch: str, own: str, files: Files) -> _Takeover | None:
    """Steps 1 to 3. None when the worker is alive, another process was faster, or there is nothing to write."""
    lock_fd = take_lock(files, folder / epoch / LOCK)
    if lock_fd is None:
        return None
    keep = False
    try:
        if _settled(folder, epoch):
            return None
        make_durable(folder, epoch, files)
        scan = scan_epoch(folder, epoch)
        if scan.closed and not scan.open_calls and not scan.damaged:
            put_marker(files, folder / epoch / CLOSED)
            return None
        takeover = _Takeover(scan, lock_fd, {}, None)
        for other in recovering_in(folder, epoch):
            _find_written(folder, other, takeover, files)
        put_marker(files, folder / epoch / (RECOVERING + own))
        keep = True
        return takeover
    finally:
        if not keep:
            files.close(lock_fd)


def make_durable(folder: Path, epoch: str, files: Files) -> None:
    """The last segment of an epoch, and its name; the segments before are durable since it was made."""
    indices = segments(folder, epoch)
    if not indices:
        return
    fd = files.open(segment_path(folder, epoch, indices[-1]), os.O_RDONLY)
    try:
        files.fdatasync(fd)
    finally:
        files.close(fd)
    sync_folder(files, folder / epoch)


def _find_written(folder: Path, other: str, takeover: _Takeover, files: Files) -> None:
    """What epoch `other` wrote of this one before it died."""
    make_durable(folder, other, files)
    with EpochReader(folder, other) as reader:
        for frame in reader.frames():
            if record_kind(frame.body) not in (9, 10):
                continue
            record = decode(frame.body)
            if isinstance(record, Interrupted) and record.epoch == takeover.scan.epoch:
                takeover.written[record.call] = record
            elif isinstance(record, EpochRecovered) and record.epoch == takeover.scan.epoch:
                takeover.recovered = record


def _append(takeover: _Takeover, into: RecordLog, clock: Clock) -> EpochRecovered:
    """Step 4 without the waiting."""
    scan = takeover.scan
    for call, left in sorted(scan.open_calls.items()):
        if call not in takeover.written:
            into.append(
                Interrupted(
                    epoch=scan.epoch,
                    call=call,
                    wall_ns=clock.wall_ns(),
                    attempt=left.attempt,
                    chunks=left.chunks,
                    text_bytes=left.text_bytes,
                    reserved_tokens=left.reserved_tokens,
                    tail_lost=scan.torn_bytes > 0,
                    cost=left.cost,
                )
            )
    if takeover.recovered is not None:
        return takeover.recovered
    count = len(scan.open_calls.keys() | takeover.written.keys())
    recovered = EpochRecovered(scan.epoch, clock.wall_ns(), scan.last_seq, count, scan.torn_bytes)
    into.append(recovered)
    return recovered


def _finish(folder: Path, takeover: _Takeover, own: str, files: Files) -> None:
    """Step 5."""
    put_marker(files, folder / takeover.scan.epoch / RECOVERED, own.encode())
    files.close(takeover.lock_fd)


def _set(future: asyncio.Future[LogError | None]) -> Callable[[LogError | None], None]:
    return lambda error: None if future.done() else future.set_result(error)
