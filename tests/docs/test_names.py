"""What the pages call by name is there: files, identifiers, headers, paths, metrics, commands and their options."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from interlock.cli.main import app as cli
from interlock.native.library import SWITCH
from interlock.settings import Settings
from tests.docs.test_monitoring import known

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2[ ]*$", re.DOTALL | re.MULTILINE)
SOURCES = ("src", "tests", "bench", "scripts")
ELSEWHERE = {
    *(
        "code_interpreter",
        "computer_use_preview",
        "image_generation",
    ),  # tools of OpenAI's: refused as what is not known
    "num_thread",  # an option of Ollama's that has no effect
    "eval_results",  # a folder of published data
}
"""Names of other people's."""


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _spans(page: Path) -> list[str]:
    """Inline code of a page."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))


@functools.cache
def _texts() -> dict[Path, str]:
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*") if "vendor" not in file.parts]
    kept = [f for f in files if f.suffix in {".py", ".html", ".js", ".cedarschema", ".toml"} and f.is_file()]
    return {file: file.read_text(encoding="utf-8") for file in [*kept, ROOT / "pyproject.toml"]}


@functools.cache
def _words() -> set[str]:
    """Every identifier of the sources, with those that a name is put before or behind (`f"quality_{name}"`)."""
    words = {word for text in _texts().values() for word in re.findall(r"[A-Za-z_]\w*", text)}
    return words | ELSEWHERE | {file.stem for file in _texts()}


@functools.cache
def _shipped() -> str:
    """All of the product's text, in lower case."""
    return "\n".join(text for file, text in _texts().items() if file.is_relative_to(ROOT / "src")).lower()


def _there(name: str) -> bool:
    """Whether the sources have the identifier, or two that it is put together from."""
    if name in _words() or name.upper().startswith("INTERLOCK_"):
        return True
    cuts = [at for at, letter in enumerate(name) if letter == "_"]
    return any({name[: at + 1], name[at + 1 :]} <= _words() or {name[:at], name[at:]} <= _words() for at in cuts)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_identifiers_are_in_the_sources(page: Path) -> None:
    names = {
        n for span in _spans(page) for n in re.findall(r"(?<![\w.*<-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w*<-])", span)
    }
    assert {name for name in names if not _there(name)} == set()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_files_of_ours_are_there(page: Path) -> None:
    places = (ROOT, ROOT / "src" / "interlock", *(ROOT / "src" / "interlock" / part for part in ("gateway", "ledger")))
    named = {n for s in _spans(page) for n in re.findall(r"(?<![\w/.<~-])(?:[\w-]+/)+[\w.-]+\.(?:py|md|toml|yml)\b", s)}
    named |= {n for s in _spans(page) for n in re.findall(r"(?<![\w/.<~-])(?:src|tests|deploy|docs)/[\w/.-]*\w", s)}
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_environment_variables_are_settings_or_of_the_command_line() -> None:
    known_names = {f"INTERLOCK_{name.upper()}" for name in Settings.__dataclass_fields__}
    known_names |= {"INTERLOCK_CONTROL_URL", "INTERLOCK_ADMIN_KEY", SWITCH}
    for page in PAGES:
        named = set(re.findall(r"\bINTERLOCK_[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
        assert named - known_names == set(), page.name


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_metrics_are_exposed(page: Path) -> None:
    named = {n for s in _spans(page) for n in re.findall(r"\binterlock_(?!migrator|app|platform|compiler|node|shipper"
             r"|sequencer|lender|dirty|snapshot`)\w+", s)}  # fmt: skip
    roles = {"interlock_snapshot"}  # a channel of the database's
    shown = {re.sub("_(?:bucket|sum|count)$", "", name) for name in known()} | known().keys()
    assert named - shown - roles == set()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_headers_are_ours(page: Path) -> None:
    named = {name.lower() for span in _spans(page) for name in re.findall(r"\bx-interlock-[a-z-]*[a-z]\b", span, re.I)}
    assert {name for name in named if name not in _shipped()} == set()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_paths_of_the_gateway_are_served_or_refused(page: Path) -> None:
    named = {n for s in _spans(page) for n in re.findall(r"(?<![\w.}>:-])/(?:v1|api)/[a-z_]+(?:/[a-z_]+)*", s)}
    assert {name for name in named if name not in _shipped()} == set()


@functools.cache
def _tree() -> Any:
    return typer.main.get_command(cli)


def _leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the rest of them. A group, where they name no more."""
    command = _tree()
    rest = list(words)
    while rest and getattr(command, "commands", None) and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        assert rest[0] in command.commands, " ".join(words)
        command = command.commands[rest.pop(0)]
    return command, rest


def _inline() -> Iterator[Any]:
    for page in PAGES:
        for span in sorted({s for s in _spans(page) if re.match(r"interlock [a-z]", s)}):
            yield pytest.param(span.replace("\\|", "|"), id=f"{_id(page)}: {span}")


def _options(command: Any) -> set[str]:
    return {name for param in getattr(command, "params", []) for name in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("span", list(_inline()))
def test_commands_in_prose_are_there_with_their_options(span: str) -> None:
    command, rest = _leaf(span.split()[1:])
    named = [re.match(r"--?[a-z][a-z0-9-]*", word) for word in rest]
    shown = {match.group() for match in named if match} - {"--help"}
    assert shown <= _options(command), span


def test_options_that_the_command_line_page_names_are_of_their_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `interlock ([^`]+)` \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) > 60
    seen: set[str] = set()
    for first, words in rows:
        command, _ = _leaf(first.replace("\\|", "|").split())
        assert not getattr(command, "commands", None), first
        path = " ".join(w for w in first.split() if re.fullmatch(r"[a-z][a-z-]*", w))
        assert path not in seen, f"{path} has two rows"
        seen.add(path)
        own = (
            words
            if "`show --json`" not in words
            else words.replace("`show --json`", "").replace("`evidence --output`", "")
        )
        named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", f"`{first}`{own}")) | set(
            re.findall(r" (--[a-z][a-z0-9-]*)", first)
        )
        assert named <= _options(command), (first, named - _options(command))
