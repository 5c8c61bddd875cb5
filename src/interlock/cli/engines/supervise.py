"""The foreground process behind `interlock source run`: starts the engine, watches it, starts it again, ends it.

    hash the weights -> start -> loading -> ready -> (asked to stop) -> stopping -> stopped
                          ^                   | ended, hangs, or is not what it should be
                          '--- restarting <---'     more than `engine_restarts_max` in a while: failed, exit code 1

SIGTERM and SIGINT end it within ten seconds: no new calls go to the engine, running ones get some seconds, then it is
ended. After a `kill -9` of this process the kernel and the keeper end the engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from interlock.cli.client import AdminClient
from interlock.cli.engines.keeper import adopt_orphans, end_children
from interlock.cli.engines.launch import HOST, Wanted, launch
from interlock.cli.engines.probe import Health, fault, running
from interlock.cli.engines.process import EngineProcess, Log
from interlock.cli.engines.registry import Registration, Registry
from interlock.cli.engines.restarts import Restarts
from interlock.cli.engines.weights import Version
from interlock.control.secrets import write_secret
from interlock.errors import ConfigError, Unavailable
from interlock.settings import Settings
from interlock.telemetry.logs import setup_logging
from interlock.types.source import EngineState

logger = logging.getLogger(__name__)

POLL_S = 0.1
DRAIN_S = 4.5
"""How long running calls may finish when asked to stop: with what else there is to do, within ten seconds."""
TOLD_S = 1.0
"""How long the gateways may take to know that an engine takes no new calls: the admin API's word, their next look."""
LAST_WORD_S = 1.0


class Asked(NamedTuple):
    """What the command line asked for. `port` 0: the last one, or any free one."""

    wanted: Wanted
    source: str
    options: Mapping[str, Any]
    remove: bool


