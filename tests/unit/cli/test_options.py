"""An option that takes one value and is given twice is wrong usage, with every command; lists add up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from interlock.cli.common import Command, listed
from interlock.cli.main import app, main


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in getattr(command, "commands", {}).items():
        if getattr(one, "commands", None):
            yield from _leaves(one, (*path, name))
        else:
            yield (*path, name), one


LEAVES = list(_leaves(typer.main.get_command(app)))
SINGLE = [
    pytest.param(path, option, id=" ".join((*path, option.opts[0])))
    for path, leaf in LEAVES
    for option in leaf.params
    if option.param_type_name == "option" and not option.is_flag and not option.multiple
]


def test_every_command_is_one_that_looks() -> None:
    assert len(LEAVES) > 60 and len(SINGLE) > 200
    assert [path for path, leaf in LEAVES if not isinstance(leaf, Command)] == []


@pytest.mark.parametrize(("path", "option"), SINGLE)
def test_an_option_with_one_value_is_taken_once(
    path: tuple[str, ...], option: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    long = max(option.opts, key=len)
    assert main([*path, long, "1", option.opts[0], "2"]) == 2
    assert capsys.readouterr().err == f"interlock: {long} is given twice, and takes one value\n"


def test_switches_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json", "--json"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (["alias,model"], "alias,model"),
        (["alias", "model"], "alias,model"),
        (["alias,model", "day"], "alias,model,day"),
        (None, ""),
    ],
)
def test_lists_add_up(given: list[str] | None, whole: str) -> None:
    assert listed(given) == whole


def test_every_list_with_commas_may_be_repeated() -> None:
    """What takes `--x a,b` takes `--x a --x b` too."""
    for path, leaf in LEAVES:
        for option in leaf.params:
            words = getattr(option, "help", None) or ""
            if option.opts[0] in ("--by", "--gpus") and path != ("live",):
                assert option.multiple and ("again" in words or "repeated" in words), path
