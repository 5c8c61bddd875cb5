"""`interlock ledger verify` and `receipt`: exit codes, receipts, processes."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from interlock.cli import ledger
from interlock.cli.main import app
from interlock.errors import InterlockError
from interlock.ledger.proof import parts, verify
from interlock.ledger.proof.receipt import commit
from tests.unit.ledger_proof.exports import KEYS, grown
from tests.unit.ledger_proof.test_receipts import BLIND, BODY, FROM, TO, log_with, text


def run(*arguments: object) -> tuple[int, str]:
    made = CliRunner().invoke(app, ["ledger", *[str(each) for each in arguments]])
    return made.exit_code, made.output


def test_an_export_that_lacks_the_call_of_a_receipt_ends_with_3_although_it_is_complete(tmp_path: Path) -> None:
    folder = log_with([1, 2]).export(tmp_path / "out", from_ns=FROM, to_ns=TO)
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.write_text(f"{text(1)}\n{text(2)}\n")
    gone.write_text(text(3))
    key = KEYS[0].text
    code, said = run("verify", folder, "-k", key, "--receipt", here)
    assert code == 0 and said.count("RECORDED") == 2
    code, said = run("verify", folder, "-k", key, "--receipt", here, "--receipt", gone)
    assert code == 3 and said.startswith("COMPLETE") and "OMITTED" in said
    code, said = run("verify", folder, "-k", key, "--receipt", gone, "--json")
    assert code == 3 and json.loads(said)["receipts"][0]["verdict"] == "omitted"
    gone.write_text("nonsense")
    assert isinstance(CliRunner().invoke(app, ["ledger", "verify", str(folder), "--receipt", str(gone)]).exception,
                      InterlockError)  # fmt: skip


def test_a_receipt_is_held_against_files(tmp_path: Path) -> None:
    file, body, answer = (tmp_path / name for name in ("receipt", "body", "answer"))
    file.write_text(text(1, answer=commit(BLIND, b"answer", b"hello")))
    body.write_bytes(BODY)
    answer.write_bytes(b"hello")
    assert run("receipt", file)[0] == 0
    code, said = run("receipt", file, "--body", body, "--answer", answer)
    assert code == 0 and "It is of these." in said
    answer.write_bytes(b"hello!")
    code, said = run("receipt", file, "--body", body, "--answer", answer, "--json")
    assert code == 3 and json.loads(said)["same"] is False


def test_many_processes_are_for_large_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = grown().export(tmp_path / "out", start=1)
    assert ledger._helpful(folder) == 1 and ledger._helpful(tmp_path) == 1
    monkeypatch.setattr(ledger, "SMALL_BYTES", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(100)))
    assert ledger._helpful(folder) == ledger.PROCESSES_MAX
    assert run("verify", folder, "-k", KEYS[0].text, "--processes", 2)[0] == 0
    assert run("verify", folder, "--processes", 65)[0] == 2


def test_a_process_that_is_killed_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(parts.ProcessPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise BrokenProcessPool

    monkeypatch.setattr(parts, "ProcessPoolExecutor", Killed)
    folder = grown().export(tmp_path / "out", start=1)
    with pytest.raises(InterlockError, match="killed"):
        verify.verify_export(folder, KEYS, processes=2)
