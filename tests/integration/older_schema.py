"""A database as an earlier version left it."""

from __future__ import annotations

import pytest

from interlock.errors import MigrationError
from interlock.settings import Settings
from interlock.storage import migrate as migration


def left_at(url: str, revision: str, settings: Settings) -> None:
    """Bring an empty database to an older revision. The check after a migration, which is of today, objects."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MigrationError, match="inconsistent"):
        patch.setattr(migration, "HEAD", revision)
        migration.migrate(url, settings)
