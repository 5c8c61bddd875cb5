"""docs/settings.md says of every setting what the code says."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from interlock.settings import Settings, load
from tests.scripts import ROOT, script

PAGE = ROOT / "docs" / "settings.md"


def test_the_page_is_what_the_metadata_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert script("settings_doc").page(text) == text, "run scripts/settings_doc.py"


def test_every_setting_has_a_row_with_its_variable() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(f.name, f"INTERLOCK_{f.name.upper()}") for f in dataclasses.fields(Settings)]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda f: f.name)
def test_a_setting_is_one_sentence_with_a_sound_default(field: dataclasses.Field[object]) -> None:
    doc, minimum = field.metadata["doc"], field.metadata["minimum"]
    assert doc[0].isupper() and doc.endswith(".")
    assert isinstance(field.default, int | str) and not isinstance(field.default, bool)
    assert minimum is None or (isinstance(field.default, int) and field.default >= minimum)
    assert not isinstance(field.default, int) or minimum is not None, "a number needs a least value"


def test_what_the_page_shows_can_be_set(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "interlock.toml").write_text(example)
    settings = load({"INTERLOCK_STREAM_SYNC_MS": "1_000"}, home=str(tmp_path))
    assert (settings.workers, settings.log_disk_bytes_max, settings.stream_sync_ms) == (4, 200_000_000_000, 1000)


def test_every_setting_named_in_a_page_exists() -> None:
    names = {f.name for f in dataclasses.fields(Settings)}
    for page in (ROOT / "docs").glob("*.md"):
        found = re.findall(r"INTERLOCK_([A-Z_]+[A-Z])", page.read_text(encoding="utf-8"))
        unknown = {name.lower() for name in found} - names - {"control_url", "admin_key", "native"}
        assert not unknown, (page.name, unknown)


def test_every_setting_is_read_somewhere() -> None:
    read = {
        node.attr
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    unread = {f.name for f in dataclasses.fields(Settings)} - read
    assert not unread, f"settings that do nothing: {sorted(unread)}"
