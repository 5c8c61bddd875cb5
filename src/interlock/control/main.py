"""The control process: the admin API, the compiler thread, and the thread that looks at sources."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import psycopg
import uvicorn

from interlock.control.alerts.address import seal_all
from interlock.control.alerts.sender import AlertSender
from interlock.control.alerts.service import ensure_defaults
from interlock.control.alerts.shown import Alerts, FiringCounts
from interlock.control.alerts.watch import AlertWatch
from interlock.control.app import make_app
from interlock.control.apply import Configurator
from interlock.control.canaries import CanaryKeeper
from interlock.control.compiler import SnapshotCompiler
from interlock.control.discovery import DiscoveryLoop, look
from interlock.control.identity import admin_key_path, console_password_path, ensure_admin, ensure_console_password
from interlock.control.keyring import Keyring, ledger_signer
from interlock.control.live.feed import LiveFeed
from interlock.control.live.hub import Hub
from interlock.control.live.scores import TaskScores
from interlock.control.power import read_factors
from interlock.control.process import failed, until_orphaned
from interlock.control.retention import RetentionSweeper
from interlock.control.secrets import ensure_ledger_keys, ensure_pepper
from interlock.control.sequencer import Sequencer
from interlock.control.services.base import Tools
from interlock.control.services.sources import Discover
from interlock.control.tokens import AdminTokens
from interlock.control.web import Api
from interlock.errors import ConfigError, InterlockError
from interlock.identity.certificate import ServerTls, check, control_pair
from interlock.settings import Settings, load
from interlock.storage.ledger_months import ensure_months
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store, connect
from interlock.telemetry.logs import setup_logging
from interlock.types.clock import Clock, SystemClock

__all__ = ["Control", "ledger_signer", "listen", "main", "make_tools", "run_control", "url_of"]

logger = logging.getLogger(__name__)

MONTHS_S = 3600.0
"""How often the ledger's next months are looked after."""


def make_tools(settings: Settings, clock: Clock | None = None) -> Tools:
    """The real clock and randomness, the pepper (made on first use), carbon factors. Raises ConfigError."""
    pepper = ensure_pepper(settings, secrets.token_bytes)
    ensure_ledger_keys(settings, secrets.token_bytes)
    factors = read_factors(settings.carbon_factors_file)
    return Tools(settings, clock or SystemClock(), secrets.token_bytes, secrets.randbelow, pepper, factors)


