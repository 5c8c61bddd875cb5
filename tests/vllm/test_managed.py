"""`interlock source run vllm` with a real vLLM: ready, used, killed in its core and whole, stopped, nothing left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.documents import written
from tests.e2e.stack import INTERLOCK, Stack, alive, clean_environment, fetch, running, temporary_home, until

from .conftest import note
from .engines import _ENVIRONMENT, MODEL, MODEL_FOLDER, PYTHON, READY_S, missing

ACME = {
    "tenants": [
        {
            "name": "acme",
            "teams": [{"name": "research"}],
            "principals": [{"name": "alice", "kind": "user", "teams": ["research"]}],
            "keys": [{"name": "k", "principal": "alice"}],
            "policies": [
                {
                    "id": "all",
                    "template": "team-may-use-models",
                    "parameters": {"team": "research", "models": "*"},
                }
            ],
        }
    ]
}


def family(port: int) -> dict[int, str]:
    """Processes of the engine, by id: those with its port in their arguments and all below them."""
    parents, words, chosen = {}, {}, set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "vllm.entrypoints" in words[pid] and str(port) in words[pid].split():
                chosen.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in chosen} - chosen:
        chosen |= more
    return {pid: words[pid] for pid in chosen}


@contextlib.contextmanager
def supervised(up: Stack, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(INTERLOCK), "source", "run", "vllm", "--model", str(MODEL_FOLDER), "--served-name", MODEL]
    command += ["--name", "own", "--granted-to", "*", "--home", str(up.home), "--python", str(PYTHON)]
    for argument in ("--enforce-eager", "--max-model-len=1024", "--max-num-seqs=4", "--dtype=bfloat16"):
        command += [f"--extra-arg={argument}"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=clean_environment(_ENVIRONMENT), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def managed(up: Stack) -> dict[str, Any]:
    answer = up.admin("GET", "/sources/own")
    found: dict[str, Any] = answer.json().get("managed", {}) if answer.status == 200 else {}
    return found


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_a_real_vllm_is_started_restarted_and_stopped(tmp_path: Path) -> None:
    if missing():
        pytest.skip(missing())
    with temporary_home() as home, running(home, environment={"INTERLOCK_WORKERS": "1"}) as up:
        keys = tmp_path / "keys.json"
        up.ok("apply", "-f", written(tmp_path, ACME), "-m", "a test", "--keys-out", str(keys))
        key = json.loads(keys.read_text())["acme"]["k"]
        with supervised(up, tmp_path / "supervisor.log") as supervisor:
            until(lambda: managed(up).get("state") == "ready", READY_S, "vLLM to be ready", 0.5)
            note(f"managed vLLM: ready in {managed(up)['ready_s']} s")
            item = up.ok("source", "show", "own")
            port = int(item["url"].rsplit(":", 1)[1])
            until(lambda: up.chat(key, MODEL).status == 200, 20, "a call to be answered", 0.5)

            sums = hashlib.sha256((MODEL_FOLDER / "model.safetensors").read_bytes()).hexdigest()
            listed = hashlib.sha256(f"{sums}  model.safetensors\n".encode()).hexdigest()
            assert [(o["name"], o["version"]) for o in item["offers"]] == [(MODEL, f"sha256:{listed}")]
            secret = (home / "engines" / "own" / "key").read_text().strip()
            assert fetch(item["url"], "/v1/models").status == 401
            first = family(port)
            assert len(first) >= 2 and all(secret not in words for words in first.values())
            engine_log = home / "engines" / "own" / "engine.log"
            assert "Application startup complete" in engine_log.read_text() and secret not in engine_log.read_text()

            # its core dies: all of vLLM ends and is started again; who asks meanwhile waits or is told when to come
            core = next(pid for pid, words in first.items() if words.startswith("VLLM::EngineCore"))
            os.kill(core, signal.SIGKILL)
            until(lambda: managed(up).get("state") != "ready", 60, "the failure to be known")
            early = up.chat(key, MODEL)
            assert early.status == 200 or (early.error["code"] == "engine_starting" and early.headers["retry-after"])
            until(lambda: managed(up).get("state") == "ready", READY_S, "vLLM to be ready again", 0.5)
            until(lambda: up.chat(key, MODEL).status == 200, 20, "a call to be answered", 0.5)
            assert managed(up)["restarts"] == 1
            assert not [pid for pid in first if alive(pid)]

            second = family(port)
            began = time.monotonic()
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(10) == 0
            note(f"managed vLLM: stopped in {time.monotonic() - began:.1f} s")
            assert not [pid for pid in second if alive(pid)]
            assert managed(up)["state"] == "stopped"
        # killed while it loads: nothing of it lingers
        with supervised(up, tmp_path / "supervisor.log") as supervisor:
            until(lambda: len(family(port)) >= 1 and managed(up).get("state") == "loading", 60, "vLLM to be started")
            time.sleep(5)
            third = family(port)
            supervisor.kill()
            until(lambda: not [pid for pid in third if alive(pid)], 10, "vLLM to end")
