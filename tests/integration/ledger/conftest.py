"""A store over a database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interlock.settings import Settings
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store


@pytest.fixture
def store(postgres_empty_url: str) -> Iterator[Store]:
    """Migrated and empty: a ledger is about everything in its database."""
    settings = Settings(database_connect_timeout_ms=2000)
    migrate(postgres_empty_url, settings)
    with Store(postgres_empty_url, settings) as opened:
        yield opened
