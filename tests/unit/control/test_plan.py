"""Plans: the pure difference between two documents."""

from __future__ import annotations

import pytest

from interlock.control.parse import Places, parse
from interlock.control.plan import ORDER, ConfigErrors, Plan, Ref, flatten, plan, sections
from tests.unit.control.samples import FULL


def _plan(before: str, after: str) -> Plan:
    stored, _ = parse([("stored", before)])
    declared, places = parse([("new.yaml", after)])
    return plan(flatten(stored), flatten(declared), prune=declared.prune, within=sections(declared), places=places)


def _steps(result: Plan) -> list[str]:
    return [f"{c.operation} {c.ref}" for c in result.changes]


def test_planning_what_is_stored_is_empty() -> None:
    assert _plan(FULL, FULL) == Plan(())
    assert _plan(FULL, FULL + "prune: true") == Plan(())


def test_creations_come_in_the_order_of_references_and_deletions_the_other_way() -> None:
    kinds = [ORDER.index(c.kind) for c in _plan("", FULL).changes]
    assert kinds == sorted(kinds)
    removed = _plan(FULL, "prune: true\ntenants: []\nsources: []\npolicies: []\naliases: []")
    kinds = [ORDER.index(c.kind) for c in removed.changes]
    assert kinds == sorted(kinds, reverse=True)
    assert len(removed.changes) == len(flatten(parse([("x", FULL)])[0]))


def test_an_update_names_its_fields_and_its_line() -> None:
    result = _plan(FULL, FULL.replace("concurrency: 4", "concurrency: 5"))
    assert _steps(result) == ["update principal alice in acme"]
    change = result.changes[0]
    assert change.fields == ("limits",)
    assert change.place == "new.yaml:9"
    assert (change.before or {})["limits"] == {"concurrency": 4}
    assert (change.after or {})["limits"] == {"concurrency": 5}


def test_a_key_keeps_its_expiry() -> None:
    assert not _plan(FULL, FULL.replace("expires_in_days: 90", "expires_in_days: 30")).changes


def test_nothing_is_deleted_without_prune() -> None:
    assert not _plan(FULL, "tenants: [{name: acme, time_zone: Europe/Berlin, teams: []}]").changes


def test_prune_touches_only_sections_that_are_given() -> None:
    only_teams = (
        "prune: true\ntenants: [{name: acme, time_zone: Europe/Berlin, teams: [{name: legal}]}, {name: globex}]"
    )
    assert _steps(_plan(FULL, only_teams)) == ["delete team research in acme"]
    assert not _plan(FULL, "prune: true").changes


def test_a_deleted_tenant_takes_its_own_things_and_sources_along() -> None:
    steps = _steps(_plan(FULL, "prune: true\ntenants: [{name: globex}]"))
    assert steps[-1] == "delete tenant acme"
    assert "delete source own" in steps
    assert "delete source local" not in steps
    assert not [s for s in steps if s.endswith("globex")]


def test_closed_keys_are_not_made_again() -> None:
    declared = flatten(parse([("x", FULL)])[0])
    ref = Ref("key", "acme", "alice-laptop")
    stored = {k: v for k, v in declared.items() if k != ref}
    result = plan(stored, declared, closed_keys={ref: "revoked"})
    assert not result.changes
    assert "key alice-laptop in acme is revoked" in result.notes[0]


def test_the_same_name_twice_is_an_error_with_its_line() -> None:
    document, places = parse([("x.yaml", "tenants:\n- name: a\n- name: a\n")])
    with pytest.raises(ConfigErrors, match=r"x\.yaml:3: tenants.1.: tenant a is declared twice"):
        flatten(document, places)
    assert flatten(parse([("x", "tenants: []")])[0], Places()) == {}