class Control:
    """Everything of the control plane over one database, without its HTTP server. Close it.

    `start` migrates, makes sure that somebody can administer, compiles once, and starts the threads.
    """

    def __init__(self, settings: Settings, database_url: str, *, discover: Discover | None = None) -> None:
        self.settings = settings
        self.url = database_url
        self.tools = make_tools(settings)
        self.store = Store(database_url, settings)
        self.discover: Discover = discover or look(settings)
        self.compiler = SnapshotCompiler(self.store, settings, self.tools.clock)
        self.configurator = Configurator(self.store, self.tools, self.discover)
        self.tokens = AdminTokens(self.store, self.tools)
        signer = ledger_signer(settings)
        keyring = Keyring(settings, signer)
        self.sequencer = Sequencer(self.store, settings, self.tools.clock, [signer], keyring)
        self.retention = RetentionSweeper(self.store, settings, self.tools.clock, keyring)
        self.canaries = CanaryKeeper(self.store, self.tools)
        self.live = LiveFeed(self.store, self.tools, TaskScores(self.store, self.tools))
        self.alerts = Alerts(
            AlertWatch(self.store, self.tools),
            AlertSender(self.store, self.tools),
            FiringCounts(self.store, self.tools),
        )
        self.api = Api(
            self.store,
            self.tools,
            self.configurator,
            self.compiler,
            self.tokens,
            self.sequencer,
            keyring,
            self.retention,
            self.canaries,
            Hub(self.live, settings),
            self.alerts,
        )
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Raises MigrationError, StoreError, ConfigError; nothing runs then."""
        migrate(self.url, self.settings)
        if ensure_admin(self.store, self.tools):
            logger.info("the first administrator's key was written to %s", admin_key_path(self.tools))
        if ensure_console_password(self.store, self.tools):
            logger.info("the first administrator's password was written to %s", console_password_path(self.tools))
        ensure_defaults(self.store, self.tools)
        seal_all(self.store, self.tools)
        self._ensure_months()
        self.compiler.compile_once()
        looking = DiscoveryLoop(self.store, self.tools, self.discover)
        for name, run in (
            ("compiler", self.compiler.run),
            ("discovery", looking.run),
            ("issuers", self.tokens.run),
            ("sequencer", self.sequencer.run),
            ("retention", self.retention.run),
            ("canaries", self.canaries.run),
            ("alerts", self.alerts.watch.run),
            ("alert-sender", self.alerts.sender.run),
            ("months", self._keep_months),
        ):
            thread = threading.Thread(target=run, args=(self._stop,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _ensure_months(self) -> None:
        with contextlib.closing(connect(self.url, self.settings, name="months")) as conn:
            ensure_months(conn, self.tools.now())

    def _keep_months(self, stop: threading.Event) -> None:
        while not stop.wait(MONTHS_S):
            try:
                self._ensure_months()
            except (InterlockError, psycopg.Error) as e:
                logger.warning("the next month of the ledger was not made: %s", e)

    def close(self) -> None:
        """Stop the threads and close the connections."""
        self._stop.set()
        self.live.close()
        for thread in self._threads:
            thread.join(10)
        self.store.close()


def listen(settings: Settings) -> socket.socket:
    """The socket of the admin API, bound. Raises ConfigError when the address cannot be had."""
    host, port = settings.control_host, settings.control_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as e:
        sock.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {os.strerror(e.errno or 0)}; choose another control_port",
            param="control_port",
        ) from None
    return sock


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """The URL under which a bound socket is reached from this machine."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _note_url(settings: Settings, url: str) -> None:
    """Leave our URL where the command line looks for it."""
    path = settings.home_path("run", "control.url")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(url + "\n")
    except OSError as e:
        logger.warning("%s cannot be written: %s", path, e.strerror)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process that runs us has one. Keeps its certificate fresh."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        ending: Callable[[], None],
        tls: ServerTls | None,
        look_s: float,
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._ending = ending
        self._tls = tls
        self._look_s = look_s
        self._looked = time.monotonic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that requests are taken."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that answers which go on for ever have to end, then wait for all of them."""
        self._ending()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: now and then take the certificate again, if its files have changed."""
        if self._tls is not None and time.monotonic() - self._looked >= self._look_s:
            self._looked = time.monotonic()
            try:
                if self._tls.refresh():
                    logger.info("certificate reloaded")
            except ConfigError as e:
                logger.error("certificate not reloaded, the old one stays: %s", e.message)
        return await super().on_tick(counter)


@contextlib.contextmanager
def _asked_to_stop(server: _Server, stop: threading.Event | None) -> Iterator[None]:
    if stop is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if stop.wait(0.1):
                server.should_exit = True
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2)


def run_control(
    settings: Settings,
    database_url: str,
    *,
    sock: socket.socket | None = None,
    stop: threading.Event | None = None,
    ready: Callable[[str], None] | None = None,
    discover: Discover | None = None,
) -> None:
    """Run the control plane until SIGTERM or SIGINT (or, where the caller handles signals itself, until `stop`).

    `sock`: a bound socket, else `control_host` and `control_port`. `ready(url)` is called once requests are taken.
    Raises MigrationError, StoreError, ConfigError when it cannot start.
    """
    pair = control_pair(settings)
    check(pair, key_apart=True)
    tls = ServerTls(pair) if pair.cert else None
    sock = sock or listen(settings)
    try:
        control = Control(settings, database_url, discover=discover)
        try:
            control.start()
            config = uvicorn.Config(
                make_app(control.api),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, settings.stop_grace_ms // 1000),
                limit_concurrency=512,
                h11_max_incomplete_event_size=settings.head_bytes_max,
                lifespan="off",
                ssl_context_factory=(lambda *_: tls.context) if tls is not None else None,
            )
            url = url_of(sock, tls=tls is not None)

            def taking() -> None:
                _note_url(settings, url)
                if ready is not None:
                    ready(url)

            server = _Server(config, taking, control.live.stop, tls, settings.tls_reload_interval_ms / 1000)
            with _asked_to_stop(server, stop):
                server.run(sockets=[sock])
        finally:
            control.close()
    finally:
        sock.close()


class Running(msgspec.Struct, frozen=True):
    """What a control process says once it takes requests."""

    pid: int
    url: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process. Returns the exit code; a failure is one line of JSON, on stderr or, before it is
    ready, to whoever waits for that."""
    parser = argparse.ArgumentParser(prog="python -m interlock.control", description=__doc__)
    parser.add_argument("--ready-fd", type=int, help="file descriptor that one line of JSON is written to when ready")
    parser.add_argument("--parent", type=int, help="process id without which this process stops")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def ready(url: str) -> None:
        if given.ready_fd is not None:
            with os.fdopen(given.ready_fd, "wb") as out:
                out.write(msgspec.json.encode(Running(os.getpid(), url)) + b"\n")
            given.ready_fd = None

    try:
        settings = load()
        setup_logging(settings.log_level, "control", settings=settings)
        if not settings.database_url:
            raise ConfigError("database_url is not set", param="database_url")
        if given.parent is not None:
            threading.Thread(target=until_orphaned, args=(given.parent, stop), daemon=True).start()
        run_control(settings, settings.database_url, stop=stop, ready=ready)
    except InterlockError as e:
        return failed(e, given.ready_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
