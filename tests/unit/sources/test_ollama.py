"""An Ollama server as a source: what is found there, and what its load reading says."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import UpstreamError
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.credentials import CredentialStore
from interlock.sources.discovery import Discovered, discover
from interlock.sources.load import Load, LoadWatcher, parse_loaded
from interlock.sources.ollama import context_length, model_of
from interlock.sources.transport import deadlines_of
from interlock.testing import ollama
from interlock.testing.answers import page
from interlock.testing.engine import ScriptedEngine
from interlock.types.clock import SystemClock
from interlock.types.source import LoadReading, Source, SourceKind, SourceLimits, Timeouts, loaded_bit
from tests.unit.sources.upstream import until

SETTINGS = Settings(
    discovery_timeout_ms=2000, load_interval_ms=50, probe_timeout_ms=300, health_failures_max=2, load_age_ms_max=400
)


def _source(url: str, **fields: Any) -> Source:
    return Source("src_1", "local", SourceKind.ollama, url, api_prefix="/api", **fields)


def _look(url: str, **fields: Any) -> Discovered:
    return discover(_source(url, **fields), SETTINGS, CredentialStore(SETTINGS, {}))


def test_models_with_abilities_context_and_version() -> None:
    engine = ScriptedEngine(kind="ollama", models=("llama3.2:1b", "nomic-embed-text:latest"))
    with engine.in_thread():
        found = _look(engine.base_url)
        assert [r.path for r in engine.requests] == ["/api/version", "/api/tags", "/api/show", "/api/show"]
    assert (found.engine, found.engine_version) == ("ollama", ollama.VERSION)
    first, second = found.models
    assert (first.name, first.context_length) == ("llama3.2:1b", 8192)
    assert (first.version, second.version) == (ollama.digest(first.name), ollama.digest(second.name))
    assert set(first.abilities) == {
        "chat", "completions", "json_schema", "tools", "vision", "thinking", "embeddings", "logprobs"
    }  # fmt: skip
    assert found.warnings == (
        "How large a context models are loaded with is not known: declare limits.context_tokens.",
    )


def test_the_declared_context_is_what_fits_and_ends_the_warning() -> None:
    with ScriptedEngine(kind="ollama", models=("m",)).in_thread() as engine:
        found = _look(engine.base_url, limits=SourceLimits(context_tokens=2048))
        assert (found.models[0].context_length, found.warnings) == (2048, ())
        engine.pages |= ollama.pages_of(("m",), parameters='stop    "x"\nnum_ctx    4096\n')
        found = _look(engine.base_url)
        assert (found.models[0].context_length, found.warnings) == (4096, ())


@pytest.mark.parametrize(
    ("shown", "server", "abilities"),
    [
        ({"capabilities": ["embedding"]}, "0.13.0", ("embeddings",)),
        ({"capabilities": ["completion", "insert"]}, "0.12.10", ("chat", "completions", "json_schema")),
        ({"capabilities": ["completion"]}, "0.12.11", ("chat", "completions", "json_schema", "logprobs")),
        ({"capabilities": ["completion", 7]}, "main", ("chat", "completions", "json_schema")),
        ({}, "0.5.1", ("chat", "completions", "json_schema")),
    ],
)
def test_abilities(shown: dict[str, Any], server: str, abilities: tuple[str, ...]) -> None:
    assert model_of("m", "sha256:ab", shown, server, 0).abilities == abilities


@pytest.mark.parametrize(
    ("shown", "declared", "length"),
    [
        ({"model_info": {"llama.context_length": 8192}, "parameters": "num_ctx 99999"}, 0, 8192),
        ({"model_info": {"llama.context_length": 8192}}, 16_384, 8192),
        ({"model_info": {"llama.context_length": "8192"}}, 4096, 4096),
        ({"model_info": []}, 0, 0),
    ],
)
def test_context(shown: dict[str, Any], declared: int, length: int) -> None:
    assert context_length(shown, declared) == length


@pytest.mark.parametrize(
    ("shown", "millions"),
    [
        ({"model_info": {"general.parameter_count": 8_030_261_248}, "details": {"parameter_size": "1B"}}, 8030),
        ({"model_info": {"general.parameter_count": "many"}, "details": {"parameter_size": "134.52M"}}, 135),
        ({"details": {"parameter_size": 8}, "model_info": []}, 0),
        ({"details": "8B"}, 0),
        ({}, 0),
    ],
)
def test_how_many_parameters(shown: dict[str, Any], millions: int) -> None:
    assert model_of("m", "", shown, "0.12.11", 0).parameters_m == millions


def test_what_is_no_ollama_and_what_does_not_show() -> None:
    with ScriptedEngine(kind="vllm").in_thread() as engine:
        engine.pages["/api/version"] = page({"detail": "Not Found"}, 404)
        with pytest.raises(UpstreamError) as wrong:
            _look(engine.base_url)
    assert wrong.value.code == "wrong_kind"
    with ScriptedEngine(kind="ollama", models=("m",)).in_thread() as engine:
        engine.pages["/api/show"] = page({"error": "no"}, 500)
        found = _look(engine.base_url)
    assert found.models[0].name == "m" and "Nothing is known of the model m" in found.warnings[0]


@pytest.mark.parametrize(
    ("body", "loaded"),
    [
        (b'{"models":[]}', 0),
        (b'{"models":null}', 0),
        (b'{"models":[{"name":"m","model":"m","expires_at":"2026-11-01T00:00:00.123456789+01:00"}]}', 0),
        (b'{"models":[{"name":"m","model":"m","expires_at":"2318-11-01T00:00:00Z"}]}', loaded_bit("m")),
        (b'{"models":[{"name":"m","expires_at":"0001-01-01T00:00:00Z"}]}', loaded_bit("m")),
        (b'{"models":[{"name":"m"},{"model":"n"}]}', loaded_bit("m") | loaded_bit("n")),
        (b'{"models":3}', -1),
        (b"{}", -1),
        (b"<html>", -1),
        (b'{"x":' + b"[" * 30_000, -1),
    ],
)
def test_what_is_loaded(body: bytes, loaded: int) -> None:
    assert parse_loaded(body, 1_800_000_000.0) == Load(loaded=loaded)


def test_the_watcher_tells_what_is_loaded_and_that_the_server_is_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedEngine(kind="ollama", models=("m",)) as engine:
            with Board.create(tmp_path / "board.shm", rows=2, workers=1, settings=SETTINGS) as board:
                watcher = LoadWatcher(board, SETTINGS, SystemClock(), credentials=CredentialStore(SETTINGS, {}))
                task = asyncio.create_task(watcher.run())

                def reading() -> LoadReading:
                    return board.reading(board.row("src_1"), time.monotonic_ns())

                assert reading().loaded == -1
                watcher.update([_source(engine.base_url)])
                await until(lambda: reading().loaded == 0)
                assert (reading().waiting, reading().running) == (-1, -1)
                engine.pages |= ollama.pages_of(("m",), loaded=("m",))
                await until(lambda: reading().loaded == loaded_bit("m"))
                engine.pages["/api/ps"] = page("?")
                await until(lambda: reading().loaded == -1)
                assert reading().healthy
                engine.pages["/api/version"] = page({"error": "no"}, 500)
                await until(lambda: not reading().healthy)
                assert all(request.path.startswith("/api/") for request in engine.requests)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_every_set_of_loaded_models_comes_back_from_the_board(tmp_path: Path) -> None:
    with Board.create(tmp_path / "board.shm", rows=1, workers=1, settings=SETTINGS) as board:
        row = board.row("src_1")
        for loaded in (-1, 0, 1, loaded_bit("m"), (1 << 60) - 1):
            board.publish(
                row,
                waiting=-1,
                running=-1,
                kv_permille=-1,
                healthy=True,
                saturated=False,
                read_at_ns=10_000_000,
                loaded=loaded,
            )
            found = board.reading(row, 11_000_000)
            assert (found.loaded, found.healthy, found.saturated) == (loaded, True, False)


def test_loading_has_its_time_unless_the_source_says_its_own() -> None:
    settings = Settings(first_event_timeout_ms=1000, model_load_timeout_ms=2000)
    assert deadlines_of(_source("http://x"), settings).first_event_s == 3
    assert deadlines_of(_source("http://x", timeouts=Timeouts(first_event_ms=500)), settings).first_event_s == 0.5
    assert deadlines_of(Source("i", "n", SourceKind.vllm, "http://x"), settings).first_event_s == 1
