"""A process that writes a record log as fast as it can and says what it was told, until it is killed.

    python ledger_writer.py FOLDER      prints "epoch E", then "w SEQ" / "d SEQ" after on_written / on_durable

Each call is an intent, some chunks and an outcome, with many calls in progress; segments are small, so that kills meet
rotations. It first recovers what its predecessors left, as a worker does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from interlock.ledger.log import RecordLog
from interlock.ledger.recovery import recover
from interlock.types.clock import SystemClock
from tests.unit.ledger.support import durable, intent, open_log, outcome, written


async def main(folder: Path) -> None:
    log = open_log(folder, segment_bytes=65_536)
    say(f"epoch {log.epoch}")
    recover(folder, into=log, clock=SystemClock())
    rng = random.Random()
    await asyncio.gather(*(calls(log, rng) for _ in range(20)))


async def calls(log: RecordLog, rng: random.Random) -> None:
    while True:
        call = log.next_call()
        await told_durable(log, log.append(intent(call, body=b"x" * rng.randrange(3000))))
        for index in range(rng.randrange(6)):
            seq = log.append_chunk(call, index, "word " * rng.randrange(20), b"")
            log.sync_within(50)
            await written(log)
            say(f"w {seq}")
        await told_durable(log, log.append(outcome(call)))


async def told_durable(log: RecordLog, seq: int) -> None:
    assert await durable(log, seq) is None
    say(f"d {seq}")


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
