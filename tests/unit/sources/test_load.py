"""Reading an engine's load: the metrics pages, the hysteresis, the watcher with a real board and scripted engines."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from interlock.errors import Unavailable
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.credentials import CredentialStore
from interlock.sources.load import Load, LoadWatcher, not_taken_up, parse_metrics, saturated_now
from interlock.telemetry.exposition import render
from interlock.telemetry.metrics import Metrics
from interlock.testing import faults
from interlock.testing.answers import page
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Script
from interlock.types.clock import SystemClock
from interlock.types.source import CredentialRef, LoadReading, Source, SourceKind, SourceLimits, TlsRef
from tests.unit.sources.certificates import Authority
from tests.unit.sources.proxy import connect_proxy
from tests.unit.sources.upstream import until

VLLM_PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}\\"b"} 8.0
vllm:num_requests_running{engine="1",model_name="a}\\"b"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 16.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 16.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.9996
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1.5e+03
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 500.0
"""


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("vllm", VLLM_PAGE, Load(16, 11, 1000, 1500, 500)),
        ("vllm", b'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n', Load(kv_permille=500)),
        ("vllm", b"vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\n", Load()),
        ("vllm", b"vllm:num_requests_running x\nvllm:num_requests_waiting -3\n", Load()),
        ("vllm", b"vllm:num_requests_waiting 2 1700000000000", Load(waiting=2)),
        ("vllm", b"", Load()),
        ("llamacpp", b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n", Load(5, 2)),
        ("llamacpp", VLLM_PAGE, Load()),
        ("openai", VLLM_PAGE, Load()),
    ],
)
def test_pages(kind: str, text: bytes, expected: Load) -> None:
    assert parse_metrics(SourceKind(kind), text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"vllm:num_requests_waiting{" * 150_000,
        b"vllm:num_requests_waiting{\n" * 150_000,
        b'vllm:num_requests_waiting{a="\n' * 150_000,
        b'vllm:num_requests_waiting{a="' + b"\\" * 4_000_000,
        b"vllm:num_requests_waiting{" + b'""' * 2_000_000,
        b"vllm:num_requests_waiting " + b"9" * 4_000_000,
        b"vllm:num_requests_waiting" + b" \t" * 2_000_000,
        b"\n" * 4_000_000,
    ],
    ids=["one_line", "open_labels", "open_text", "escapes", "texts", "digits", "blanks", "empty_lines"],
)
def test_the_largest_page_of_an_engine_that_lies_holds_nothing_up(text: bytes) -> None:
    began = time.process_time()
    assert parse_metrics(SourceKind.vllm, text) == Load()
    assert time.process_time() - began < 0.5


def test_a_page_of_garbage_is_no_load() -> None:
    page = bytes(random.Random(1).randbytes(100_000))
    assert parse_metrics(SourceKind.vllm, page.replace(b"\0", b"\nvllm:num_requests_waiting ")).running == -1


def test_hysteresis() -> None:
    limits = SourceLimits(waiting_max=8, waiting_resume=2)
    state, states = False, []
    for waiting in (0, 8, 9, 5, 3, -1, 2, 8, 20, -1, 0):
        state = saturated_now(state, waiting, limits)
        states.append(state)
    assert states == [False, False, True, True, True, True, False, False, True, True, False]


def test_a_resume_above_the_maximum_cannot_flap() -> None:
    limits = SourceLimits(waiting_max=2, waiting_resume=10)
    assert saturated_now(False, 3, limits)
    assert saturated_now(True, 3, limits)
    assert not saturated_now(True, 2, limits)


@pytest.mark.parametrize(
    ("load", "inflight", "lately", "expected"),
    [
        (Load(0, 1), 14, 2, 11),
        (Load(3, 8), 14, 2, 1),
        (Load(30, 8), 14, 2, 0),
        (Load(0, 0), 50, 500, 0),
        (Load(-1, 0), 14, 0, 0),
        (Load(0, -1), 14, 0, 0),
    ],
)
def test_calls_that_an_engine_has_not_taken_up(load: Load, inflight: int, lately: int, expected: int) -> None:
    assert not_taken_up(load, inflight, lately) == expected


