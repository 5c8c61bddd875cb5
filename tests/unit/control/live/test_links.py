"""Where the numbers of the live view's table lead."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from interlock.control.console import live
from interlock.control.live.view import Scope


@pytest.mark.parametrize(
    ("by", "name", "wanted"),
    [
        ("source", "local", {"source": ["local"]}),
        ("source", "", {"without": ["source"]}),
        ("model", "", {"without": ["model"]}),
        ("team", "research", {"team": ["research"]}),
        ("team", "", {}),
    ],
)
def test_a_line_leads_to_just_its_calls(by: str, name: str, wanted: dict[str, list[str]]) -> None:
    now = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    view: Any = SimpleNamespace(tenant="acme", at=now, window_s=300, quality=[])
    row_path = live._given(Scope("ten_a", by), view)["row_path"]
    link = urlsplit(row_path(SimpleNamespace(name=name, tenant=""), kind="refusal"))
    assert parse_qs(link.query) == {"tenant": ["acme"], "since": ["2026-03-01T11:55"], "kind": ["refusal"], **wanted}
