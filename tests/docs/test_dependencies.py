"""docs/dependencies.md, pyproject.toml, what is installed and what is imported say the same."""

from __future__ import annotations

import ast
import functools
import importlib.metadata as metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "interlock"
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PARTS = {"psycopg": ("psycopg", "psycopg-binary")}
"""Packages whose extra is a package of its own."""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: list[object]) -> set[str]:
    texts = [r for r in requirements if isinstance(r, str)]
    return {_canonical(m.group()) for r in texts if (m := re.match(r"[\w.-]+", r))}


def _declared() -> dict[str, set[str]]:
    """Section of the page -> the packages that pyproject declares for it."""
    project = PROJECT["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    groups = [r for group in PROJECT["dependency-groups"].values() for r in group]
    return {
        "Always installed": _names(project["dependencies"]),
        "Extras": _names(extras),
        "Dependency groups": _names(groups),
    }


def _rows(section: str) -> list[dict[str, str]]:
    body = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    head, rows = lines[0], lines[2:]
    return [dict(zip(head, row, strict=True)) | {"package": row[0].strip("`")} for row in rows]


def _imports() -> Iterator[tuple[str, Path]]:
    """(top-level module, file) of every import in src, those inside functions included."""
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], file) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.partition(".")[0], file


@functools.cache
def _imported() -> dict[str, set[str]]:
    """Package -> folders of src/interlock that import it, or look for it without importing it."""
    providers = {module: {_canonical(d) for d in dists} for module, dists in metadata.packages_distributions().items()}
    documented = {row["package"] for s in (*_declared(), "Imported, and coming with another") for row in _rows(s)}
    found: dict[str, set[str]] = {}
    for module, file in _imports():
        if module == "interlock" or module in sys.stdlib_module_names:
            continue
        folder = file.relative_to(SRC).parts[0]
        dists = providers.get(module, {f"?{module}"})
        for dist in dists & documented or dists:
            found.setdefault(dist, set()).add(folder)
    text = "\n".join(f.read_text(encoding="utf-8") for f in SRC.rglob("*.py"))
    for module in re.findall(r"find_spec\(\"(\w+)\"\)", text):
        for dist in providers.get(module, set()):
            found.setdefault(dist, set())
    return found


@pytest.mark.parametrize("section", _declared())
def test_the_page_lists_what_is_declared(section: str) -> None:
    listed = [row["package"] for row in _rows(section)]
    assert sorted(listed) == sorted(_declared()[section])


@pytest.mark.parametrize("section", _declared())
def test_every_dependency_has_a_reason_and_its_licence(section: str) -> None:
    for row in _rows(section):
        assert row["why"].endswith("."), row["package"]
        said = metadata.metadata(row["package"]).json.get("license_expression")
        assert row["licence"] and (said is None or row["licence"] == said), (row["package"], said)


@pytest.mark.skipif(sys.platform != "linux", reason="weights are those of Linux wheels")
@pytest.mark.parametrize("section", _declared())
def test_weights_are_about_right(section: str) -> None:
    for row in _rows(section):
        files = [f for n in PARTS.get(row["package"], (row["package"],)) for f in metadata.files(n) or ()]
        paths = [Path(str(f.locate())) for f in files if f.suffix != ".pyc"]
        real = sum(p.stat().st_size for p in paths if p.is_file()) / 1e6
        assert float(row["MB"]) == pytest.approx(real, rel=0.5, abs=0.2), row["package"]


def test_nothing_is_imported_that_is_not_declared() -> None:
    declared = _declared()
    allowed = declared["Always installed"] | declared["Extras"] | _names(PROJECT["dependency-groups"]["model"])
    along = _rows("Imported, and coming with another")
    for row in along:
        assert _canonical(row["comes with"].strip("`")) in allowed, row["package"]
    unknown = _imported().keys() - allowed - {row["package"] for row in along}
    # Every distribution that shares a namespace (opentelemetry) with a declared one counts as one of them.
    assert not {name for name in unknown if not name.startswith("opentelemetry-")}


def test_what_is_declared_is_imported() -> None:
    imported = _imported()
    for section in ("Always installed", "Extras"):
        for row in _rows(section):
            if through := re.fullmatch(r"through `([\w-]+)`", row["used in"]):
                asked = {_canonical(re.split(r"[^\w.-]", r)[0]) for r in metadata.requires(through.group(1)) or ()}
                assert row["package"] in asked, row["package"]
            else:
                assert row["package"] in imported, row["package"]


def test_the_page_says_which_folders_use_a_package() -> None:
    imported = _imported()
    for section in ("Always installed", "Imported, and coming with another"):
        for row in _rows(section):
            said = set(re.findall(r"`(\w+)`", row["used in"]))
            folders = imported.get(row["package"], set())
            if said and not row["used in"].startswith("through") and folders:
                assert said == folders, (row["package"], folders)


def test_the_number_of_pinned_packages_is_the_one_told() -> None:
    pins = re.findall(r"^[\w.-]+==", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE)
    assert f"at most {len(pins)} packages" in PAGE


def test_no_lock_holds_an_address() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in file.read_text(encoding="utf-8"), file.name