def test_calls_not_taken_up_saturate_but_are_not_held_to_the_resume() -> None:
    limits = SourceLimits(waiting_max=8, waiting_resume=0)
    assert saturated_now(False, 0, limits, 9)
    assert saturated_now(False, 5, limits, 4)
    assert not saturated_now(False, 5, limits, 3)
    assert not saturated_now(True, 0, limits, 8), "eight readers that stopped reading do not keep it saturated"
    assert saturated_now(True, 1, limits, 0)


class Series:
    """A gauge or counter of a test."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], int] = {}

    def set(self, labels: tuple[str, ...], value: int, /) -> None:
        self.values[labels] = value

    def add(self, labels: tuple[str, ...], /) -> None:
        self.values[labels] = self.values.get(labels, 0) + 1

    def clear(self) -> None:
        self.values.clear()


class Instruments:
    """Those that the watcher reports to."""

    def __init__(self) -> None:
        self.source_up, self.source_saturated, self.source_waiting = Series(), Series(), Series()
        self.source_running, self.source_kv_ratio, self.source_inflight = Series(), Series(), Series()
        self.source_breaker, self.source_probes, self.source_engine = Series(), Series(), Series()
        self.source_models_loaded = Series()
        self.source_not_taken_up, self.source_prefix_tokens = Series(), Series()


SETTINGS = Settings(load_interval_ms=50, probe_timeout_ms=300, health_failures_max=3, load_age_ms_max=400)


class Watching:
    """A watcher at work, with what tests look at."""

    def __init__(self, board: Board, watcher: LoadWatcher, metrics: Instruments) -> None:
        self.board = board
        self.watcher = watcher
        self.metrics = metrics

    def reading(self, source_id: str = "src_1") -> LoadReading:
        """The board's reading now."""
        return self.board.reading(self.board.row(source_id), SystemClock().mono_ns())


@asynccontextmanager
async def _watching(tmp_path: Path, settings: Settings = SETTINGS) -> AsyncIterator[Watching]:
    metrics = Instruments()
    with Board.create(tmp_path / "board.shm", rows=8, workers=1, settings=settings) as board:
        credentials = CredentialStore(settings, {"KEY": "secret"})
        watcher = LoadWatcher(board, settings, SystemClock(), metrics=metrics, credentials=credentials)
        task = asyncio.create_task(watcher.run())
        try:
            yield Watching(board, watcher, metrics)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _source(server: ScriptedEngine, source_id: str = "src_1", **fields: object) -> Source:
    return Source(source_id, f"s-{source_id}", SourceKind(server.kind), server.base_url, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_load_saturation_and_return(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind=kind) as engine, _watching(tmp_path) as it:
            engine.load.running, engine.load.waiting, engine.load.kv_ratio = 4, 3, 0.5
            it.watcher.update([_source(engine, credential=CredentialRef(env="KEY"))])
            await until(lambda: it.reading().waiting == 3)
            assert it.reading().running == 4
            assert it.reading().kv_permille == (500 if kind == "vllm" else -1)
            assert not it.reading().saturated
            engine.load.waiting = 9
            await until(lambda: it.reading().saturated)
            engine.load.waiting = 3
            await until(lambda: it.reading().waiting == 3)
            assert it.reading().saturated, "it stays saturated until the queue is at or below waiting_resume"
            engine.load.waiting = 2
            await until(lambda: not it.reading().saturated)
            assert engine.requests[0].header("authorization") == "Bearer secret"

    asyncio.run(main())


def test_a_source_that_goes_down_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        engine = ScriptedEngine(kind="vllm")
        await engine.start()
        async with _watching(tmp_path) as it:
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().waiting == 0)
            await engine.close()
            await until(lambda: not it.reading().healthy)
            await until(lambda: it.reading().waiting == -1)
            assert not it.reading().saturated
            await engine.start()
            await until(lambda: it.reading().healthy and it.reading().waiting == 0)
            await engine.close()

    asyncio.run(main())
    messages = [r.getMessage() for r in caplog.records if r.name == "interlock.sources.load"]
    assert len([m for m in messages if "is down: source 's-src_1' refused" in m]) == 1
    assert len([m for m in messages if "is up again" in m]) == 1


