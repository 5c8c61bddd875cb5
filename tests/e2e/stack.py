"""`interlock up` as its users have it: a process of the installed command, a home folder, a ready file.

    with running(home, demo=True) as stack:
        stack.gateway, stack.key("acme", "rosa-laptop"), stack.shell("source", "list")

Leaving the context stops it with SIGTERM and asserts that it ends in time, with exit code 0, and leaves no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from interlock.settings import Settings
from interlock.storage.embedded import EmbeddedPostgres
from tests.figures import note

T = TypeVar("T")
INTERLOCK = Path(sys.executable).with_name("interlock")
READY_S = 400
PATIENT = {"INTERLOCK_EMBEDDED_START_TIMEOUT_MS": "300000"}
"""Where many tests run, a database that starts has little of the machine."""
ANSWER_S = 180
"""Longest silence of an answer, where many tests run: what is asked may have to wait for the machine."""
STOP_S = 120
"""Longest stop. It takes ten seconds at most where the machine has time for it; what it takes here is noted."""
"""The contract: SIGTERM stops everything within ten seconds."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an HTTP request gave. Header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        """The id under which the gateway recorded the call."""
        return self.headers["x-interlock-request-id"]

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal."""
        found: dict[str, Any] = self.json()["error"]
        return found


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a command gave."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its output, decoded."""
        return json.loads(self.out)


def fetch(
    url: str,
    path: str,
    key: str = "",
    body: object = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = ANSWER_S,
) -> Answer:
    """One request on a connection of its own. `body`: bytes as they are, anything else as JSON."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    sent = {"content-type": "application/json", **(headers or {})}
    if key:
        sent["authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method or ("GET" if data is None else "POST"), path, body=data, headers=sent)
        with connection.getresponse() as response:
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Stack:
    """A running `interlock up`."""

    def __init__(
        self, process: subprocess.Popen[bytes], home: Path, ready: dict[str, Any], log: Path, program: Path
    ) -> None:
        self.process = process
        self.program = program
        self.home = home
        self.gateway: str = ready["gateway"]
        self.control: str = ready["control"]
        self.admin_key: str = ready["admin_key"]
        self.tenants: dict[str, Any] = ready["tenants"]
        self.log = log
        self.ready_s = 0.0

    def key(self, tenant: str, label: str) -> str:
        """An API key of the demo."""
        found: str = self.tenants[tenant]["keys"][label]
        return found

    def chat(self, key: str, model: str = "auto", text: str = "Say hello.", **fields: Any) -> Answer:
        """One chat completion."""
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": text}], **fields}
        return fetch(self.gateway, "/v1/chat/completions", key, body)

    def admin(self, method: str, path: str, body: object = None, *, key: str = "", reason: str = "a test") -> Answer:
        """One request to the admin API, by the platform's owner unless another key is given."""
        headers = {"x-interlock-reason": reason} if reason else {}
        return fetch(self.control, f"/admin/v1{path}", key or self.admin_key, body, method=method, headers=headers)

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> Ran:
        """A command of the installed `interlock`, on this home unless it names another one."""
        home = () if "--home" in arguments else ("--home", str(self.home))
        return command(*arguments, *home, environment=environment, stdin=stdin, program=self.program)

    def ok(self, *arguments: str, stdin: str = "") -> Any:
        """What a command that must succeed prints with --json."""
        ran = self.run(*arguments, "--json", stdin=stdin)
        assert ran.code == 0, (arguments, ran)
        return ran.json()

    def ok_or(self, code: int, *arguments: str) -> Any:
        """What a command that ends with this exit code prints with --json."""
        ran = self.run(*arguments, "--json")
        assert ran.code == code, (arguments, ran)
        return ran.json()

    def anonymous(self, path: str) -> Answer:
        """A request to the admin API without a key."""
        return fetch(self.control, f"/admin/v1{path}")

    def ok_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command that must succeed prints with --json when that is one value a line."""
        ran = self.run(*arguments, "--json")
        assert ran.code == 0, (arguments, ran)
        return [json.loads(line) for line in ran.out.splitlines()]

    def settled(self) -> None:
        """Wait until every worker runs on the newest snapshot. What a call has shown to be in force at its own worker
        is in force at the others then."""

        def there() -> bool:
            nodes = self.admin("GET", "/snapshot").json()["nodes"]
            return bool(nodes) and not any(node["behind"] for node in nodes)

        until(there, 120, "every worker to run on the newest snapshot")

    def everywhere(self, shown: Callable[[], T], what: str) -> T:
        """Wait until a call shows that a change is in force, and then until it is at every worker; what was shown."""
        said = until(shown, 120, what)
        self.settled()
        return said

    def answers(self, status: int, key: str, model: str = "auto", what: str = "", **fields: Any) -> Answer:
        """Wait until calls are answered with this status at every worker; the answer that was the first."""

        def asked() -> Answer | None:
            answer = self.chat(key, model, **fields)
            return answer if answer.status == status else None

        found = self.everywhere(asked, what or f"calls of {model} to be answered with {status}")
        assert found is not None
        return found

    def node(self) -> dict[str, Any]:
        """What the node says about itself: pid, workers, snapshot."""
        said: dict[str, Any] = json.loads((self.home / "node" / "run" / "node.json").read_text())
        return said

    def workers(self) -> list[int]:
        """Process ids of the gateway's workers."""
        return list(self.node()["workers"])

    def postgres(self) -> EmbeddedPostgres:
        """The home's database server."""
        return EmbeddedPostgres(self.home, Settings(home=str(self.home)))


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INTERLOCK_", "PYTHON"))}
    return {**kept, **(extra or {})}


