"""Migrations: all or nothing, one at a time, and a plain sentence when the database or the version does not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from interlock.errors import MigrationError, StoreError
from interlock.settings import Settings
from interlock.storage import migrate as migration
from interlock.storage import roles
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.migrate import HEAD, MIGRATION_LOCK, migrate

NEXT = f"{int(HEAD) + 1:04}"
_FAILING_STEP = f"""
from alembic import op
revision = "{NEXT}"
down_revision = "{HEAD}"
branch_labels = None
depends_on = None
def upgrade():
    op.execute("CREATE TABLE interlock.half_done (id int)")
    op.execute("INSERT INTO interlock.half_done VALUES ('not a number')")
"""


def _admin(server: EmbeddedPostgres, url: str) -> psycopg.Connection[Any]:
    database = urlsplit(url).path
    return psycopg.connect(urlunsplit(urlsplit(server.superuser_url)._replace(path=database)), autocommit=True)


def _schema(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'interlock' ORDER BY 1, 2"
    ).fetchall()


def test_first_and_second_start(postgres_server: EmbeddedPostgres, postgres_empty_url: str) -> None:
    assert migrate(postgres_empty_url) is True
    assert migrate(postgres_empty_url) is False
    with _admin(postgres_server, postgres_empty_url) as conn:
        assert conn.execute("SELECT version_num FROM interlock.schema_version").fetchall() == [(HEAD,)]
        assert conn.execute("SELECT id FROM interlock.tenants").fetchall() == [("ten_platform",)]


def test_the_version_is_the_last_step() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migration.SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_an_up_to_date_start_does_not_import_alembic(postgres_url: str) -> None:
    code = "import sys; from interlock.storage.migrate import migrate; print(migrate(sys.stdin.read()));"
    code += "print([m for m in ('alembic', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], input=postgres_url, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_a_newer_database_is_refused(postgres_server: EmbeddedPostgres, postgres_empty_url: str) -> None:
    migrate(postgres_empty_url)
    with _admin(postgres_server, postgres_empty_url) as conn:
        conn.execute("UPDATE interlock.schema_version SET version_num = '0999'")
        before = _schema(conn)
        with pytest.raises(MigrationError) as caught:
            migrate(postgres_empty_url)
        assert _schema(conn) == before
    assert caught.value.code == "migration_refused"
    assert caught.value.message == (
        f"the database has schema 0999, and this version of Interlock knows schemas up to {HEAD}:"
        " it was used by a newer version; start that one, or restore the backup made before the upgrade"
    )


def test_a_failing_step_leaves_the_schema_as_it_was(
    postgres_server: EmbeddedPostgres, postgres_empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(postgres_empty_url)
    shutil.copytree(migration.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "migrations" / "versions" / f"v{NEXT}_broken.py").write_text(_FAILING_STEP)
    monkeypatch.setattr(migration, "SCRIPTS", tmp_path / "migrations")
    monkeypatch.setattr(migration, "HEAD", NEXT)
    with _admin(postgres_server, postgres_empty_url) as conn:
        before = _schema(conn)
        with pytest.raises(MigrationError) as caught:
            migrate(postgres_empty_url)
        assert _schema(conn) == before
        assert conn.execute("SELECT version_num FROM interlock.schema_version").fetchall() == [(HEAD,)]
    assert caught.value.message == (
        f"the migration failed in the step from schema {HEAD} to {NEXT}; the schema is as it was:"
        ' invalid input syntax for type integer: "not a number"'
    )


def test_a_login_without_rights_is_told_what_to_run(postgres_server: EmbeddedPostgres, postgres_empty_url: str) -> None:
    migrate(postgres_empty_url)  # the roles exist on the server, and this login is no member
    with _admin(postgres_server, postgres_empty_url) as conn:
        conn.execute("DROP SCHEMA interlock CASCADE")
        conn.execute("CREATE ROLE poor LOGIN PASSWORD 'geheim'")
        parts = urlsplit(postgres_empty_url)
        url = urlunsplit(parts._replace(netloc="poor:geheim@"))
        try:
            with pytest.raises(MigrationError) as caught:
                migrate(url)
            assert caught.value.code == "migration_refused"
            statements = roles.grants_for("poor")
            assert statements in caught.value.message and "geheim" not in caught.value.message
            conn.execute(statements.splitlines()[-1])
            with pytest.raises(MigrationError, match="may not create the schema") as caught:
                migrate(url)
            conn.execute(caught.value.message.splitlines()[-1])
            assert migrate(url) is True
        finally:
            conn.execute("DROP OWNED BY poor CASCADE")
            conn.execute("DROP ROLE poor")


def test_anothers_schema_is_not_touched(postgres_server: EmbeddedPostgres, postgres_empty_url: str) -> None:
    with _admin(postgres_server, postgres_empty_url) as conn:
        conn.execute("CREATE SCHEMA interlock")
        conn.execute("CREATE TABLE interlock.theirs (id int)")
        with pytest.raises(MigrationError, match="belongs to 'postgres', not to Interlock"):
            migrate(postgres_empty_url)
        assert _schema(conn) == [("theirs", "id", "integer")]


def test_several_starts_at_once(postgres_empty_url: str) -> None:
    done: list[bool | Exception] = []

    def start() -> None:
        try:
            done.append(migrate(postgres_empty_url))
        except Exception as e:
            done.append(e)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, done)) == ["False", "False", "False", "True"]


def test_the_wait_for_another_migration_ends(postgres_server: EmbeddedPostgres, postgres_empty_url: str) -> None:
    with _admin(postgres_server, postgres_empty_url) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        with pytest.raises(MigrationError, match="migration_lock_timeout_ms") as caught:
            migrate(postgres_empty_url, Settings(migration_lock_timeout_ms=100))
        assert caught.value.code == "migration_locked"
        assert _schema(conn) == []


def test_a_database_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        migrate(f"postgresql://x:geheim@/x?host={tmp_path}", Settings(database_connect_timeout_ms=1000))
    assert caught.value.code == "store_away" and not isinstance(caught.value, MigrationError)
    assert "geheim" not in caught.value.message