def test_an_engine_that_answers_metrics_but_is_not_healthy(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            engine.pages["/health"] = page("", 503)
            it.watcher.update([_source(engine)])
            await until(lambda: not it.reading().healthy)

    asyncio.run(main())


BROKEN = pytest.mark.parametrize(
    "answer",
    [faults.never_answers(), faults.garbage(), faults.huge(300_000), faults.closes_at_once(), faults.huge_head()],
    ids=["silent", "garbage", "huge", "closes", "huge_head"],
)
HASTY = Settings(
    load_interval_ms=50, probe_timeout_ms=100, health_failures_max=2, probe_bytes_max=100_000, load_age_ms_max=150
)


@BROKEN
def test_an_engine_that_cannot_answer_is_down(tmp_path: Path, answer: Script) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path, HASTY) as it:
            engine.pages["/metrics"] = engine.pages["/health"] = answer
            it.watcher.update([_source(engine)])
            await until(lambda: not it.reading().healthy)
            assert it.metrics.source_probes.values["s-src_1", "failed"] >= 2

    asyncio.run(main())


@BROKEN
def test_metrics_that_cannot_be_read_make_the_load_unknown_and_not_the_source_ill(
    tmp_path: Path, answer: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path, HASTY) as it:
            engine.load.waiting = 9
            good = engine.pages["/metrics"]
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().saturated)
            engine.pages["/metrics"] = answer
            await until(lambda: it.metrics.source_probes.values.get(("s-src_1", "failed"), 0) > 2)
            await until(lambda: it.reading().waiting == -1)
            assert it.reading().healthy
            assert not it.reading().saturated, "unknown is neither idle nor saturated"
            engine.pages["/metrics"] = good
            await until(lambda: it.reading().waiting == 9)

    asyncio.run(main())
    assert caplog.text.count("the load of source s-src_1 is unknown") == 1
    assert caplog.text.count("the load of source s-src_1 is known again") == 1


def test_saturation_does_not_outlive_the_knowledge_of_the_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path, HASTY) as it:
            engine.load.waiting = 9
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().saturated)
            engine.pages["/metrics"] = page("vllm:num_requests_running 3\nvllm:num_requests_waiting NaN\n")
            await until(lambda: it.reading().running == 3 and not it.reading().saturated)
            assert it.reading().waiting == -1

    asyncio.run(main())


def test_an_engine_without_metrics_is_healthy_with_unknown_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="llamacpp") as engine, _watching(tmp_path) as it:
            engine.pages["/metrics"] = page({"error": "start it with --metrics"}, 501)
            it.watcher.update([_source(engine)])
            await until(lambda: it.metrics.source_probes.values.get(("s-src_1", "ok"), 0) > 2)
            assert it.reading() == LoadReading(healthy=True)

    asyncio.run(main())
    assert caplog.text.count("load of source s-src_1 is unknown: its metrics page answers with status 501") == 1


def test_sources_without_probes_are_published_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="openai") as engine, _watching(tmp_path) as it:
            it.watcher.update([_source(engine)])
            await until(lambda: it.metrics.source_up.values == {("s-src_1",): 1})
            assert it.reading() == LoadReading(healthy=True)
            assert engine.requests == []

    asyncio.run(main())


