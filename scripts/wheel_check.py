"""The wheel as a stranger gets it: built, installed into an empty virtual environment, run on an empty home.

    .venv/bin/python scripts/wheel_check.py [--offline] [--json]

Installs the pinned dependencies and the wheel, loads its native part, runs `interlock version`, starts `interlock up`
behind TLS, registers an engine that Interlock did not start, makes a call, stops everything, and prints what it
measured. Exit codes: 0 done,
1 something does not work, 4 the dependencies cannot be had (no package registry and nothing in uv's cache).
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.certificates import make  # noqa: E402
from tests.e2e.documents import MODEL, one_engine, written  # noqa: E402
from tests.e2e.stack import clean_environment, command, fetch, running, temporary_home, until  # noqa: E402
from tests.engines import llamacpp_engine  # noqa: E402
from tests.native import expected  # noqa: E402

from interlock.native.library import VARIANTS  # noqa: E402

UV = Path(sys.executable).with_name("uv")
NO_REGISTRY = 4
INSTALL_TIMEOUT_S = 240
IMPORT_ROUNDS = 5


class NoRegistry(Exception):
    """The dependencies cannot be had."""


def build(folder: Path) -> Path:
    """The wheel, built from this checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, venv: Path, *, offline: bool) -> None:
    """A new virtual environment with the pinned dependencies and the wheel. Raises NoRegistry."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    if "UV_DEFAULT_INDEX" not in environment:  # uv does not read pip's configuration
        asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        index = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        environment |= {"UV_DEFAULT_INDEX": index} if index else {}

    def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = [str(UV), *arguments, *(["--offline"] if offline else [])]
        return subprocess.run(
            given, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )

    uv("venv", "-q", "--python", sys.executable, str(venv)).check_returncode()
    python = str(venv / "bin" / "python")
    pinned = uv("pip", "sync", "-q", "--python", python, "--require-hashes", "requirements/run.txt")
    if pinned.returncode:
        raise NoRegistry(pinned.stderr.strip().splitlines()[-1] if pinned.stderr.strip() else "uv said nothing")
    uv("pip", "install", "-q", "--python", python, "--no-deps", "--compile-bytecode", str(wheel)).check_returncode()


def import_ms(python: Path, module: str) -> float:
    """Milliseconds that importing `module` takes beyond the interpreter's own start; the best of a few rounds."""
    environment = clean_environment()

    def one(code: str) -> float:
        began = time.monotonic()
        subprocess.run([str(python), "-c", code], env=environment, cwd="/", check=True)
        return time.monotonic() - began

    best = min(one(f"import {module}") for _ in range(IMPORT_ROUNDS)) - min(one("pass") for _ in range(IMPORT_ROUNDS))
    return round(1000 * max(best, 0.0), 1)


def native_part(wheel: Path, python: Path) -> str:
    """Which file of the native part the installed package loads; "" where there is none for this machine.

    Raises AssertionError when the wheel lacks one, or is for one machine only.
    """
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    with zipfile.ZipFile(wheel) as packed:
        held = {Path(name).stem for name in packed.namelist() if name.startswith("interlock/native/lib/")}
    assert held == {each.name for each in VARIANTS}, held
    code = "from interlock.native.scan import native; found = native(); print(found.name if found else '')"
    ran = subprocess.run([str(python), "-c", code], env=clean_environment(), cwd="/", capture_output=True, text=True)
    loaded = ran.stdout.strip()
    assert ran.returncode == 0 and (loaded or expected()), ran.stderr
    return loaded


def use(program: Path, folder: Path) -> dict[str, float]:
    """Run the installed command as its user would; returns what was measured."""
    cert, key_file = folder / "cert.pem", folder / "key.pem"
    make(cert, key_file, "wheel")
    environment = {"INTERLOCK_TLS_CERT_FILE": str(cert), "INTERLOCK_TLS_KEY_FILE": str(key_file)}
    tls = ssl.create_default_context(cafile=str(cert))
    measured: dict[str, float] = {}
    with llamacpp_engine() as engine, temporary_home() as home:
        with running(home, environment=environment, program=program) as stack:
            measured["ready_empty_home_s"] = round(stack.ready_s, 2)
            made = stack.ok("apply", "-f", written(folder, one_engine(engine.base_url)))
            key = made["keys"]["acme"]["alice-laptop"]
            until(lambda: fetch(stack.gateway, f"/v1/models/{MODEL}", key, tls=tls).status == 200, 10, "the key")
            body = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
            answer = fetch(stack.gateway, "/v1/chat/completions", key, body, tls=tls)
            assert answer.status == 200, answer
            assert stack.run("route", "explain", answer.request_id).code == 0
        with running(home, environment=environment, program=program) as stack:
            measured["ready_warm_home_s"] = round(stack.ready_s, 2)
            answer = fetch(stack.gateway, "/v1/chat/completions", key, body, tls=tls)
            assert answer.status == 200, answer
    return measured


def check(*, offline: bool) -> dict[str, object]:
    """All of it. Raises NoRegistry, AssertionError, CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="interlock-wheel-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # the database runs as another user when we are root, and its binaries lie here
        wheel = build(folder / "dist")
        venv = folder / "venv"
        began = time.monotonic()
        install(wheel, venv, offline=offline)
        found: dict[str, object] = {"wheel": wheel.name, "wheel_bytes": wheel.stat().st_size}
        found["install_s"] = round(time.monotonic() - began, 1)
        found["native"] = native_part(wheel, venv / "bin" / "python")
        program = venv / "bin" / "interlock"
        found["version"] = command("version", "--json", program=program).json()["version"]
        for module in ("interlock", "interlock.cli.main", "interlock.gateway.worker"):
            found[f"import_ms {module}"] = import_ms(venv / "bin" / "python", module)
        found.update(use(program, folder))
        return found


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offline", action="store_true", help="install from uv's cache only")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        found = check(offline=given.offline)
    except NoRegistry as e:
        print(f"the dependencies cannot be had: {e}", file=sys.stderr)
        return NO_REGISTRY
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