class EngineSupervisor:
    """One engine and its source, until it is asked to stop or the engine is given up."""

    def __init__(self, settings: Settings, admin: AdminClient, asked: Asked) -> None:
        self._settings = settings
        self._admin = admin
        self._asked = asked
        self._stop = threading.Event()
        self._folder = settings.home_path("engines", asked.source)
        self._restarts = Restarts(
            settings.engine_restarts_max,
            settings.engine_restart_window_s,
            settings.engine_backoff_ms / 1000,
            settings.engine_backoff_ms_max / 1000,
        )
        self._ready_s: float | None = None

    def run(self) -> int:
        """Returns the exit code: 0 when asked to stop, 1 when the engine was given up. Raises InterlockError."""
        setup_logging(self._settings.log_level, "engine", settings=self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        adopt_orphans()
        with self._held():
            version = Version(self._asked.wanted.model, self._asked.wanted.kind, self._folder / "digest.json")
            wanted = self._asked.wanted._replace(port=self._port())
            key = self._key()
            registry = self._registry(wanted)
            registry.start()
            log = Log(self._folder / "engine.log", self._settings.engine_log_bytes_max, self._settings.engine_logs_max)
            try:
                return self._keep(wanted, key, version, registry, log)
            finally:
                log.close()

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    # -- before it starts

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """The engine's folder, for one supervisor at a time."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise ConfigError(f"{self._folder}: cannot be used: {e.strerror}", param="home") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Unavailable(
                f"the engine of source {self._asked.source!r} runs on this home already", code="engine_in_use"
            ) from None
        finally:
            os.close(fd)

    def _port(self) -> int:
        """The port that was asked for, that of the last start, or a free one. Raises ConfigError when it is taken."""
        file = self._folder / "port"
        asked = self._asked.wanted.port
        port = asked
        if not port:
            with contextlib.suppress(OSError, ValueError):
                port = int(file.read_text())
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, port))
            except OSError as e:
                if asked:
                    raise ConfigError(f"--port {port} cannot be had: {e.strerror}", param="port") from None
                sock.bind((HOST, 0))
            port = int(sock.getsockname()[1])
        write_secret(file, str(port))
        return port

    def _key(self) -> str:
        """A new key of the engine, in the file that its source refers to."""
        key = secrets.token_urlsafe(32)
        write_secret(self._folder / "key", key + "\n")
        return key

    def _registry(self, wanted: Wanted) -> Registry:
        registration = Registration(
            source=self._asked.source,
            kind=wanted.kind,
            url=f"http://{HOST}:{wanted.port}",
            key_file=str((self._folder / "key").absolute()),
            model=wanted.name,
            options=self._asked.options,
            host=socket.gethostname(),
            log=str((self._folder / "engine.log").absolute()),
        )
        return Registry(self._admin, registration, self._settings.engine_report_s)

    # -- the engine

    def _keep(self, wanted: Wanted, key: str, version: Version, registry: Registry, log: Log) -> int:
        state, pause_s = EngineState.starting, 0.0
        words = "it is started"
        while not self._stop.wait(pause_s):
            process = None
            try:
                registry.say(state, words, version=version.now(self._stop.is_set), **self._facts())
                process = EngineProcess(launch(wanted, key, self._folder / "key", os.environ), log)
                words = self._watch(process, wanted, key, registry)
                if not words:
                    self._drain(process, wanted, key, registry)
            finally:
                if process is not None:
                    process.end()
                end_children()
            if not words:
                break
            if registry.refused is not None:
                raise registry.refused
            logger.error("the engine failed: %s; its log is %s", words, log.path)
            pause = self._restarts.failed(time.monotonic())
            if pause is None:
                words += f"; given up after {self._restarts.count} restarts"
                registry.say(EngineState.failed, words, **self._facts())
                registry.close(LAST_WORD_S, remove=False)
                sys.stderr.write(f"interlock: the engine of {self._asked.source} was given up: {words}\n")
                return 1
            state, pause_s = EngineState.restarting, pause
            registry.say(state, words, **self._facts())
        registry.say(EngineState.stopped, "it was stopped", **self._facts())
        registry.close(LAST_WORD_S, remove=self._asked.remove)
        return 0

    def _facts(self) -> dict[str, Any]:
        return {"restarts": self._restarts.count, "ready_s": self._ready_s}

    def _watch(self, process: EngineProcess, wanted: Wanted, key: str, registry: Registry) -> str:
        """Watch a started engine until it fails (returns how), or it is asked to stop (returns "")."""
        registry.say(EngineState.loading, "it loads its model", **self._facts())
        health = Health(wanted.port, self._settings.engine_health_timeout_ms / 1000)
        health.start()
        began = time.monotonic()
        ready = False
        try:
            while not self._stop.wait(POLL_S):
                code = process.code()
                if code is not None:
                    return f"it ended by itself (exit code {code})"
                if registry.refused is not None:
                    return registry.refused.message
                if ready and health.failures >= self._settings.engine_health_failures_max:
                    return f"it did not say that it is well {health.failures} times in a row"
                if not ready and health.well:
                    wrong = fault(wanted.port, key, wanted.name, self._settings.engine_health_timeout_ms / 1000)
                    if wrong:
                        return wrong
                    ready = True
                    self._ready_s = round(time.monotonic() - began, 3)
                    registry.say(EngineState.ready, f"ready after {self._ready_s:.1f} s", **self._facts())
                    sys.stdout.write(f"{self._asked.source}  {wanted.name} at http://{HOST}:{wanted.port}\n")
                    sys.stdout.flush()
                if not ready and time.monotonic() - began > self._settings.engine_start_timeout_s:
                    return f"it was not ready within {self._settings.engine_start_timeout_s} s (engine_start_timeout_s)"
            return ""
        finally:
            health.end()

    def _drain(self, process: EngineProcess, wanted: Wanted, key: str, registry: Registry) -> None:
        """Have no new calls sent to the engine, and give those that run there some time."""
        was_ready = registry.reported == EngineState.ready
        registry.say(EngineState.stopping, "it takes no new calls", **self._facts())
        if not was_ready or not registry.wait_for(EngineState.stopping, TOLD_S):
            return
        deadline = time.monotonic() + DRAIN_S
        time.sleep(TOLD_S)
        while process.code() is None and time.monotonic() < deadline and running(wanted.port, key, wanted.kind):
            time.sleep(POLL_S)


def python_of_vllm(given: str) -> str:
    """The Python that has vLLM: `given`, or what `vllm` on the path runs on. Raises ConfigError."""
    if given:
        found = shutil.which(given)
        if found is None:
            raise ConfigError(f"--python {given}: there is no such program", param="python")
        return str(Path(found).absolute())
    vllm = shutil.which("vllm")
    if vllm is not None:
        beside = Path(vllm).absolute().with_name("python")
        if beside.exists():
            return str(beside)
    raise ConfigError("vLLM was not found: --python names the Python that it is installed for", param="python")
