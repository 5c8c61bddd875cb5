"""Reading configuration documents: values, places and errors."""

from __future__ import annotations

import json

import pytest

from interlock.control.documents import Document, TenantSpec
from interlock.control.parse import dump, parse
from interlock.errors import ConfigError
from tests.unit.control.samples import FULL


def test_full_document_survives_writing_and_reading() -> None:
    document, _ = parse([("a.yaml", FULL)])
    again, _ = parse([("b.yaml", dump(document))])
    assert again == document


def test_json_is_read_like_yaml() -> None:
    text = json.dumps({"tenants": [{"name": "acme", "teams": [{"name": "research"}]}]}, indent=2)
    document, places = parse([("a.json", text)])
    assert document == parse([("a.yaml", "tenants: [{name: acme, teams: [{name: research}]}]")])[0]
    assert places.of(("tenants", 0, "teams", 0, "name")) == "a.json:7"


def test_files_are_joined_and_keep_their_lines() -> None:
    document, places = parse(
        [("a.yaml", "tenants:\n- name: a\n"), ("b.yaml", "\nprune: true\ntenants:\n- name: b\n"), ("c.yaml", "")]
    )
    assert document.prune
    assert places.of(("tenants", 0, "name")) == "a.yaml:2"
    assert places.of(("tenants", 1, "name")) == "b.yaml:4"
    assert places.of(("tenants", 1, "elsewhere")) == "b.yaml:4"


def test_words_that_other_yaml_readers_take_for_something_else_stay_text() -> None:
    text = (
        "tenants:\n- name: no\n  time_zone: on\naliases:\n- name: a\n  sunset: 2027-01-31\n  targets: [{model: 1e3x}]\n"
    )
    document, _ = parse([("a.yaml", text)])
    assert isinstance(document.tenants, tuple)
    assert isinstance(document.aliases, tuple)
    assert (document.tenants[0].name, document.tenants[0].time_zone) == ("no", "on")
    assert document.aliases[0].sunset == "2027-01-31"


@pytest.mark.parametrize(
    "name", ["1e3", ".5", "1.", "007", "-1", "~", "null", "true", "no", "0x1", "1:30", "=", "<<", "#x"]
)
def test_text_that_looks_like_something_else_is_written_so_that_it_stays_text(name: str) -> None:
    document = Document(tenants=(TenantSpec(name=name),))
    assert parse([("x.yaml", dump(document))])[0] == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tenants:\n- name: 5", "x.yaml:2: tenants[0].name: Expected 'str', got 'int'"),
        ("tenants:\n- name: a\n  foo: 1", "x.yaml:3: tenants[0].foo: unknown field"),
        (
            "tenants:\n- name: a\n  teams:\n  - name: t\n    limits: {request_per_minute: 5}",
            "x.yaml:5: .*unknown field",
        ),
        ("tenants:\n- name: a\n  teams:\n  - name: t\n    limits:\n      concurrency: 0", "x.yaml:6: .*>= 1"),
        ("sources:\n- name: s\n  url: u\n  kind: foo", r"x.yaml:4: sources\[0\].kind: Invalid enum value 'foo'"),
        ("a: 1\na: 2", "x.yaml:2: the key 'a' occurs twice"),
        ("tenants: [", "x.yaml:.: not valid YAML"),
        ("tenants: \x00", "x.yaml: not valid YAML"),
        ("- tenants", "x.yaml:1: a configuration document is a mapping"),
        ("tenants: *nothing", "x.yaml:1: found undefined alias"),
        ("tenants:\n- !!python/object:os.system {}", "x.yaml:2"),
        ("{" * 400, "x.yaml"),
        ("? [a, b]\n: 1", "x.yaml:1: a key must be text"),
    ],
)
def test_errors_name_file_line_and_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.replace("[0]", r"\[0\]").replace(r"\\[0\\]", r"\[0\]")):
        parse([("x.yaml", text)])


def test_a_small_file_cannot_be_blown_up_with_anchors() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="anchors written out"):
        parse([("x.yaml", "\n".join(lines))])


def test_a_section_that_is_in_two_files_must_be_a_list() -> None:
    with pytest.raises(ConfigError, match=r"b\.yaml:1: tenants must be a list"):
        parse([("a.yaml", "tenants: []"), ("b.yaml", "tenants: 5")])