def command(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: int = 240,
    program: Path = INTERLOCK,
) -> Ran:
    """One run of the installed command."""
    done = subprocess.run(
        [str(program), *arguments],
        env=clean_environment(environment),
        cwd="/",
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def start(
    home: Path,
    *arguments: str,
    demo: bool = False,
    environment: Mapping[str, str] | None = None,
    program: Path = INTERLOCK,
) -> Stack:
    """Start `interlock up` and wait until it is ready. Fails with its log when it ends before."""
    ready = home.parent / f"{home.name}.ready.json"
    ready.unlink(missing_ok=True)
    log = home.parent / f"{home.name}.log"
    given = ["--home", str(home), "--port", "0", "--control-port", "0", "--ready-file", str(ready), *arguments]
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(program), "up", *given, *(["--demo"] if demo else [])],
            env=clean_environment({**PATIENT, **(environment or {})}),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_end_with_parent,
        )
    try:
        until(lambda: ready.exists() or process.poll() is not None, READY_S, "interlock up to be ready")
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert ready.stat().st_mode & 0o777 == 0o600
        stack = Stack(process, home, json.loads(ready.read_text()), log, program)
        stack.ready_s = time.monotonic() - began
        return stack
    except BaseException:
        end(process, home)
        raise


def _end_with_parent() -> None:
    """A test run that is killed leaves nothing behind: the kernel sends SIGTERM for it (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def stop(stack: Stack) -> None:
    """SIGTERM, and the contract: exit code 0 soon, and nothing left running."""
    family = processes_of(stack.home)
    assert stack.process.pid in family
    began = time.monotonic()
    stack.process.send_signal(signal.SIGTERM)
    try:
        code = stack.process.wait(STOP_S)
    finally:
        end(stack.process, stack.home)
    assert code == 0, stack.log.read_text(errors="replace")[-3000:]
    note(f"interlock up stopped within {time.monotonic() - began:.1f} s")
    left = {pid: words for pid, words in family.items() if alive(pid)}
    assert not left, left


@contextlib.contextmanager
def running(
    home: Path,
    *arguments: str,
    demo: bool = False,
    environment: Mapping[str, str] | None = None,
    program: Path = INTERLOCK,
) -> Iterator[Stack]:
    """A running `interlock up`, stopped at the end as its contract says."""
    stack = start(home, *arguments, demo=demo, environment=environment, program=program)
    try:
        yield stack
    except BaseException:
        end(stack.process, home)
        raise
    stop(stack)


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A new home folder; whatever was started on it and is still there at the end is ended, and the folder removed."""
    folder = Path(tempfile.mkdtemp(prefix="interlock-e2e-"))
    home = folder / "home"
    try:
        yield home
    finally:
        with contextlib.suppress(Exception):
            EmbeddedPostgres(home, Settings(home=str(home))).stop()
        shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen[bytes], home: Path) -> None:
    """End it whatever it takes: the tests' own hygiene, not part of what is tested."""
    family = processes_of(home) if process.poll() is None else {}
    if process.poll() is None:
        process.kill()
    process.wait()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(home: Path) -> dict[int, str]:
    """Every process that runs for this home, by id: those that were told of it, and their children."""
    parents: dict[int, int] = {}
    words: dict[int, str] = {}
    chosen: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (entry / "environ").read_bytes().split(b"\0")
            told = f"INTERLOCK_HOME={home}".encode() in environment or f"--home {home} " in words[pid] + " "
            if told or Path(os.readlink(entry / "cwd")) == home / "postgres" / "data":
                chosen.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in chosen} - chosen:
        chosen |= more
    chosen.discard(os.getpid())
    return {pid: words.get(pid, "") for pid in chosen}


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """Wait for a condition and return what it said; an AssertionError says what did not come."""
    deadline = time.monotonic() + timeout_s
    while not (said := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(every_s)
    return said
