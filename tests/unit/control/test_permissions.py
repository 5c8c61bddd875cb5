"""The whole matrix of administrative permissions."""

from __future__ import annotations

import itertools

import pytest

from interlock.control.permissions import (
    RULES,
    STRENGTH,
    Action,
    Binding,
    decide,
    may_grant,
    require,
    require_grant,
)
from interlock.errors import Denied
from interlock.types.identity import AdminRole

# The least role for each action; P: only with a platform binding, G: with a second grant. Written out to show changes.
EXPECTED = """
tenant.read viewer      tenant.create P:admin    tenant.update admin      tenant.delete P:owner
team.read viewer        team.write admin         principal.read viewer    principal.write admin
key.read developer      key.write admin          key.rotate_own developer
quota.read viewer   quota.ask developer
key.write_own developer   playground.use developer
policy.read viewer      policy.write admin       policy.history auditor   policy.draft admin
policy.approve admin    policy.activate admin    policy.rule owner
source.read viewer      source.write P:admin     source.operate admin
alias.read viewer       alias.write admin        issuer.read auditor      issuer.write owner
role.read auditor       role.write admin         change.read auditor      snapshot.read P:viewer
system.diagnose P:auditor
config.export auditor   config.plan auditor      config.apply admin       explain developer
budget.read viewer      budget.write admin       alert.read auditor       alert.write admin
ledger.read auditor     ledger.content G:auditor  ledger.erase owner  usage.read auditor
ledger.retention owner  ledger.hold admin        ledger.hold_release owner
ledger.rotate_key P:owner  ledger.retire_node P:owner
router.read auditor     router.write admin        router.share owner
"""
MATRIX = dict(zip(*[iter(EXPECTED.split())] * 2, strict=True))
PLACES: tuple[str | None, ...] = ("ten_a", "ten_b", None)


def test_every_action_has_one_rule_and_stands_in_the_expected_matrix() -> None:
    assert set(RULES) == set(Action) == set(map(Action, MATRIX))


@pytest.mark.parametrize("action", list(Action))
def test_matrix(action: Action) -> None:
    expected = MATRIX[action]
    platform_only = expected.startswith("P:")
    granted = expected.startswith("G:")
    least = AdminRole(expected.removeprefix("P:").removeprefix("G:"))
    for role, held_at, asked_at in itertools.product(AdminRole, PLACES, PLACES):
        allowed = STRENGTH[role] >= STRENGTH[least] and (held_at is None or (not platform_only and held_at == asked_at))
        held = [Binding(role, held_at)]
        if granted:
            alone = decide(held, action, asked_at)
            assert not alone.allowed and action in alone.words, "one grant is not enough"
            for other in PLACES:
                if other not in (None, asked_at):
                    assert not decide([*held, Binding(AdminRole.payload_reader, other)], action, asked_at).allowed
            held.append(Binding(AdminRole.payload_reader, asked_at))
        verdict = decide(held, action, asked_at)
        assert verdict.allowed == allowed, (role, held_at, asked_at)
        assert action in verdict.words
        assert (role in verdict.words) or not allowed


@pytest.mark.parametrize("action", list(Action))
def test_without_a_binding_nothing_is_allowed(action: Action) -> None:
    assert not any(decide([], action, place).allowed for place in PLACES)
    with pytest.raises(Denied, match="none is held there"):
        require([], action, "ten_a")


def test_a_binding_elsewhere_adds_nothing() -> None:
    here, elsewhere = Binding(AdminRole.viewer, "ten_a"), Binding(AdminRole.owner, "ten_b")
    for action in Action:
        assert decide([here, elsewhere], action, "ten_a").allowed == decide([here], action, "ten_a").allowed


def test_nobody_grants_more_than_they_hold() -> None:
    for held, held_at, granted, place in itertools.product(AdminRole, PLACES, AdminRole, PLACES):
        allowed = STRENGTH[held] >= STRENGTH[granted] and held_at in (None, place)
        assert may_grant([Binding(held, held_at)], granted, place).allowed == allowed
    with pytest.raises(Denied, match="strongest held there is admin"):
        require_grant([Binding(AdminRole.admin, "ten_a")], AdminRole.owner, "ten_a")
