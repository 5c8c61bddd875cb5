"""The embedded PostgreSQL is kept running, and never replaced by an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.cli.database import KeptPostgres
from interlock.settings import Settings


def test_no_new_cluster_takes_the_place_of_one_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeptPostgres(Settings(home=str(tmp_path / "home"))).keep()
    assert "the data is gone" in caplog.text
    assert not (tmp_path / "home").exists()
