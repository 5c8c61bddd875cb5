"""Policy text is split, bounded and quoted before Cedar sees it."""

from __future__ import annotations

import json

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.policy.text import DEPTH_MAX, OPERATORS_MAX, TEXT_BYTES_MAX, TextError, place, quote, statements


def test_statements_are_split_outside_strings_and_comments() -> None:
    text = (
        '// a; b\npermit (principal, action, resource) when { "x;y" == "\\";" };\nforbid (principal, action, resource);'
    )
    found = statements(text)
    assert [part.text.split(" ")[0] for part in found] == ["permit", "forbid"]
    assert [place(text, part.offset) for part in found] == [(2, 1), (3, 1)]


@pytest.mark.parametrize(
    ("text", "says", "at"),
    [
        ("permit (principal", "does not end with a semicolon", (1, 9)),
        ("permit (principal];", "closes nothing", (1, 18)),
        ("permit (principal;", "never closed", (1, 8)),
        ('permit\n ("x', "unclosed string", (2, 3)),
        ("permit #;", "does not know", (1, 8)),
    ],
)
def test_what_is_not_a_statement_is_refused_with_its_place(text: str, says: str, at: tuple[int, int]) -> None:
    with pytest.raises(TextError, match=says) as e:
        statements(text)
    assert place(text, e.value.offset) == at


@pytest.mark.parametrize(
    "condition",
    [
        "(" * (DEPTH_MAX + 1) + "true" + ")" * (DEPTH_MAX + 1),
        "true" + " && true" * (OPERATORS_MAX + 1),
        "if true then " * OPERATORS_MAX + "true" + " else true" * OPERATORS_MAX,
        "resource" + ".region" * (OPERATORS_MAX + 1),
        "!" * (OPERATORS_MAX + 1) + "true",
        '"' + "x" * TEXT_BYTES_MAX + '" == "x"',
    ],
)
def test_what_would_exhaust_the_parser_is_refused(condition: str) -> None:
    with pytest.raises(TextError):
        statements(f"permit (principal, action, resource) when {{ {condition} }};")


NASTY = st.one_of(st.sampled_from('"\\*\n\0{}();|'), st.characters(exclude_categories=["Cs"]))


@given(st.text(alphabet=NASTY, max_size=30))
def test_a_quoted_string_reads_back_as_itself(value: str) -> None:
    text = f"permit (principal, action, resource) when {{ resource.x == {quote(value)} }};"
    (statement,) = statements(text)
    policy = json.loads(cedarpy.policies_to_json_str(statement.text))["staticPolicies"]["policy0"]
    assert policy["conditions"][0]["body"]["=="]["right"] == {"Value": value}
