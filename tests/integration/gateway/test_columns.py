"""What takes long to start is there before a call needs it: real workers, seen by the files that they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from interlock.gateway.node import WORKER_MODULE
from interlock.routing.facts import MANY
from interlock.types.identity import Tenant
from interlock.types.learned import Weights, weights_part
from tests.integration.gateway.test_node import Case, running, until
from tests.unit.gateway.snapshots import TENANT, Compiler, plain_source, small

LIBRARY = "_multiarray_umath"
"""Of NumPy: a process that has started it has this among its maps."""


def _holds(pid: int) -> bool:
    return LIBRARY in Path(f"/proc/{pid}/maps").read_text()


def _learned(compiler: Compiler) -> None:
    compiler.put("tenants", [Tenant(id=TENANT, name="a", learning="on")])
    compiler.put(weights_part(TENANT), Weights(1, 0, 1, 0, 0, b"", (), ()))


def _not_heeded(compiler: Compiler) -> None:
    compiler.put("tenants", [Tenant(id=TENANT, name="a", learning="off")])
    compiler.put(weights_part(TENANT), Weights(1, 0, 1, 0, 0, b"", (), ()))


def _many(compiler: Compiler) -> None:
    compiler.put("sources", [plain_source("local", *(f"m{n}" for n in range(MANY)))])


def _replicas(compiler: Compiler) -> None:
    compiler.put("sources", [plain_source(f"s{n}") for n in range(MANY)])


def _case(folder: Path, compiler: Compiler) -> Case:
    pepper = folder / "secrets" / "pepper"
    pepper.parent.mkdir(mode=0o700)
    pepper.write_text("a pepper of enough characters for a test")
    return Case(folder, workers=1, compiler=compiler, worker_module=WORKER_MODULE)


@pytest.mark.parametrize(
    ("change", "wanted"), [(_learned, True), (_many, True), (_not_heeded, False), (_replicas, False)]
)
def test_a_worker_has_what_its_decisions_need_before_it_is_ready(
    tmp_path: Path, change: Callable[[Compiler], None], wanted: bool
) -> None:
    compiler = small()
    change(compiler)

    async def run() -> None:
        async with running(_case(tmp_path, compiler)) as case:
            assert _holds(case.pids()[0]) is wanted

    asyncio.run(run())


@pytest.mark.parametrize("change", [_learned, _many])
def test_a_snapshot_that_is_the_first_to_need_it_is_taken_when_it_is_there(
    tmp_path: Path, change: Callable[[Compiler], None]
) -> None:
    async def run() -> None:
        async with running(_case(tmp_path, small())) as case:
            assert not _holds(case.pids()[0])
            change(case.compiler)
            version = await case.changed()
            await until(lambda: case.node.slots[0].snapshot == version)
            assert _holds(case.pids()[0])

    asyncio.run(run())
