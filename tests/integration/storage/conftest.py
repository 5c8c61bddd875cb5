"""A store over the module's database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interlock.settings import Settings
from interlock.storage.pool import Store


@pytest.fixture(scope="module")
def store(postgres_url: str) -> Iterator[Store]:
    """A store that all tests of a module share."""
    with Store(postgres_url, Settings(database_connect_timeout_ms=2000)) as opened:
        yield opened
