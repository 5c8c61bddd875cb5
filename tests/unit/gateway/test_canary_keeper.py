"""The node's keeper of canaries: what was taken back stays so over a restart, whatever becomes of its file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.gateway.canary_keeper import CanaryKeeper
from interlock.gateway.canary_table import TRIED, CanaryTable
from interlock.settings import Settings
from interlock.types.snapshot import Alias, AliasTarget, Canary

from .snapshots import small

SETTINGS = Settings(canaries_max=4)
TRIED_ONE = Canary("can_1", AliasTarget("m"), 1000, 1, calls_min=10)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[CanaryTable]:
    with_path = CanaryTable.create(tmp_path / "canaries.shm", SETTINGS)
    yield with_path
    with_path.close()


def keeper(table: CanaryTable, path: Path, *canaries: Canary) -> CanaryKeeper:
    made = CanaryKeeper("n", "", SETTINGS, table, path)
    follow(made, *canaries)
    return made


def follow(made: CanaryKeeper, *canaries: Canary) -> None:
    compiler = small()
    aliases = [Alias(f"a{n}", targets=(AliasTarget("m"),), canary=canary) for n, canary in enumerate(canaries)]
    compiler.put("aliases", aliases)
    compiler.head()
    made.follow(compiler.view())


def look(made: CanaryKeeper) -> None:
    async def once() -> None:
        task = asyncio.create_task(made.run())
        await asyncio.sleep(0.3)
        task.cancel()

    asyncio.run(once())


def fail(table: CanaryTable, canary: Canary) -> None:
    for _ in range(2):
        table.count(canary, TRIED, 1, 5, failed=1)
    assert table.ended(canary)


def test_a_verdict_outlives_the_node(table: CanaryTable, tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    made = keeper(table, path, TRIED_ONE)
    look(made)
    assert not path.exists()
    fail(table, TRIED_ONE)
    look(made)
    again = CanaryTable.create(tmp_path / "again.shm", SETTINGS)
    assert not again.ended(TRIED_ONE)
    keeper(again, path, TRIED_ONE).load()
    assert again.ended(TRIED_ONE) and again.verdict("can_1") == table.verdict("can_1")
    again.close()


def test_what_no_snapshot_has_any_more_is_forgotten(table: CanaryTable, tmp_path: Path) -> None:
    path = tmp_path / "canaries.json"
    made = keeper(table, path, TRIED_ONE)
    fail(table, TRIED_ONE)
    look(made)
    made.retire()
    assert table.ended(TRIED_ONE) and b"can_1" in path.read_bytes()
    follow(made)
    made.retire()
    assert not table.ended(TRIED_ONE) and path.read_bytes() == b"{}"


@pytest.mark.parametrize("text", [b"", b"[]", b'{"can_1": ["errors"]}', b'{"can_1": ["nonsense", 1, 2, 3, 4]}'])
def test_a_file_that_cannot_be_read_stops_nothing(table: CanaryTable, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "canaries.json"
    path.write_bytes(text)
    keeper(table, path, TRIED_ONE).load()
    assert not table.ended(TRIED_ONE)
