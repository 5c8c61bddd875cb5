"""A store over a database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.settings import Settings
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store

from .site import Site


@pytest.fixture
def store(postgres_empty_url: str) -> Iterator[Store]:
    """Migrated and empty: a ledger is about everything in its database."""
    settings = Settings(database_connect_timeout_ms=2000)
    migrate(postgres_empty_url, settings)
    with Store(postgres_empty_url, settings) as opened:
        yield opened


@pytest.fixture
def site(postgres_empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("INTERLOCK_ADMIN_KEY", "INTERLOCK_CONTROL_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Site(postgres_empty_url, tmp_path / "home")
    yield made
    made.close()
