"""What the command line prints."""

from __future__ import annotations

import pytest

from interlock.cli.client import AdminClient
from interlock.cli.output import table
from interlock.cli.records import seconds
from interlock.errors import BadRequest, ConfigError


def test_a_table_has_aligned_columns_and_keeps_the_terminal_safe(capsys: pytest.CaptureFixture[str]) -> None:
    table([("a", None, ["x", "y"]), ("longer", True, "\x1b[31m")], ("name", "ok", "rest"))
    assert capsys.readouterr().out.splitlines() == ["name    ok   rest", "a       -    x,y", "longer  yes  ?[31m"]


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("10m", 600), ("2h", 7200), ("7d", 604_800)])
def test_since(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "10", "-1m", "1.5h", "soon"])
def test_since_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        seconds(text)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8081", "ftp://x", "http://"])
def test_an_address_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        AdminClient(url, "k")
