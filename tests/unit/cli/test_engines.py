"""Managed engines without running one: restarts, commands, digests, logs, what is registered."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.cli.engine_run import _options
from interlock.cli.engines.launch import Wanted, check_extra, launch, parse_gpus
from interlock.cli.engines.process import Log
from interlock.cli.engines.registry import Registration, check_nodes, declared
from interlock.cli.engines.restarts import Restarts
from interlock.cli.engines.weights import Version, digest, weight_files
from interlock.control.documents import SourceSpec
from interlock.errors import ConfigError, Unavailable

KEY = "a-key-that-nobody-may-read"
VLLM = Wanted("vllm", Path("/models/m"), "m", 8000, (), (), "/opt/vllm/bin/python")
LLAMA = Wanted("llamacpp", Path("/models/m.gguf"), "m", 8000, (), ("n_ctx=4096",))
REGISTRATION = Registration("gpu", "vllm", "http://127.0.0.1:8000", "/home/engines/gpu/key", "m", {}, "here", "/log")


# -- restarts


@given(
    st.lists(st.floats(0, 400), min_size=1, max_size=40),
    st.integers(0, 6),
)
@example([0.0] * 10, 3)
@example([0.0, 0.0, 0.0, 100.0], 3)
def test_within_any_window_there_are_no_more_restarts_than_allowed(gaps: list[float], most: int) -> None:
    window_s = 100.0
    restarts = Restarts(most, window_s, 0.5, 8.0)
    now, made = 0.0, []
    for gap in gaps:
        now += gap
        pause = restarts.failed(now)
        if pause is None:
            assert len([at for at in made if now - at < window_s]) >= most
            return
        assert 0.5 <= pause <= 8.0
        made.append(now)
        assert len([at for at in made if now - at < window_s]) <= most
    assert restarts.count == len(made)


def test_the_pause_doubles_and_starts_small_again_after_a_quiet_window() -> None:
    restarts = Restarts(10, 100, 0.5, 3.0)
    assert [restarts.failed(float(n)) for n in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert restarts.failed(500.0) == 0.5


# -- commands


@pytest.mark.parametrize("wanted", [VLLM, LLAMA])
def test_the_key_is_in_no_argument(wanted: Wanted) -> None:
    made = launch(wanted, KEY, Path("/home/engines/gpu/key"), {})
    assert KEY not in " ".join(made.arguments)
    if wanted.kind == "vllm":
        assert made.environment["VLLM_API_KEY"] == KEY
    else:
        assert "/home/engines/gpu/key" in made.arguments


def test_an_engine_gets_none_of_our_secrets() -> None:
    ours = {"INTERLOCK_ADMIN_KEY": "s", "INTERLOCK_DATABASE_URL": "s", "PATH": "/bin", "HF_HUB_OFFLINE": "0"}
    made = launch(VLLM, KEY, Path("/k"), ours)
    assert not [name for name in made.environment if name.startswith("INTERLOCK_")]
    assert made.environment["PATH"] == "/bin" and made.environment["HF_HUB_OFFLINE"] == "1"


def test_gpus_are_chosen_and_vllm_is_spread_over_them() -> None:
    made = launch(VLLM._replace(gpus=("0", "3")), KEY, Path("/k"), {})
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "0,3"
    assert made.arguments[-2:] == ("--tensor-parallel-size", "2")
    own = launch(VLLM._replace(gpus=("0", "3"), extra=("--pipeline_parallel_size=2",)), KEY, Path("/k"), {})
    assert "--tensor-parallel-size" not in own.arguments
    assert "CUDA_VISIBLE_DEVICES" not in launch(LLAMA, KEY, Path("/k"), {}).environment
    assert parse_gpus("0, GPU-1a") == ("0", "GPU-1a")
    for wrong in ("0,0", "0,", "0;1", " "):
        with pytest.raises(ConfigError):
            parse_gpus(wrong)


@pytest.mark.parametrize(
    "argument",
    [
        "--api-key",
        "--api_key=secret",
        "--api-k=secret",
        "--host",
        "--host=0.0.0.0",
        "--port",
        "--model=x",
        "--config=f",
        "--uds=/s",
    ],
)
def test_what_is_ours_to_give_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_extra("vllm", ("--enforce-eager", argument))
    assert "secret" not in told.value.message


def test_arguments_of_engines_pass() -> None:
    check_extra("vllm", ("--enforce-eager", "--max-model-len", "2048", "--dtype=bfloat16", "--api-server-count=2"))
    check_extra("llamacpp", ("n_ctx=4096", "--n-parallel=2", "embedding=true"))
    for wrong in ("n_ctx", "n_ctx=x", "embedding=1", "api_keys=k", "hostnames=0.0.0.0", "--port=1"):
        with pytest.raises(ConfigError):
            check_extra("llamacpp", (wrong,))


# -- weights


def test_the_digest_is_what_standard_tools_say(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("b.safetensors", "B.safetensors", "a.safetensors"):
        (folder / name).write_bytes(name.encode() * 1000)
    files = weight_files(folder, "vllm")
    command = "LC_ALL=C; export LC_ALL; sha256sum *.safetensors | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert digest(files, single=False, stopped=lambda: False) == f"sha256:{said.stdout.split()[0]}"
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF and more")
    value = Version(gguf, "llamacpp", tmp_path / "memory").now(lambda: False)
    assert value == f"sha256:{hashlib.sha256(b'GGUF and more').hexdigest()}"


def test_other_weights_are_another_version_and_the_same_ones_are_not_read_again(tmp_path: Path) -> None:
    gguf, memory = tmp_path / "m.gguf", tmp_path / "memory"
    gguf.write_bytes(b"GGUF one")
    first = Version(gguf, "llamacpp", memory).now(lambda: False)

    def refuse() -> bool:
        raise AssertionError("the file was read again")

    assert Version(gguf, "llamacpp", memory).now(refuse) == first
    assert memory.stat().st_mode & 0o777 == 0o600
    gguf.write_bytes(b"GGUF two")
    assert Version(gguf, "llamacpp", memory).now(lambda: False) != first
    memory.write_text('{"files": 3')
    gguf.write_bytes(b"GGUF one")
    assert Version(gguf, "llamacpp", memory).now(lambda: False) == first


def test_hashing_stops_when_told(tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(Unavailable):
        Version(gguf, "llamacpp", tmp_path / "memory").now(lambda: True)


def test_what_is_no_model_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    for path, kind in ((tmp_path / "none.gguf", "llamacpp"), (tmp_path / "x.gguf", "llamacpp"), (tmp_path, "vllm")):
        with pytest.raises(ConfigError):
            weight_files(path, kind)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no weights"):
        weight_files(tmp_path, "vllm")


# -- the log


def test_a_log_is_turned_and_only_so_many_are_kept(tmp_path: Path) -> None:
    log = Log(tmp_path / "engine.log", 100, 2)
    for n in range(20):
        log.write(f"{n:039}\n".encode())
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["engine.log", "engine.log.1", "engine.log.2"]
    assert all(f.stat().st_size <= 100 and f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert f"{19:039}\n".encode() in files[0].read_bytes()


# -- what is registered


def test_a_new_source_is_a_full_declaration_with_the_digest_as_version() -> None:
    wanted = REGISTRATION._replace(options=_options(["*"], "eu", "internal"))
    spec = declared(None, wanted, "sha256:aa")
    assert spec["models"] == [{"name": "m", "version": "sha256:aa"}]
    assert spec["credential"] == {"file": "/home/engines/gpu/key"}
    assert (spec["granted_to"], spec["labels"]) == (["*"], {"region": "eu", "data_class_max": "internal"})
    assert set(spec) <= set(SourceSpec.__struct_encode_fields__)


def test_what_an_administrator_declared_stays() -> None:
    now: dict[str, Any] = {
        "id": "src_1",
        "name": "gpu",
        "kind": "vllm",
        "url": "http://127.0.0.1:7000",
        "granted_to": ["acme"],
        "labels": {"region": "eu"},
        "limits": {"concurrency": 4},
        "price": None,
        "models": [{"name": "m", "version": "sha256:old", "quality_milli": 700}, {"name": "adapter"}],
        "credential": {"file": "/home/engines/gpu/key"},
        "managed": {"state": "stopped", "host": "here"},
    }
    spec = declared(now, REGISTRATION, "sha256:new")
    assert spec["url"] == "http://127.0.0.1:8000" and spec["limits"] == {"concurrency": 4}
    assert spec["granted_to"] == ["acme"] and spec["labels"] == {"region": "eu"}
    assert spec["models"][0] == {"name": "m", "version": "sha256:new", "quality_milli": 700}
    assert "id" not in spec and "managed" not in spec and "price" not in spec


def test_a_source_of_others_is_not_taken_over() -> None:
    other = {"name": "gpu", "url": "http://10.0.0.1:8000", "credential": None}
    with pytest.raises(ConfigError, match="already"):
        declared(other, REGISTRATION, "v")
    running = {"name": "gpu", "url": "u", "managed": {"state": "ready", "host": "there"}}
    with pytest.raises(ConfigError, match="runs on there"):
        declared(running, REGISTRATION, "v")
    declared({**running, "managed": {"state": "lost", "host": "there"}}, REGISTRATION, "v")


def test_several_nodes_cannot_share_a_loopback() -> None:
    check_nodes([{"name": "a", "seen_s_ago": 1.0}, {"name": "b", "seen_s_ago": 9999.0}])
    with pytest.raises(ConfigError, match="a, b"):
        check_nodes([{"name": "a", "seen_s_ago": 1.0}, {"name": "b", "seen_s_ago": 2.0}])
