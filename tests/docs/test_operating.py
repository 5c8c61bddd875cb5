"""The systemd units of docs/operating.md: their commands are ours, and systemd takes them where there is one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from interlock.cli.main import app as cli

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
UNITS = {
    match[1]: match[0]
    for match in re.finditer(r"# /etc/systemd/system/(\S+)\n.*?(?=```)", PAGE.read_text(encoding="utf-8"), re.DOTALL)
}


def test_there_are_units() -> None:
    assert set(UNITS) == {"interlock.service", "interlock-engine@.service"}


@pytest.mark.parametrize("name", sorted(UNITS))
def test_commands_of_units_are_understood(name: str) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNITS[name], re.MULTILINE)
    program, *words = shlex.split(line.replace("%i", "x"))
    assert program.endswith("/bin/interlock")
    command: Any = typer.main.get_command(cli)
    while getattr(command, "commands", None):
        command = command.commands[words.pop(0)]
    command.make_context("interlock", words, resilient_parsing=False)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = tmp_path / "interlock"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    files = []
    for name, text in UNITS.items():
        file = tmp_path / name.replace("@", "@x")
        file.write_text(text.replace("/opt/interlock/bin/interlock", str(program)).replace("User=interlock\n", ""))
        files.append(str(file))
    ran = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60)
    told = [line for line in ran.stderr.splitlines() if str(tmp_path) in line or "interlock" in line]
    assert not told, told
