"""The node as a parent: workers start, get snapshots, die and are replaced, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from interlock.errors import ConfigError, Unavailable
from interlock.gateway.listen import Listening
from interlock.gateway.node import GatewayNode, Running
from interlock.settings import Settings
from interlock.types.clock import SystemClock
from interlock.types.identity import Team
from interlock.types.source import Source, SourceState
from tests.unit.gateway.snapshots import TENANT, Compiler, plain_source, small
from tests.unit.gateway.test_feed import FakeStore

FAKE_WORKER = "tests.unit.gateway.fake_worker"


class NoWatcher:
    """Follows nothing, and remembers what it was told to follow."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def update(self, sources: Sequence[Source]) -> None:
        self.sources = [s.id for s in sources]

    def states(self) -> list[SourceState]:
        return []

    async def run(self) -> None:
        await asyncio.Event().wait()


class Case:
    """A running node over a fake database."""

    def __init__(
        self,
        home: Path,
        workers: int = 2,
        compiler: Compiler | None = None,
        silent_ms_max: int = 30_000,
        worker_module: str = FAKE_WORKER,
    ) -> None:
        self.compiler = compiler or small()
        self.store = FakeStore(self.compiler)
        self.watcher = NoWatcher()
        self.told: list[Running] = []
        self.node = GatewayNode(
            Settings(
                home=str(home),
                gateway_port=0,
                workers=workers,
                stop_grace_ms=1000,
                metrics_interval_ms=100,
                worker_silent_ms_max=silent_ms_max,
            ),
            SystemClock(),
            store=self.store,
            watcher=lambda *_: self.watcher,
            ready=self.told.append,
            worker_module=worker_module,
        )

    def pids(self) -> list[int]:
        return [slot.pid for slot in self.node.slots]

    def all_ready(self) -> bool:
        return all(slot.ready for slot in self.node.slots)

    async def changed(self) -> int:
        """Publish what was changed in the compiler, and let the feed look."""
        self.compiler.head()
        self.store.announced.set()
        return self.compiler.version


@contextlib.asynccontextmanager
async def running(case: Case) -> AsyncIterator[Case]:
    if not case.compiler.version:
        case.compiler.head()
    life = asyncio.create_task(case.node.run())
    try:
        await until(lambda: bool(case.told) or life.done())
        if life.done():
            await life
        yield case
    finally:
        case.node.stop()
        await life


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is heard by several
            await asyncio.sleep(0.01)


