"""Disk use is the sum of all segments of all epochs, however it is remembered."""

from __future__ import annotations

import shutil
from pathlib import Path

from interlock.ledger.disk import DiskUse
from interlock.ledger.files import Files
from interlock.ledger.folder import epochs

from .support import durable, intent, open_log, run, written


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.wal"))


def test_disk_use_follows_growth_rotation_ends_and_removal(tmp_path: Path) -> None:
    async def main() -> None:
        use = DiskUse(tmp_path, Files())
        assert use.used_bytes() == 0
        logs = [open_log(tmp_path, segment_bytes=2000) for _ in range(3)]
        for call in range(1, 20):
            for log in logs:
                await durable(log, log.append(intent(call)))
            assert use.used_bytes() == on_disk(tmp_path)
        await logs[0].close()
        logs[1].abandon()
        logs[2].append(intent(20))
        await written(logs[2])
        assert use.used_bytes() == on_disk(tmp_path) > 0
        shutil.rmtree(tmp_path / logs[0].epoch)
        assert use.used_bytes() == on_disk(tmp_path)
        assert len(epochs(tmp_path)) == 2
        await logs[2].close()

    run(main)
