"""A store over a database of the test's own, and people who talk through a worker to a ledger in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.settings import Settings
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store
from tests.integration.control_client import Running
from tests.integration.ledger.harness import PEOPLE, serving
from tests.integration.ledger.scene import Scene

from .site import Site


@pytest.fixture
def store(postgres_migrated_url: str) -> Iterator[Store]:
    """Migrated and empty: a ledger is about everything in its database."""
    settings = Settings(database_connect_timeout_ms=2000)
    migrate(postgres_migrated_url, settings)
    with Store(postgres_migrated_url, settings) as opened:
        yield opened


@pytest.fixture
def site(postgres_migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("INTERLOCK_ADMIN_KEY", "INTERLOCK_CONTROL_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Site(postgres_migrated_url, tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def running(postgres_migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    from tests.integration.ledger.test_ledger_api import control_over_migrated

    with control_over_migrated(postgres_migrated_url) as it:
        secrets = Path(it.control.settings.home) / "secrets"
        monkeypatch.setattr(
            "tests.integration.ledger.harness.MASTER", bytes.fromhex((secrets / "ledger_key").read_text().strip())
        )
        with it.control.store.platform() as conn:  # the world of the worker, as the database has it
            for tenant in sorted({who.tenant for who in PEOPLE}):
                conn.execute(
                    "INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at)"
                    " VALUES (%s, %s, 'UTC', true, now(), now())",
                    (f"ten_{tenant}", tenant),
                )
        yield it


@pytest.fixture
def scene(running: Running, tmp_path: Path) -> Iterator[Scene]:
    running.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    with serving(tmp_path) as (gateway, _engine):
        yield Scene(running, gateway, tmp_path)
