"""Who may run on a home folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interlock.cli import home as module
from interlock.cli.home import held_alone, held_together
from interlock.errors import ConfigError, Unavailable
from interlock.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path / "home"))


def test_up_is_alone(settings: Settings) -> None:
    with held_alone(settings, print):
        with pytest.raises(Unavailable, match=rf"runs on it already \(process {os.getpid()}\)"):
            held_alone(settings, print).__enter__()
        with pytest.raises(Unavailable, match="`interlock up` runs on it"):
            held_together(settings).__enter__()
    with held_alone(settings, print):
        pass


def test_parts_run_together_and_the_last_one_knows(settings: Settings) -> None:
    with held_together(settings) as first_is_last:
        with held_together(settings):
            assert not first_is_last()
        assert first_is_last()


def test_what_a_killed_up_left_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEFTOVERS_S", 0.1)
    said: list[str] = []
    with held_alone(settings, print) as inherited:
        child = os.dup(inherited)
    try:
        with pytest.raises(Unavailable, match="what is left of a killed"):
            held_alone(settings, said.append).__enter__()
    finally:
        os.close(child)
    assert said == ["waiting for processes that still run on this home to end"]
    with held_alone(settings, said.append):
        pass
    assert len(said) == 1


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        held_alone(Settings(home=str(tmp_path / "file" / "home")), print).__enter__()