def test_changed_limits_forget_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            engine.load.waiting = 9
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().saturated)
            engine.load.waiting = 5
            await until(lambda: it.reading().waiting == 5)
            seen: list[LoadReading] = []

            def note() -> int:
                seen.append(it.reading())
                return len(engine.requests)

            it.watcher.update([_source(engine, limits=SourceLimits(waiting_max=8, waiting_resume=3))])
            count = len(engine.requests)
            await until(lambda: note() > count + 4)
            assert all(reading.saturated for reading in seen), "5 is above the new waiting_resume too"
            engine.pages["/health"] = page("", 500)
            await until(lambda: not it.reading().healthy)
            seen.clear()
            it.watcher.update([_source(engine)])
            count = len(engine.requests)
            await until(lambda: note() > count + 3)
            assert not any(reading.healthy for reading in seen), "down stays down when only limits changed"

    asyncio.run(main())


def test_a_source_that_cannot_be_watched_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("interlock.sources.load.RETRY_S", 0.1)

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            real, tries = it.board.row, 0

            def row(source_id: str) -> int:
                nonlocal tries
                tries += 1
                if tries < 3:
                    raise Unavailable("no row is free")
                return real(source_id)

            monkeypatch.setattr(it.board, "row", row)
            it.watcher.update([_source(engine)])
            await until(lambda: tries >= 3 and it.reading().waiting == 0)

    asyncio.run(main())
    assert caplog.text.count("cannot be watched: no row is free") == 1


def test_a_way_out_that_hangs_does_not_hang_for_ever(tmp_path: Path) -> None:
    """An egress proxy takes connections and says nothing; once it works again, the source is up."""

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, connect_proxy() as proxy, _watching(tmp_path, HASTY) as it:
            hangs = True
            silent: list[asyncio.StreamWriter] = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if hangs:
                    silent.append(writer)
                    await reader.read()
                    writer.close()
                else:
                    await proxy.serve(reader, writer)

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            it.watcher.update([_source(engine, egress_proxy=f"http://127.0.0.1:{port}")])
            await until(lambda: not it.reading().healthy)
            hangs = False
            await until(lambda: it.reading().healthy and it.reading().waiting == 0)
            it.watcher.update([])
            await until(lambda: not proxy.tasks)
            server.close()
            for writer in silent:
                writer.close()

    asyncio.run(main())


def test_a_watcher_that_is_run_again_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        with Board.create(tmp_path / "again.shm", rows=8, workers=1, settings=SETTINGS) as board:
            watcher = LoadWatcher(board, SETTINGS, SystemClock())
            async with ScriptedEngine(kind="vllm") as engine:
                watcher.update([_source(engine)])
                for _ in range(2):
                    seen = len(engine.requests)
                    task = asyncio.create_task(watcher.run())
                    await until(lambda seen=seen: len(engine.requests) > seen + 1)  # type: ignore[misc]
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                await until(lambda: engine.open_connections == 0)

    asyncio.run(main())


def test_calls_sent_after_the_reading_in_use_are_counted_even_when_later_readings_fail(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(load_interval_ms=50, probe_timeout_ms=100, load_age_ms_max=60_000)
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path, settings) as it:
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().waiting == 0)
            engine.pages["/metrics"] = page("", 404)
            await asyncio.sleep(0.1)
            with Board.open(tmp_path / "board.shm", worker=0, settings=settings) as worker:
                assert worker.enter(worker.row("src_1"), None)
                count = len(engine.requests)
                await until(lambda: len(engine.requests) > count + 2)
                assert it.reading().waiting == 0
                assert it.reading().inflight_since == 1

    asyncio.run(main())


def test_how_long_calls_stay_is_measured_and_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            it.watcher.update([_source(engine)])
            await until(lambda: it.reading().waiting == 0)
            assert it.reading().stay_ms == -1
            with Board.open(tmp_path / "board.shm", worker=0, settings=SETTINGS) as worker:
                row, began = worker.row("src_1"), time.monotonic()
                for _ in range(4):
                    worker.enter(row, None)
                await asyncio.sleep(0.4)
                for _ in range(4):
                    worker.leave(row)
                stayed_ms = 1000 * (time.monotonic() - began)
                await until(lambda: it.reading().stay_ms > 0)
                assert 0.5 * stayed_ms < it.reading().stay_ms < 1.75 * stayed_ms

    asyncio.run(main())


