"""The examples of README, tutorial and clouds are taken by the code they are meant for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from interlock.cli.main import app as cli
from interlock.control import documents
from interlock.control.parse import parse
from interlock.control.plan import flatten
from interlock.control.services import policies
from interlock.control.validate import check
from interlock.policy import testfile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOLD = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "clouds.md"]
COMMAND = re.compile(r"^(?: {4})?(?:\.venv/bin/)?interlock ([^\n#]*)", re.MULTILINE)


def _yaml(page: Path) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", TOLD, ids=lambda p: p.name)
def test_documents_are_sound(page: Path) -> None:
    given = [block for block in _yaml(page) if not block.startswith("cases:")]
    assert given
    for block in given:
        document, places = parse([(page.name, block)])
        entries = flatten(document, places)
        check(entries, entries, places, policies.check, deletes=False)
        assert entries != flatten(documents.Document())


def test_expectations_are_sound() -> None:
    (block,) = (b for b in _yaml(ROOT / "docs" / "tutorial.md") if b.startswith("cases:"))
    assert len(testfile.parse(block, "expect.yaml")) == 2


def _commands() -> list[tuple[str, str]]:
    return [
        (page.name, " ".join(line.split()))
        for page in PAGES
        for line in COMMAND.findall(page.read_text(encoding="utf-8"))
        if not re.match(r"[A-Z]", line)
    ]


@pytest.mark.parametrize(("page", "line"), _commands())
def test_commands_are_understood(page: str, line: str) -> None:
    command: Any = typer.main.get_command(cli)
    words = shlex.split(line)
    while getattr(command, "commands", None):
        assert words and words[0] in command.commands, f"{page}: interlock {line}"
        command = command.commands[words.pop(0)]
    context = command.make_context("interlock", words)  # parses, runs nothing
    context.close()


def test_there_are_commands_to_check() -> None:
    assert len(_commands()) >= 12
