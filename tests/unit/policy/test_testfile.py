"""A company's expectations: read with line numbers, run by the engine, from a document or a snapshot."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml

from interlock.errors import ConfigError
from interlock.policy.testfile import parse, run, summary
from interlock.policy.world import World, from_document, from_parts

DOCUMENT = """
tenants:
  - name: acme
    teams: [{name: research}, {name: ops}]
    principals:
      - {name: alice, kind: user, teams: [research]}
      - {name: bot, kind: agent, teams: [ops]}
    policies:
      - {id: research-small, template: team-may-use-models, parameters: {team: research, models: [small]}}
      - {id: ops-all, template: team-may-use-models, parameters: {team: ops, models: "*"}}
  - name: other
policies:
  - {id: on-prem, template: data-class-stays-on-prem, parameters: {data_class: confidential}}
sources:
  - {name: local, kind: vllm, url: "http://127.0.0.1:1", granted_to: "*", labels: {region: eu}, models: [{name: small}]}
  - name: cloud
    kind: openai
    url: https://cloud.example
    granted_to: [acme]
    labels: {on_prem: false, data_class_max: restricted}
    models: [small, large]
"""

CASES = """
cases:
  - {tenant: acme, as: alice, model: small, expect: permit, because: research-small}
  - name: research has no large model
    tenant: acme
    as: alice
    model: large
    expect: deny
  - {tenant: acme, as: alice, model: small, source: cloud, data_class: confidential, expect: deny, because: on-prem}
  - {tenant: acme, as: alice, model: small, source: local, data_class: 2, expect: permit}
  - {tenant: acme, as: alice, agent: bot, model: small, expect: permit}
  - {tenant: acme, as: alice, agent: bot, model: large, expect: deny}
  - {tenant: acme, as: new-hire, teams: [ops], model: large, expect: permit, because: ops-all}
  - {tenant: acme, as: new-hire, model: large, expect: deny}
  - {tenant: acme, as: alice, model: small, features: [use_images], expect: deny}
"""


def world() -> World:
    return from_document(yaml.safe_load(DOCUMENT))


def test_expectations_that_hold_pass() -> None:
    results = run(parse(CASES), world())
    assert [r.words for r in results if not r.passed] == []
    assert summary(results) == {"cases": 9, "passed": 9, "failed": 0}
    assert results[1].case.line == 4


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("as: alice, model: small, expect: deny", "expected deny, got permit: .*research-small"),
        ("as: alice, model: large, expect: permit", "expected permit, got deny: .*no policy permits"),
        ("as: alice, model: small, expect: permit, because: ops-all", "expected because of ops-all"),
        ("as: alice, model: large, expect: deny, because: on-prem", "expected because of on-prem"),
        ("as: alice, model: smal, expect: deny", "no source of this tenant offers a model 'smal'"),
        ("as: alice, model: large, source: local, expect: deny", "source 'local' does not offer a model 'large'"),
        ("as: alice, model: small, teams: [reserch], expect: deny", "no team 'reserch'"),
    ],
)
def test_expectations_that_do_not_hold_fail_with_the_reason(case: str, says: str) -> None:
    (result,) = run(parse(f"cases: [{{tenant: acme, {case}}}]"), world())
    assert not result.passed
    assert re.search(says, result.words)


def test_an_unknown_tenant_fails() -> None:
    (result,) = run(parse("cases: [{tenant: acne, as: alice, model: small, expect: deny}]"), world())
    assert (result.passed, result.words) == (False, "there is no tenant 'acne'")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: .* list `cases`"),
        ("cases: 3", "list `cases`"),
        ("cases:\n  - {tenant: a", "t.yaml, line 2: not YAML"),
        ("cases:\n  - alice", "t.yaml, line 2: a case must be a mapping"),
        ("cases:\n  - {tenant: a, as: b, model: c}", "line 2: expect is missing"),
        ("cases:\n  - tenant: a\n    as: b\n    modle: c", "line 4: unknown field 'modle'"),
        ("cases:\n  - tenant: a\n    tenant: b", "line 3: tenant is given twice"),
        ("cases:\n  - {tenant: a, as: b, model: c, expect: maybe}", "expect must be one of permit, deny"),
        ("cases:\n  - {tenant: a, as: b, model: c, expect: deny, kind: robot}", "kind must be one of"),
        ("cases:\n  - {tenant: a, as: b, model: c, expect: deny, operation: sing}", "operation must be one of"),
        ("cases:\n  - {tenant: a, as: b, model: c, expect: deny, features: [tools]}", "features knows no 'tools'"),
        ("cases:\n  - {tenant: a, as: b, model: c, expect: deny, data_class: 7}", "line 2: data_class: 7 is not"),
        ("cases:\n  - {tenant: a, as: [b], model: c, expect: deny}", "as must be text"),
        ("a: &a [1]\ncases: [*a]", "line 2: YAML aliases are not taken"),
        ("cases: !!python/object:os.system []", "there must be 1 to"),
        ("[" * 5000, "line 1: nested too deeply"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(parse(text, "t.yaml"), world())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("kind: agent", "kind: robot"), r"tenants\[0\].principals\[1\].kind: 'robot'"),
        (("teams: [ops]}", "teams: [opps]}"), "has no team 'opps'"),
        (("{team: ops, models", "{team: ops, modles"), r"tenants\[0\].policies\[1\]: .*modles is not a parameter"),
        (("id: on-prem,", "id: base/x,"), "reserved"),
        (("kind: openai", "kind: opnai"), r"sources\[1\].kind"),
        (("granted_to: [acme]", "granted_to: [acne]"), "no tenant 'acne'"),
        (("data_class_max: restricted", "data_class_max: secret"), "data_class_max: 'secret'"),
    ],
)
def test_a_wrong_document_is_told_with_its_path(change: tuple[str, str], says: str) -> None:
    assert change[0] in DOCUMENT
    with pytest.raises(ConfigError, match=says):
        from_document(yaml.safe_load(DOCUMENT.replace(*change)))


def test_cedar_in_a_document_is_validated() -> None:
    document = {"policies": [{"id": "p", "cedar": "permit (principal, action, resource)\nwhen { resource.no };"}]}
    with pytest.raises(ConfigError, match=r"policies\[0\]: policy p, line 2, column 17: attribute `no`"):
        from_document(document)


def test_a_snapshot_gives_the_same_results_as_its_document() -> None:
    made = world()
    encode = msgspec.msgpack.encode
    parts = {
        "tenants": encode(made.tenants),
        "teams": encode(made.teams),
        "sources": encode(made.sources),
        "policies": encode(made.policies),
        "principals/000": encode({p.id: p for p in made.principals}),
    }
    assert from_parts(parts) == made
    assert run(parse(CASES), from_parts(parts)) == run(parse(CASES), made)
    with pytest.raises(ConfigError, match="no part 'teams'"):
        from_parts({k: v for k, v in parts.items() if k != "teams"})
    with pytest.raises(ConfigError, match="cannot be decoded"):
        from_parts({**parts, "teams": b"\xc1"})
