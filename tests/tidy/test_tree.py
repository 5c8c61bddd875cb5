"""The rules for the tree hold, and each of them can fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_tree() -> ModuleType:
    """The script `scripts/check_tree.py` as a module."""
    spec = importlib.util.spec_from_file_location("check_tree", ROOT / "scripts" / "check_tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
