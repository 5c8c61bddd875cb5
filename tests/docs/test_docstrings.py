"""Packages say what is in them: every module is named in its package's docstring, and no other in its lists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "interlock"
UNLISTED = {SRC, SRC / "storage" / "migrations" / "versions"}
"""The whole, of which docs/architecture.md tells, and steps that follow each other by number."""
PACKAGES = sorted(p.parent for p in SRC.rglob("__init__.py") if p.parent not in UNLISTED)
ROW = re.compile(r"(?: {4})?([a-z]\w*/?(?:, [a-z]\w*/?)*)(?= {2}|$)")
"""Names in the first column of a list: with two spaces behind them, or alone on an indented line."""
DOTTED = re.compile(r"`interlock((?:\.\w+)+)(?:\(\))?`")


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def modules(package: Path) -> set[str]:
    """What is in a package besides its `__init__`."""
    names = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/__init__.py")}
    return {name for name in names if not name.startswith("__")}


def first_column(text: str) -> set[str]:
    rows = [ROW.match(line) for line in text.splitlines() if line.startswith("    ") or re.match(r"[a-z]\w* {2}", line)]
    return {name.strip("/") for row in rows if row for name in row[1].split(", ")}


def named(text: str) -> set[str]:
    """Words in backticks, and those of lists."""
    lists = [line for line in text.splitlines() if line.startswith("    ") or "  " in line]
    return {word for part in (*re.findall(r"`([^`]*)`", text), *lists) for word in re.findall(r"\w+", part)}


def there_is(dotted: list[str]) -> bool:
    """Whether there is such a module of ours, or such a name in one."""
    for number in range(len(dotted), -1, -1):
        place = SRC.joinpath(*dotted[:number])
        file = place.with_suffix(".py") if number and place.with_suffix(".py").is_file() else place / "__init__.py"
        if file.is_file():
            rest = dotted[number:]
            return not rest or bool(re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")))
    return False


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: str(p.relative_to(SRC)))
def test_a_package_names_its_modules(package: Path) -> None:
    text = docstring(package / "__init__.py")
    assert modules(package) - named(text) == set(), "say what they are, in reading order"
    assert first_column(text) - modules(package) == set(), "there are no such modules"


def test_what_code_calls_by_its_dotted_name_is_there() -> None:
    wrong = [
        f"{file.relative_to(SRC)}: interlock{match}"
        for file in SRC.rglob("*.py")
        for match in DOTTED.findall(file.read_text(encoding="utf-8"))
        if match.split(".")[1] in modules(SRC) and not there_is(match.split(".")[1:])
    ]
    assert wrong == []


def test_the_map_of_the_code_names_every_package() -> None:
    page = (SRC.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("\n## Packages\n")[2].partition("\n##")[0]
    rows = set(re.findall(r"^\| `(\w+)(?:/|\.py)` \|", section, re.MULTILINE))
    parts = {name for name in modules(SRC) if not name.startswith("settings_")}
    assert rows == parts
