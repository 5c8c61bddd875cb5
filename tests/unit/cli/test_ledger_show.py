"""`ledger show` says in plain words what is not there, and why."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.cli import ledger
from interlock.cli.main import main

LEAF = {"at": 1_800_000_000_000_000_000, "kind": "call", "request": "req_1"}


@pytest.mark.parametrize(
    "notes",
    [
        [],
        ["the answer was not kept (recording: prompt_only)"],
        [
            "neither prompt nor answer was kept (recording: metadata)",
            "what was kept of it was removed by retention on 2026-03-01",
        ],
    ],
)
def test_what_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    class Client:
        def call(self, *_: object, **__: object) -> Any:
            return {"entries": [{"position": 0, "leaf": LEAF}], "proofs": [], "contents": None, "notes": notes}

    monkeypatch.setattr(ledger, "client_of", lambda *_: Client())
    assert main(["ledger", "show", "req_1", "-t", "acme"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    assert said == [f"Note: {words}." for words in notes]
