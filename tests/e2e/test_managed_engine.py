"""`interlock source run llamacpp` beside a running Interlock: cold start, `kill -9` under load, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.engines import model_file
from tests.figures import note

from .documents import MODEL
from .stack import INTERLOCK, Answer, Stack, alive, clean_environment, fetch, until

PINNED = f"own::{MODEL}"


@contextlib.contextmanager
def engine(
    demo: Stack, *arguments: str, model: Path | None = None, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor with its engine; whatever a test left of it is ended."""
    command = [str(INTERLOCK), "source", "run", "llamacpp", "--model", str(model or model_file())]
    command += ["--served-name", MODEL, "--name", "own", "--granted-to", "*", "--home", str(demo.home), *arguments]
    environment = clean_environment({f"INTERLOCK_{name.upper()}": value for name, value in settings.items()})
    log = demo.home.parent / "engine.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        until(lambda: not engines_of(demo), 180, "the engine to end")
        demo.admin("DELETE", "/sources/own")


def engines_of(demo: Stack) -> dict[int, list[str]]:
    """Processes of the engine `own` (keeper and engine) by id, with their arguments."""
    mark, found = str(demo.home / "engines" / "own" / "key"), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if mark in words:
                found[int(entry.name)] = words
    return found


def engine_pid(demo: Stack) -> int:
    """The process that has the model."""
    return next(p for p, words in engines_of(demo).items() if "interlock.cli.engines.keeper" not in words)


def managed(demo: Stack) -> dict[str, Any]:
    answer = demo.admin("GET", "/sources/own")
    found: dict[str, Any] = answer.json().get("managed", {}) if answer.status == 200 else {}
    return found


def ready(demo: Stack) -> bool:
    return managed(demo).get("state") == "ready"


def known(demo: Stack, key: str) -> Answer:
    """The first call that does not come before the gateway knows the source."""
    while (answer := demo.chat(key, PINNED)).status == 404:
        time.sleep(0.02)
    return answer


def records_of(demo: Stack, answer: Answer) -> list[dict[str, Any]]:
    return [r for r in demo.ok_lines("ledger", "tail", "--since", "1h") if r.get("request_id") == answer.request_id]


def test_a_cold_start_a_kill_under_load_and_a_clean_end(demo: Stack, rosa: str) -> None:
    with engine(demo, "--at-end", "remove") as supervisor, ThreadPoolExecutor(8) as pool:
        until(lambda: managed(demo), 180, "the source to be registered", 0.005)
        first = pool.submit(known, demo, rosa)  # may be early: then it waits
        until(lambda: ready(demo), 180, "the engine to be ready")
        assert first.result(120).status == 200, first.result().body

        # who it is: the version of its weights is in the source and in the call's record
        item = demo.ok("source", "show", "own")
        sums = subprocess.run(["sha256sum", str(model_file())], capture_output=True, text=True, check=True)
        version = f"sha256:{sums.stdout.split()[0]}"
        assert [(o["name"], o["version"]) for o in item["offers"]] == [(MODEL, version)]
        assert version in str(records_of(demo, first.result()))

        # nobody goes around, and the key is where nobody else can read it
        key_file = demo.home / "engines" / "own" / "key"
        key = key_file.read_text().strip()
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert fetch(item["url"], "/v1/chat/completions", body={}).status == 401
        assert all(key not in word for words in engines_of(demo).values() for word in words)
        assert key not in demo.log.read_text(errors="replace") and key not in str(demo.ok_lines("ledger", "tail"))

        # killed under load: who asks for the model is answered by others, and every call has its outcome
        answers: list[Answer] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                answers.append(demo.chat(rosa, MODEL, max_tokens=2))

        running = [pool.submit(load) for _ in range(4)]
        until(lambda: any(a.headers.get("x-interlock-source") == "own" for a in answers), 180, "a call to go there")
        began = time.monotonic()
        os.kill(engine_pid(demo), signal.SIGKILL)
        until(lambda: not ready(demo), 180, "the failure to be known", 0.01)
        waited = pool.submit(demo.chat, rosa, PINNED)
        until(lambda: ready(demo), 180, "the engine to be started again")
        note(f"an engine killed under load was ready again after {time.monotonic() - began:.1f} s")
        over.set()
        for each in running:
            each.result(120)
        assert waited.result(120).status == 200, waited.result().body
        assert {a.status for a in answers} == {200}, [a.body for a in answers if a.status != 200]
        assert managed(demo)["restarts"] == 1
        told = {r["request_id"] for r in demo.ok_lines("ledger", "tail", "--since", "1h") if r["kind"] == "Outcome"}
        assert {a.request_id for a in (*answers, waited.result(), first.result())} <= told

        # a clean end within ten seconds, with nothing left
        left = engines_of(demo)
        began = time.monotonic()
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(180) == 0
        note(f"a managed engine was stopped within {time.monotonic() - began:.1f} s")
        assert not [pid for pid in left if alive(pid)]
        assert demo.admin("GET", "/sources/own").status == 404


def test_a_supervisor_that_is_killed_takes_its_engine_along(demo: Stack, rosa: str) -> None:
    with engine(demo) as supervisor:
        until(lambda: ready(demo), 180, "the engine to be ready")
        again = demo.run(
            "source", "run", "llamacpp", "--model", str(model_file()), "--served-name", MODEL, "--name", "own"
        )
        assert again.code == 1 and "runs on this home already" in again.err
        family = engines_of(demo)
        assert len(family) == 2
        supervisor.kill()
        until(lambda: not any(alive(pid) for pid in family), 180, "the engine to end")


def test_an_engine_that_never_comes_up_is_given_up(demo: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with engine(demo, model=broken, engine_restarts_max="1", engine_backoff_ms="50") as supervisor:
        assert supervisor.wait(120) == 1
        said = managed(demo)
        assert said["state"] == "failed" and "given up after 1 restart" in said["words"] and said["restarts"] == 1


def test_what_cannot_be_run_is_said_at_once(demo: Stack, tmp_path: Path) -> None:
    gguf = str(model_file())
    for arguments, words in (
        (("llamacpp", "--model", str(tmp_path / "none.gguf")), "there is none"),
        (("llamacpp", "--model", gguf, "--name", "local"), "there is a source 'local' already"),
        (("llamacpp", "--model", gguf, "--extra-arg", "api_keys=x"), "llama.cpp takes NAME=VALUE"),
        (("llamacpp", "--model", gguf, "--served-name", "a b"), "is no model name"),
        (("vllm", "--model", gguf, "--python", "/no/python"), "there is no such program"),
        (("llamacpp", "--model", gguf, "--granted-to", "nobody", "--name", "own"), "no tenant 'nobody'"),
    ):
        ran = demo.run("source", "run", *arguments)
        assert ran.code == 1 and words in ran.err, (arguments, ran)
    assert not engines_of(demo)
    assert demo.admin("GET", "/sources/own").status == 404, "what was refused leaves nothing behind"
