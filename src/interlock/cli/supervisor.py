"""`interlock up`: PostgreSQL, then control, the gateway and the learner; and the other way round when asked to stop.

A gateway that has a snapshot begins beside control. Each part is a process of its own. When one ends by itself
everything is stopped and the command says which: what runs half is worse than what does not run; only PostgreSQL is
started again. A part that loses this process (kill -9) stops by itself; PostgreSQL runs on for the next start to adopt.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from interlock.cli.client import AdminClient, own_tls
from interlock.cli.database import KeptPostgres
from interlock.cli.demo import ENGINES, engine_key, first_minute, ports, wait_for_models
from interlock.cli.demo import check as demo_check
from interlock.cli.demo import configure as configure_demo
from interlock.cli.home import held_alone
from interlock.control.secrets import write_secret
from interlock.errors import InterlockError, Unavailable
from interlock.gateway.listen import Listening
from interlock.identity.certificate import check as check_certificate
from interlock.identity.certificate import control_pair, gateway_pair
from interlock.settings import Settings
from interlock.telemetry.logs import setup_logging

logger = logging.getLogger(__name__)

START_S = 300.0
"""Longest start of a process. A slow machine may make a new database's schema in minutes, as an upgrade does that of a
large one."""
STOP_S = 7.5
"""All processes together; SIGTERM must have stopped everything within ten seconds."""
_POLL_S = 0.1


class Child:
    """One process of ours, and what it said when it was ready. It inherits the descriptor `home` (see cli/home.py)."""

    def __init__(
        self, name: str, module: str, environment: dict[str, str], home: int, arguments: Sequence[str] = ()
    ) -> None:
        self.name = name
        reading, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--ready-fd", str(writing), "--parent", str(os.getpid()), *arguments],
                env=environment,
                pass_fds=(writing, home),
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._reading = reading

    def ready(self, deadline: float, stopped: Stopped) -> dict[str, Any]:
        """What it says once it is ready. Raises Unavailable when it ends before, with the reason that it gave; when it
        takes too long; or when we are stopped."""
        line = b""
        with os.fdopen(self._reading, "rb", buffering=0) as pipe:
            while not line.endswith(b"\n"):
                if stopped.asked:
                    raise Unavailable("stopped before it was ready")
                if time.monotonic() > deadline:
                    raise Unavailable(f"the {self.name} was not ready within {START_S:.0f} s")
                if select.select([pipe], [], [], _POLL_S)[0]:
                    more = pipe.read(65_536)
                    if not more:
                        code = self.process.wait()
                        raise Unavailable(f"the {self.name} did not start (exit code {code}); its last lines say why")
                    line += more
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            self.process.wait()
            raise Unavailable(f"{said['message']} (the {self.name} did not start)", code=said["error"])
        return said

    def stop(self, deadline: float) -> None:
        """Ask it to stop, and end it when it has not by then."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("the %s did not stop in time and was ended", self.name)
                self.process.kill()
                self.process.wait()


