"""What people write is validated, with the line and the reason."""

from __future__ import annotations

import pytest

from interlock.errors import ConfigError
from interlock.policy.schema import ACTION_WORDS, ACTIONS, BASE_CEDAR, check_id, schema, validate

HEAD = "permit (principal, action, resource)"


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "no policy statement"),
        ("// nothing\n", 1, 1, "no policy statement"),
        (f"{HEAD};\n\npermit (principal action, resource);", 3, 19, "'action' is not expected here"),
        (f"{HEAD}\n  when {{ resource.regoin == 1 }};", 2, 19, "`regoin` on entity type `Offer` not found"),
        (f'{HEAD}\nwhen {{ resource in [Modle::"a"] }};', 2, 21, "unrecognized entity type `Modle`"),
        ('permit (principal,\n  action == Action::"infr", resource);', 2, 21, "unrecognized action"),
        (f"{HEAD}\nwhen {{ resource.region = 1 }};", 2, 24, "'=' is not a valid operator"),
        (f"{HEAD}\nwhn {{ true }};", 2, 1, "invalid policy condition: whn"),
        ("permit (principal == ?principal, action, resource);", 1, 22, "template slot"),
        (f"{HEAD} when {{ resource.region == 5 }};", 1, 1, "types Long and String are not compatible"),
        (f'{HEAD} when {{ resource.getTag("a") == "b" }};', 1, 61, "unable to guarantee safety"),
        (f"{HEAD} when {{ context.data_class > 1", 1, 66, "does not end with a semicolon"),
    ],
)
def test_a_wrong_policy_is_told_with_its_place(text: str, line: int, column: int, says: str) -> None:
    problem = validate(text)[0]
    assert says in problem.message
    assert (problem.line, problem.column) == (line, column)


def test_every_statement_is_checked() -> None:
    text = "\n".join(f"{HEAD} when {{ resource.no{i} }};" for i in range(3))
    assert [(p.line, p.message[:15]) for p in validate(text)] == [(i + 1, f"attribute `no{i}`"[:15]) for i in range(3)]


@pytest.mark.parametrize(
    "condition",
    [
        'resource.region == "eu" && !resource.on_prem',
        "context.data_class <= resource.data_class_max && context.delegated",
        'resource.hasTag("zone") && resource.getTag("zone") == "a"',
        'principal in Team::"research" || principal.tenant == "acme"',
        'resource in [Model::"a", Model::"b"] || resource in Source::"local" || resource == Offer::"local::a"',
        'resource.model like "llama*" && context.operation == "embeddings"',
        "principal is Agent",
    ],
)
def test_the_vocabulary_of_the_documentation_is_valid(condition: str) -> None:
    assert validate(f"{HEAD} when {{ {condition} }};") == []


def test_the_schema_declares_every_action_and_no_other() -> None:
    assert validate(BASE_CEDAR) == []
    for action in ACTIONS:
        assert validate(f'permit (principal, action == Action::"{action}", resource);') == []
    assert str(schema()).count("appliesTo") == len(ACTIONS) == len(ACTION_WORDS)


def test_text_that_is_not_unicode_is_refused_not_raised() -> None:
    assert "Unicode" in validate('permit (principal, action, resource == Offer::"\ud800");')[0].message


@pytest.mark.parametrize("policy_id", ["base/data-class", "base/x", "", "a b", "-a", "x" * 129, 'a"b', "a\n"])
def test_reserved_and_malformed_ids_are_refused(policy_id: str) -> None:
    with pytest.raises(ConfigError):
        check_id(policy_id)


def test_ordinary_ids_are_taken() -> None:
    for policy_id in ("eu-only", "acme/eu.2", "A_1"):
        check_id(policy_id)
