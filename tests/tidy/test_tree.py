"""The rules for the tree hold, and each of them can fail."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.scripts import ROOT, script


@pytest.fixture(scope="module")
def check_tree() -> ModuleType:
    """The script `scripts/check_tree.py` as a module."""
    return script("check_tree")


def test_the_tree_is_in_order(check_tree: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_tree.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_dangerous_code_is_found(check_tree: ModuleType, source: str) -> None:
    assert check_tree.dangerous(ROOT / "src" / "x.py", source)


def test_long_files_and_functions_are_found(check_tree: ModuleType) -> None:
    long_function = "def f():\n" + "    pass\n" * 71
    assert check_tree.sizes(ROOT / "src" / "x.py", long_function)
    assert check_tree.sizes(ROOT / "src" / "x.py", "x = 1\n" * 601)
    assert not check_tree.sizes(ROOT / "src" / "x.py", "x = 1\n" * 600)
