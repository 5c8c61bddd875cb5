"""What the documentation shows is valid, holds, and is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from interlock.policy.engine import BASE_POLICY
from interlock.policy.schema import ACTIONS, validate
from interlock.policy.templates import TEMPLATES
from interlock.policy.testfile import parse, run
from interlock.policy.world import from_document

TEXT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("cedar", blocks("cedar"))
def test_every_policy_shown_is_valid(cedar: str) -> None:
    assert validate(cedar) == []


def test_the_policy_tests_shown_hold_for_the_configuration_shown() -> None:
    (document,), (cases,) = blocks("yaml document"), blocks("yaml cases")
    results = run(parse(cases, "docs/policy.md"), from_document(yaml.safe_load(document)))
    assert [r.words for r in results if not r.passed] == []
    assert len(results) == 4


def test_every_action_template_and_parameter_is_described() -> None:
    for action in ACTIONS:
        assert f"| `{action}` |" in TEXT
    for name, template in TEMPLATES.items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(f"`{parameter}`" in row for parameter in template.parameters)
    shown = " ".join(TEXT.split())
    assert " ".join(BASE_POLICY.cedar.split()) in shown
