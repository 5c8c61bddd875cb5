"""Aliases from the command line: canaries, shadows, the end; and what a document that is applied again does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_cli import Shell, home

__all__ = ["home"]

DOCUMENT = """
tenants:
- name: trials
  aliases:
  - name: assistant
    targets: [{model: old}]
    canary: {model: new, share_milli: 50, steps: [{after_s: 60, share_milli: 500}], errors_milli_max: null, total_p95_ms_max: 900}
    shadow: {model: next, share_milli: 10}
    deprecated: 2026-01-01
    sunset: 2099-01-31
    successor: assistant-2
"""  # noqa: E501
START = ("canary", "start", "assistant", "--tenant", "trials", "--share-milli", "100")


@pytest.fixture
def shell(home: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(home, capsys)


CASCADE = """
tenants:
- name: trials
  aliases:
  - name: extract
    cascade:
      steps: [{model: small}, {model: large@2}]
      checks: [json, confidence]
      confidence_min_milli: 700
      money_nusd_max: 1000
      time_ms_max: 2000
"""


def test_a_cascade_is_declared_shown_and_exported(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(CASCADE)
    assert shell.run("apply", "-f", str(file), "--reason", "cheap first")[0] == 0
    item = shell.json("alias", "show", "extract", "--tenant", "trials")
    assert item["cascade"]["steps"] == [{"model": "small"}, {"model": "large@2"}]
    assert item["cascade"]["money_nusd_max"] == 1000 and item["cascade"]["confidence_min_milli"] == 700
    assert not json.loads(shell.run("plan", "-f", str(file), "--json")[1])["changes"]
    assert "small -> large@2, checks json, confidence" in shell.run("alias", "show", "extract", "--tenant", "trials")[1]
    assert "confidence_min_milli: 700" in shell.run("export")[1]


def test_an_alias_lives(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "trials.yaml"
    file.write_text(DOCUMENT)
    assert shell.run("apply", "-f", str(file), "--reason", "a trial")[0] == 0
    item = shell.json("alias", "show", "assistant", "--tenant", "trials")
    first = item["canary_state"]
    assert first["state"] == "running" and item["canary"]["errors_milli_max"] is None
    assert item["deprecated"] == "2026-01-01" and item["sunset"] == "2099-01-31"
    # What is declared already is not started again; what differs is a trial of its own.
    assert not json.loads(shell.run("plan", "-f", str(file), "--json")[1])["changes"]
    file.write_text(DOCUMENT.replace("share_milli: 50,", "share_milli: 60,"))
    assert shell.run("apply", "-f", str(file), "--reason", "more of it")[0] == 0
    second = shell.json("alias", "show", "assistant", "--tenant", "trials")["canary_state"]
    assert second["id"] != first["id"]
    file.write_text(DOCUMENT.replace("share_milli: 50,", "share_milli: 60,").replace("2099-01-31", "2098-01-31"))
    assert shell.run("apply", "-f", str(file), "--reason", "something else")[0] == 0
    assert shell.json("alias", "show", "assistant", "--tenant", "trials")["canary_state"] == second
    # One trial after the other.
    code, _, err = shell.run("alias", *START, "--model", "newest")
    assert code == 1 and "promote or abort it first" in err
    assert shell.run("alias", "canary", "promote", "assistant", "--tenant", "trials")[0] == 0
    item = shell.json("alias", "show", "assistant", "--tenant", "trials")
    assert item["targets"] == [{"model": "new"}] and item["canary"] is None and "canary_state" not in item
    assert shell.run("alias", "canary", "promote", "assistant", "--tenant", "trials")[0] == 1
    assert shell.json("alias", *START, "--model", "newest", "--step", "60=300", "--sticky")["item"]["canary"]["sticky"]
    out = shell.run("alias", "list", "--tenant", "trials")[1]
    assert "newest 10 %, running" in out and "new x1" in out
    assert shell.json("alias", "canary", "abort", "assistant", "--tenant", "trials")["item"]["canary"] is None
    assert shell.json("alias", "shadow", "stop", "assistant", "--tenant", "trials")["item"]["shadow"] is None
    made = shell.json(
        "alias", "shadow", "start", "assistant", "--tenant", "trials", "--model", "x", "--share-milli", "5"
    )
    assert made["item"]["shadow"]["model"] == "x"
    said = shell.run("alias", "sunset", "assistant", "2098-02-01", "--tenant", "trials", "--successor", "b")[1]
    assert "2098-02-01" in said and "successor  b" in said


def test_bad_input_is_met_at_the_door(shell: Shell) -> None:
    assert shell.run("alias", "add", "plain", "--model", "a=2", "--model", "b")[0] == 0
    assert [t.get("weight", 1) for t in shell.json("alias", "show", "plain")["targets"]] == [2, 1]
    for arguments, words in (
        (("--model", "m", "--errors-milli-max", "1001"), "1000"),
        (("--model", "m", "--step", "soon=3"), "no step"),
        (("--model", "m", "--step", "60=2", "--step", "30=3"), "after the one before"),
        (("--model", "m", "--source", "nowhere"), "no source 'nowhere'"),
        (("--model", "m", "--window-s", "1"), "10"),
        (("--model", " m"), "no model name"),
    ):
        code, _, err = shell.run("alias", "canary", "start", "plain", "--share-milli", "10", *arguments)
        assert code in (1, 2) and words in err, (arguments, err)
    assert "canary_state" not in shell.json("alias", "show", "plain")
    for arguments in (("2020-13-01",), ("2030-01-01", "--deprecated", "2031-01-01"), ("", "--successor", "plain")):
        assert shell.run("alias", "sunset", "plain", *arguments)[0] == 1
    code, _, err = shell.run("alias", "add", "odd", "--model", "a=x")
    assert code == 1 and "whole number" in err
    assert shell.run("alias", "remove", "plain")[0] == 0
    assert shell.run("alias", "show", "plain")[0] == 1
    assert json.loads(shell.run("alias", "users", "plain", "--tenant", "trials", "--json")[1]) == []