def test_an_engine_whose_figures_lag_is_saturated_by_the_calls_it_does_not_count(tmp_path: Path) -> None:
    """vLLM tells its figures once a step; a step that takes seconds shows an empty queue all the while."""
    limits = SourceLimits(waiting_max=3, waiting_resume=0)

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            engine.load.running = 1
            it.watcher.update([_source(engine, limits=limits)])
            await until(lambda: it.reading().running == 1)
            with Board.open(tmp_path / "board.shm", worker=0, settings=SETTINGS) as worker:
                row = worker.row("src_1")
                for _ in range(6):
                    worker.enter(row, None)
                await until(lambda: it.reading().saturated)
                reading = it.reading()
                assert (reading.waiting, reading.inflight, reading.inflight_since) == (0, 6, 5)
                await until(lambda: it.metrics.source_not_taken_up.values == {("s-src_1",): 5})
                engine.load.running, engine.load.waiting = 2, 4
                await until(lambda: it.reading().waiting == 4)
                assert it.reading().inflight_since == 0, "they are in its figures now"
                assert it.reading().saturated
                for _ in range(6):
                    worker.leave(row)
                engine.load.running = engine.load.waiting = 0
                await until(lambda: not it.reading().saturated)

    asyncio.run(main())


def test_calls_on_their_way_are_not_held_against_an_engine(tmp_path: Path) -> None:
    """A fast engine: at each look ten calls are under way that it does not count, never the same for long."""
    limits = SourceLimits(waiting_max=3, waiting_resume=0)

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            it.watcher.update([_source(engine, limits=limits)])
            await until(lambda: it.reading().waiting == 0)
            with Board.open(tmp_path / "board.shm", worker=0, settings=SETTINGS) as worker:
                row, began = worker.row("src_1"), time.monotonic()
                for _ in range(10):
                    worker.enter(row, None)
                while time.monotonic() - began < 1.5:
                    await asyncio.sleep(0.01)
                    for _ in range(10):
                        worker.enter(row, None)
                        worker.leave(row)
                    assert not it.reading().saturated
                assert it.metrics.source_not_taken_up.values == {("s-src_1",): 0}

    asyncio.run(main())