async def ask(port: int, what: str = "pid") -> str:
    """One question to whichever worker the kernel picks; "" when it died over it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(what.encode())
        return (await reader.read()).decode()
    except ConnectionError:
        return ""
    finally:
        writer.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_workers_serve_and_are_gone_after_a_stop(tmp_path: Path) -> None:
    async def run() -> None:
        case = Case(tmp_path)
        async with running(case):
            told = case.told[0]
            assert told.port and len(set(told.workers)) == 2 and told.snapshot == 1
            assert json.loads((tmp_path / "node/run/node.json").read_bytes())["workers"] == list(told.workers)
            seen = {int(await ask(told.port)) for _ in range(40)}
            assert seen == set(told.workers)
            assert case.watcher.sources == ["src_local"]
            await until(lambda: bool(case.store.registered) and case.store.registered[-1].workers == 2)
            assert case.store.registered[-1].snapshot_version == 1
            pids = case.pids()
        assert not any(alive(pid) for pid in pids)
        with pytest.raises(OSError):
            await ask(told.port)
        assert not (tmp_path / "node/run/node.json").exists()
        assert (tmp_path / "node/run/metrics-node.bin").exists()

    asyncio.run(run())


def test_what_a_worker_is_told_holds_no_database_and_the_environment_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("A_SOURCE_KEY", "needed")

    async def run() -> None:
        async with running(Case(tmp_path, workers=1)) as case:
            config = json.loads(await ask(case.told[0].port, "config"))
            assert config["settings"]["database_url"] == "" and config["settings"]["workers"] == 1
            assert (config["slot"], config["generation"], config["port"]) == (0, 0, case.told[0].port)
            environment = json.loads(await ask(case.told[0].port, "environment"))
            assert "INTERLOCK_DATABASE_URL" not in environment and environment["A_SOURCE_KEY"] == "needed"

    asyncio.run(run())


def test_every_worker_takes_a_new_snapshot_over(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(Case(tmp_path)) as case:
            case.compiler.put("sources", [plain_source("local"), plain_source("second")])
            assert await case.changed() == 2
            await until(lambda: all(slot.snapshot == 2 for slot in case.node.slots))
            assert await ask(case.told[0].port, "version") == "2"
            assert case.watcher.sources == ["src_local", "src_second"]
            case.compiler.put("teams", [Team(id="t", tenant_id=TENANT, name="refused")])
            await case.changed()
            await until(lambda: case.node.feed.view is not None and case.node.feed.view.version == 3)
            await asyncio.sleep(0.2)
            assert [slot.snapshot for slot in case.node.slots] == [2, 2]

    asyncio.run(run())


def test_a_killed_worker_is_replaced_and_its_shared_state_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(Case(tmp_path)) as case:
            board = case.node.board
            cleared: list[int] = []
            original = board.clear_worker

            def clear(worker: int) -> None:
                cleared.append(worker)
                original(worker)

            monkeypatch.setattr(board, "clear_worker", clear)
            before = case.pids()
            await ask(case.told[0].port, "crash")
            await until(lambda: case.all_ready() and case.pids() != before)
            assert len(set(case.pids()) & set(before)) == 1 and len(cleared) == 1
            assert {int(await ask(case.told[0].port)) for _ in range(40)} == set(case.pids())
            assert len(case.told) == 1

    asyncio.run(run())


def test_a_worker_that_keeps_dying_is_paused_and_the_others_get_its_connections(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(Case(tmp_path)) as case:
            crash = tmp_path / "node/run/crash-0"
            crash.write_text("")
            os.kill(case.pids()[0], signal.SIGKILL)
            survivor, slot, seen = str(case.pids()[1]), case.node.slots[0], list[str]()
            while len(seen) < 30:
                await until(lambda: 0 not in case.node.listening._sockets)
                lives = slot.generation
                said = await ask(case.told[0].port)
                if slot.generation == lives and 0 not in case.node.listening._sockets:  # it was paused all the while
                    seen.append(said)
            assert set(seen) == {survivor}
            crash.unlink()
            await until(case.all_ready)
            assert {int(await ask(case.told[0].port)) for _ in range(40)} == set(case.pids())

    asyncio.run(run())


def test_a_frozen_worker_is_found_and_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(Case(tmp_path, workers=1, silent_ms_max=1500)) as case:
            before = case.pids()
            asking = asyncio.create_task(ask(case.told[0].port, "freeze"))
            await until(lambda: case.all_ready() and case.pids() != before)
            assert await asking == "" and not alive(before[0])

    asyncio.run(run())


def test_an_unknown_key_id_asks_for_the_issuers_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with running(Case(tmp_path, workers=1)) as case:
            asked: list[str] = []
            monkeypatch.setattr(case.node.jwks, "request", asked.append)
            await ask(case.told[0].port, "keys")
            await until(lambda: asked == ["iss_1"])

    asyncio.run(run())


def test_a_start_without_a_database_serves_what_was_stored(tmp_path: Path) -> None:
    async def run() -> None:
        case = Case(tmp_path)
        async with running(case):
            pass
        again = Case(tmp_path, compiler=case.compiler)
        again.store.away = True
        async with running(again):
            assert again.told[0].snapshot == 1 and await ask(again.told[0].port, "version") == "1"

    asyncio.run(run())


def test_a_stop_before_the_first_snapshot(tmp_path: Path) -> None:
    async def run() -> None:
        case = Case(tmp_path)
        case.store.away = True
        life = asyncio.create_task(case.node.run())
        await asyncio.sleep(0.3)
        assert not life.done() and not case.told
        case.node.stop()
        await asyncio.wait_for(life, 120)

    asyncio.run(run())


def test_a_node_ends_when_its_shipper_has_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    async def slow(_: GatewayNode) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(2.5)  # as on a busy machine: longer than other services are waited for
            ended.append(True)

    monkeypatch.setattr("interlock.gateway.node.GOODBYE_S", 0)
    monkeypatch.setattr(GatewayNode, "_shipper", slow)

    async def run() -> None:
        async with running(Case(tmp_path, workers=1)):
            pass
        assert ended == [True], "a process would be left behind"

    asyncio.run(run())


def test_one_node_per_home_and_one_program_per_port(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(Case(tmp_path, workers=1)) as case:
            with pytest.raises(Unavailable, match="another gateway runs on this home"):
                await Case(tmp_path).node.run()
            other = Case(tmp_path / "other")
            with pytest.raises(ConfigError, match="is in use"):
                Listening("127.0.0.1", case.told[0].port)
            assert not other.told

    asyncio.run(run())


def test_a_node_without_a_database_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="database_url is not set"):
        GatewayNode(Settings(home=str(tmp_path)), SystemClock())


def test_listening_needs_an_address_of_this_machine() -> None:
    with pytest.raises(ConfigError, match="cannot be resolved"):
        Listening("nonsense.invalid", 0)
    with pytest.raises(ConfigError, match="cannot listen"):
        Listening("192.0.2.1", 0)
    listening = Listening("::1", 0) if socket.has_ipv6 else Listening("127.0.0.1", 0)
    assert listening.url.endswith(f":{listening.port}")
    listening.close()


def test_killing_the_node_leaves_no_worker(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from tests.integration.gateway.test_node import Case\n"
        "from interlock.gateway.node import Running\n"
        "case = Case(pathlib.Path(sys.argv[1]))\n"
        "case.compiler.head()\n"
        "case.node._ready = lambda running: print(*running.workers, flush=True)\n"
        "asyncio.run(case.node.run())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(alive(pid) for pid in pids)
