"""Links resolve, every page can be found, examples are sound, and no page names what it should not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "changelog.d").glob("*.md")])
FENCE = re.compile(r"^( *)(```+|~~~+)([^\n]*)\n(.*?)^\1\2[ ]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?)\)")
REGISTRIES = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "crates" + r"\.io")))
WORKPLACE = re.compile(r"(?<![\w.~-])/(?:work|tmp/w|home/\w+|root/\w+)(?:/|\b)")
KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(text: str) -> str:
    """A page without fenced and inline code, where brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 1
        base = anchor
        while anchor in anchors:
            anchor, number = f"{base}-{number}", number + 1
        anchors.add(anchor)
    return anchors


def _blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, text) of each fenced block in a language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, m.start()) + 1, m.group(4))
        for m in FENCE.finditer(text)
        if m.group(3).split()[:1] == [language]
    ]


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(_prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{_id(page)}: {target}"
        assert there.is_relative_to(ROOT), f"{_id(page)}: {target} leaves the repository"
        if anchor:
            assert anchor in _anchors(there), f"{_id(page)}: {target}"


def test_every_page_is_in_the_index() -> None:
    linked = set(LINK.findall((DOCS / "index.md").read_text(encoding="utf-8")))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert pages == {target for target in linked if not target.startswith("..")}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_python_compiles(page: Path) -> None:
    for line, code in _blocks(page, "python"):
        compile("\n" * line + code, _id(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_fences_are_closed(page: Path) -> None:
    rest = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert "```" not in rest, "a fence that does not end"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_no_page_names_a_registry_or_a_workplace(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not REGISTRIES.search(text)
    assert not WORKPLACE.search(text), WORKPLACE.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_a_page_has_one_title(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    if page.parent.name == "changelog.d":
        return
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_changelog_fragments_have_a_number_and_a_kind() -> None:
    for fragment in (ROOT / "changelog.d").iterdir():
        if fragment.name.startswith("."):
            continue
        number, kind, suffix = fragment.name.split(".")
        assert number.isdigit() and kind in KINDS and suffix == "md", fragment.name
        text = fragment.read_text(encoding="utf-8")
        assert all(line.startswith(("- ", "  ")) for line in text.splitlines()), fragment.name


def test_the_readme_says_only_what_make_can_do() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^ {4}|^)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, (_id(page), named - targets)
