"""What the documentation says of configuration, admin API and command line is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families

from interlock.cli.main import app as cli
from interlock.control import documents
from interlock.control.app import make_app
from interlock.control.metrics import ControlMetrics
from interlock.control.parse import parse
from interlock.control.permissions import RULES
from interlock.control.plan import flatten
from interlock.control.services import policies
from interlock.control.validate import check
from interlock.control.web import Api
from interlock.storage.roles import ROLES

DOCS = Path(__file__).parents[2] / "docs"
FORMS = [
    form
    for form in vars(documents).values()
    if isinstance(form, type) and issubclass(form, msgspec.Struct) and form.__module__ == documents.__name__
]


def _read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("form", [f for f in FORMS if f is not documents.Spec], ids=lambda f: f.__name__)
def test_every_field_of_a_document_is_described(form: Any) -> None:
    text = _read("configuration.md")
    assert [f for f in form.__struct_fields__ if f"`{f}`" not in text] == []


def test_the_examples_of_documents_are_sound() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", _read("configuration.md"), re.DOTALL)
    assert blocks
    for block in blocks:
        document, places = parse([("docs/configuration.md", block)])
        entries = flatten(document, places)
        check(entries, entries, places, policies.check, deletes=False)
        assert entries != flatten(documents.Document())


def test_every_path_and_permission_is_listed_and_nothing_else() -> None:
    nothing = cast("Any", None)
    described = make_app(Api(nothing, nothing, nothing, nothing, nothing, nothing, ())).openapi()["paths"]
    there = {f"{m.upper()} {p.removeprefix('/admin/v1')}" for p, methods in described.items() for m in methods}
    text = _read("admin-api.md")
    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)` \|", text)) == there
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\w+) \| ([a-z ]+) \|", text, re.MULTILINE)
    expected = {
        (a.value, r.least.value, "platform" if r.platform_only else "tenant or platform") for a, r in RULES.items()
    }
    assert set(rows) == expected


def test_every_database_role_is_described_and_set_up() -> None:
    text = _read("database-roles.md")
    assert dict(re.findall(r"^\| `(interlock_\w+)` \| (yes|no) \|", text, re.MULTILINE)) == {
        role.name: "yes" if role.crosses_tenants else "no" for role in ROLES
    }
    names = {role.name for role in ROLES}
    assert set(re.findall(r"CREATE ROLE (\w+) NOLOGIN;", text)) == names
    (granted,) = re.findall(r"GRANT (interlock_[\w,\s]+?)\s+TO ", text)
    assert set(re.split(r"[,\s]+", granted)) == names


def test_every_command_and_option_is_described() -> None:
    text = _read("cli.md")
    command: Any = typer.main.get_command(cli)
    for name, one in command.commands.items():
        for path, leaf in [(f"{name} {n}", c) for n, c in getattr(one, "commands", {}).items()] or [(name, one)]:
            assert f"`interlock {path}" in text, path
            for option in leaf.params:
                shown = [o for o in option.opts if o.startswith("--")]
                assert not shown or any(f"`{o}" in text or f" {o}" in text for o in [*shown, *option.opts]), (
                    path,
                    shown,
                )
    for path in re.findall(r"`interlock ([a-z]+(?: [a-z][a-z-]*)?)", text):
        first, _, second = path.partition(" ")
        assert first in command.commands, path
        assert not second or second in command.commands[first].commands, path


def test_every_metric_is_described() -> None:
    text = _read("admin-api.md")

    class Idle:
        class compiler:
            last = None
            failure = ""

        class sequencer:
            placed = 0
            alerts = 0
            failing = False

        class retention:
            removed = 0
            pruned = 0
            failing = False

        class canaries:
            taken_back = 0

        class live:
            streams = 0

        class alerts:
            class watch:
                firing: dict[str, int] = {}
                failing = ""

            class sender:
                outcomes = {("webhook", "delivered"): 1}

    shown = ControlMetrics().text(cast("Any", Idle)).decode()
    for family in text_string_to_metric_families(shown):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"| `{name}` | {family.type} |" in text
        assert family.documentation in text