def test_every_declared_metric_of_sources_is_set(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "node", SETTINGS, SystemClock())
    declared = {name: it for name, it in vars(metrics).items() if name.startswith("source_")}
    assert {it.family.name for it in declared.values()} == {
        name for name in metrics.families if name.startswith("interlock_source_")
    }

    async def main() -> None:
        async with (
            ScriptedEngine(kind="vllm") as full,
            ScriptedEngine(kind="llamacpp") as plain,
            ScriptedEngine(kind="ollama") as many,
        ):
            full.load.kv_ratio, full.load.waiting = 0.25, 9
            with Board.create(tmp_path / "board.shm", rows=8, workers=1, settings=SETTINGS) as board:
                watcher = LoadWatcher(board, SETTINGS, SystemClock(), metrics=metrics)
                several = (_source(plain, "src_2", engine_state="ready"), _source(many, "src_3", api_prefix="/api"))
                watcher.update([_source(full), *several])
                task = asyncio.create_task(watcher.run())
                await until(lambda: metrics.source_waiting.cells.get(("s-src_2",)) == 0)
                await until(lambda: metrics.source_models_loaded.cells.get(("s-src_3",)) == 0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert {name for name, it in declared.items() if not it.cells} == set()
    assert metrics.source_kv_ratio.cells == {("s-src_1",): 250}, "permille; never set when it is unknown"
    assert metrics.source_saturated.cells == {("s-src_1",): 1, ("s-src_2",): 0, ("s-src_3",): 0}
    assert metrics.source_engine.cells == {("s-src_2", "ready"): 1}
    metrics.publish()
    assert b'interlock_source_kv_ratio{source="s-src_1"} 0.25' in render(tmp_path, SETTINGS, SystemClock())


def test_probes_go_the_way_calls_go(tmp_path: Path) -> None:
    """Through the egress proxy, with the own CA, the client certificate and the credential."""
    authority = Authority(tmp_path)
    client = authority.issue("client")
    context = authority.server_context("localhost", client_ca=authority.ca)
    tls = TlsRef(ca_file=str(authority.ca), cert_file=str(client.cert), key_file=str(client.key))

    async def main() -> None:
        async with (
            ScriptedEngine(kind="vllm", tls=context) as engine,
            connect_proxy(authorization="Basic c2VjcmV0") as proxy,
            _watching(tmp_path) as it,
        ):
            fields = {
                "tls": tls,
                "egress_proxy": f"http://127.0.0.1:{proxy.port}",
                "egress_proxy_credential": CredentialRef(env="KEY"),
                "credential": CredentialRef(env="KEY"),
            }
            source = Source("src_1", "s", SourceKind.vllm, f"https://localhost:{engine.port}", **fields)  # type: ignore[arg-type]
            it.watcher.update([source])
            await until(lambda: it.reading().waiting == 0)
            assert set(proxy.targets) == {f"localhost:{engine.port}"}
            assert engine.requests[0].header("authorization") == "Bearer secret"

    asyncio.run(main())


def test_updates_change_who_is_watched(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as one, ScriptedEngine(kind="vllm") as two, _watching(tmp_path) as it:
            it.watcher.update([_source(one)])
            await until(lambda: len(one.requests) > 2)
            connections = one.connections
            it.watcher.update([_source(one, engine="vllm", engine_version="1"), _source(two, "src_2")])
            await until(lambda: len(two.requests) > 2)
            assert one.connections == connections, "a discovered version does not interrupt the watching"
            it.watcher.update([_source(two, "src_2")])
            await until(lambda: one.open_connections == 0)
            seen = len(one.requests)
            await until(lambda: set(it.metrics.source_up.values) == {("s-src_2",)})
            assert len(one.requests) == seen
        assert two.open_connections == 0, "a watcher that ends leaves no connection open"

    asyncio.run(main())


def test_a_defect_in_reading_one_source_does_not_end_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def broken(kind: SourceKind, text: bytes) -> Load:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("a defect")
        return parse_metrics(kind, text)

    monkeypatch.setattr("interlock.sources.load.parse_metrics", broken)

    async def main() -> None:
        async with ScriptedEngine(kind="vllm") as engine, _watching(tmp_path) as it:
            it.watcher.update([_source(engine)])
            await until(lambda: calls > 3)

    asyncio.run(main())
    assert "a defect" in caplog.text


def test_a_new_engine_behind_a_source_is_not_held_to_what_the_old_one_did(tmp_path: Path) -> None:
    clock = SystemClock()
    with Board.create(tmp_path / "board.shm", rows=8, workers=1, settings=SETTINGS) as board:
        watcher = LoadWatcher(board, SETTINGS, clock)
        row = board.row("src_1")

        def state(engine_state: str) -> None:
            watcher.update([Source("src_1", "one", SourceKind.vllm, "http://127.0.0.1:1", engine_state=engine_state)])

        def broken() -> bool:
            return board.open_until(row) > clock.mono_ns()

        state("ready")
        for _ in range(SETTINGS.breaker_failures):
            board.failure(row, clock.mono_ns())
        board.cool_down(row, clock.mono_ns() + 10**10)
        state("ready")
        assert broken()
        state("restarting")
        assert broken()
        state("ready")
        assert not broken()
        assert board.allow(row, clock.mono_ns())