class Stopped:
    """Whether somebody asked us to stop (SIGTERM, SIGINT)."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class Supervisor:
    """Runs everything until it is asked to stop, or a part ends."""

    def __init__(self, settings: Settings, ready_file: Path | None = None, *, demo: bool = False) -> None:
        self._settings = settings
        self._demo = demo
        self._ready_file = ready_file
        self._children: list[Child] = []
        self._stopped = Stopped()
        self._home = -1
        self._postgres: KeptPostgres | None = None

    def run(self) -> int:
        """Returns the exit code: 0 when asked to stop. Raises InterlockError when something does not start."""
        setup_logging(self._settings.log_level, "up", settings=self._settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stopped)
        check_certificate(gateway_pair(self._settings))
        check_certificate(control_pair(self._settings), key_apart=True)
        if self._demo:
            demo_check()
        with held_alone(self._settings, logger.warning) as self._home:
            self._check_addresses()
            return self._run()

    def _run(self) -> int:
        with self._database() as url:
            try:
                said = self._start(url)
                self._say(said)
                return self._watch()
            except InterlockError:
                if self._stopped.asked:
                    return 0
                raise
            finally:
                self._stop()

    def _check_addresses(self) -> None:
        """Raise ConfigError for an address that cannot be had, before anything is started."""
        settings = self._settings
        for host, port in (
            (settings.gateway_host, settings.gateway_port),
            (settings.control_host, settings.control_port),
        ):
            Listening(host, port).close()

    @contextlib.contextmanager
    def _database(self) -> Iterator[str]:
        if self._settings.database_url:
            yield self._settings.database_url
            return
        self._postgres = KeptPostgres(self._settings)
        try:
            yield self._postgres.start()
        finally:
            self._postgres.stop()

    def _start(self, database_url: str) -> dict[str, Any]:
        environment = {
            **os.environ,
            "INTERLOCK_HOME": str(self._settings.home_path().absolute()),
            "INTERLOCK_DATABASE_URL": database_url,
            "INTERLOCK_GATEWAY_PORT": str(self._settings.gateway_port),
            "INTERLOCK_CONTROL_PORT": str(self._settings.control_port),
        }
        deadline = time.monotonic() + START_S
        engines = self._engines(environment) if self._demo else {}
        control = self._child("control process", "interlock.control", environment)
        # A gateway that has a snapshot need not wait until control has made the first one.
        warm = any(self._settings.home_path("node", "snapshot").glob("*.full"))
        gateway = self._child("gateway", "interlock.gateway.node", environment) if warm else None
        control_url = control.ready(deadline, self._stopped)["url"]
        gateway = gateway or self._child("gateway", "interlock.gateway.node", environment)
        gateway_url = gateway.ready(deadline, self._stopped)["url"]
        key_file = self._settings.home_path("secrets", "admin_key")
        key = key_file.read_text().strip() if key_file.exists() else ""
        tenants: dict[str, Any] = {}
        if engines:
            urls = {name: engine.ready(deadline, self._stopped)["url"] for name, engine in engines.items()}
            tenants = configure_demo(self._settings, AdminClient(control_url, key, own_tls(self._settings)), urls)
            wait_for_models(self._settings, gateway_url, tenants, deadline)
        self._child("worker", "interlock.control.learner", environment)
        return {"gateway": gateway_url, "control": control_url, "admin_key": key, "tenants": tenants}

    def _engines(self, environment: dict[str, str]) -> dict[str, Child]:
        chosen, key = ports(self._settings), str(engine_key(self._settings))
        return {
            name: self._child(
                f"demo engine {name}",
                "interlock.cli.demo_engine",
                environment,
                ("--port", str(chosen[name]), "--slots", str(slots), "--key-file", key),
            )
            for name, slots in ENGINES.items()
        }

    def _child(self, name: str, module: str, environment: dict[str, str], arguments: Sequence[str] = ()) -> Child:
        child = Child(name, module, environment, self._home, arguments)
        self._children.append(child)
        return child

    def _say(self, said: dict[str, Any]) -> None:
        if self._ready_file is not None:
            write_secret(self._ready_file, json.dumps(said, indent=2) + "\n")
        sys.stdout.write(f"gateway  {said['gateway']}\ncontrol  {said['control']}\n")
        if self._demo:
            sys.stdout.write(first_minute(self._settings, said["gateway"], said["tenants"]))
        sys.stdout.flush()

    def _watch(self) -> int:
        while not self._stopped.asked:
            for child in self._children:
                code = child.process.poll()
                if code is not None:
                    raise Unavailable(f"the {child.name} ended by itself (exit code {code}); everything was stopped")
            if self._postgres is not None:
                self._postgres.keep()
            time.sleep(_POLL_S)
        return 0

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_S
        for child in reversed(self._children):
            child.stop(deadline)
