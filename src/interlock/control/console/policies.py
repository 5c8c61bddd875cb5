"""Policies: what is in force, every version that ever was, and whether a change needs a second person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.control.apply import needs_second
from interlock.control.console.page import Page
from interlock.control.console.policy_parts import (
    Scope,
    attempt,
    base_of,
    differences,
    life_of,
    page,
    reading,
    reason_of,
    scope_of,
    shown,
)
from interlock.control.permissions import Action
from interlock.control.plan import Ref
from interlock.control.services import tenants
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.storage import policy_versions

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.control.services.base import Tx
    from interlock.storage.policy_drafts import Written

VERSIONS = 30
"""Versions on one page of the history."""
BACK_MAX = 200
"""Versions that are looked through for the one that brought a policy."""


def overview(visit: Visit, _: Sessions, error: InterlockError | None = None) -> Response:
    """What is in force."""
    scope = scope_of(visit, Action.policy_read)
    told = visit.may(Action.policy_history, scope.reach)
    with reading(visit, scope, Action.policy_read) as tx:
        base = base_of(tx, scope)
        since = _since(tx, scope, base.in_force) if told else {}
        newest = policy_versions.page(tx.conn, scope.tenant_id, limit=1) if told else []
        second = needs_second(tx, scope.tenant_id)
    return page(
        visit,
        "policies.html",
        scope,
        error.status if error else 200,
        policies=[shown(p, since.get(p.id)) for p in base.in_force],
        newest=newest[0] if newest else None,
        draft=base.draft if told else None,
        second=second,
        always=visit.api.tools.settings.policy_approval != "tenant",
        typed=visit.form,
        error=error,
    )


def _since(tx: Tx, scope: Scope, in_force: tuple[Written, ...]) -> dict[str, policy_versions.Version]:
    """The version that brought each policy as it is now."""
    found: dict[str, policy_versions.Version] = {}
    going = {p.id: p for p in in_force}
    versions = policy_versions.page(tx.conn, scope.tenant_id, limit=BACK_MAX)
    for version in versions:
        there = {p.id: p for p in version.policies}
        going = {name: p for name, p in going.items() if there.get(name) == p}
        found |= dict.fromkeys(going, version)
    if len(versions) == BACK_MAX:
        for name in going:
            del found[name]  # it may be older than what was looked through
    return found


def rule(visit: Visit, sessions: Sessions) -> Response:
    """Whether a change of a tenant's policies needs a second person."""
    scope = scope_of(visit, Action.policy_rule)
    on = visit.form.get("second", "") == "1"

    def do() -> Response:
        if not scope.tenant:
            raise BadRequest("for the platform's policies the setting policy_approval says it")
        with reading(visit, scope, Action.policy_rule) as tx:
            stored = tenants.find(tx, scope.tenant)
        spec = msgspec.structs.replace(tenants.spec_of(stored.value), policy_approval=on)
        ref = Ref("tenant", scope.tenant, scope.tenant)
        visit.api.configurator.put(visit.who(), ref, spec, reason_of(visit), revision=stored.revision, new=False)
        who = "A change of these policies now needs a second person." if on else "One person may now change these."
        return visit.go(scope.at(""), said=who)

    return attempt(do, lambda error: overview(visit, sessions, error))


def history(visit: Visit, _: Sessions, error: InterlockError | None = None) -> Response:
    """Every version, newest first."""
    scope = scope_of(visit, Action.policy_history)
    before = _number(visit.query.get("before", "") or "0")
    with reading(visit, scope, Action.policy_history) as tx:
        found = policy_versions.page(tx.conn, scope.tenant_id, before=before, limit=VERSIONS + 1)
        second = needs_second(tx, scope.tenant_id)
        base = base_of(tx, scope)
    rows = [(v, found[n + 1] if n + 1 < len(found) else None) for n, v in enumerate(found[:VERSIONS])]
    told = [(v, differences(older.policies, v.policies) if older else None) for v, older in rows]
    return page(
        visit,
        "policy_history.html",
        scope,
        error.status if error else 200,
        versions=told,
        newest=base.version,
        seen=base.seen,
        draft=base.draft,
        older=found[VERSIONS - 1].number if len(found) > VERSIONS else 0,
        second=second,
        typed=visit.form,
        error=error,
    )


def compare(visit: Visit, _: Sessions) -> Response:
    """How two versions differ, or a version and the draft."""
    scope = scope_of(visit, Action.policy_history)
    first, last = _number(visit.query.get("from", "")), _number(visit.query.get("to", ""))
    with reading(visit, scope, Action.policy_history) as tx:
        old, new = _version(tx, scope, first), _version(tx, scope, last)
    changes = differences(old.policies, new.policies)
    return page(visit, "policy_diff.html", scope, old=old, new=new, changes=changes)


def roll_back(visit: Visit, sessions: Sessions) -> Response:
    """An earlier version in force again."""
    scope = scope_of(visit, Action.policy_activate)

    def do() -> Response:
        number = _number(visit.form.get("version", ""))
        done = life_of(visit).roll_back(visit.who(), scope.tenant, number, reason_of(visit))
        words = f"Version {number} is in force again, as version {done.version}. Gateways follow within a second."
        return visit.go(scope.at(""), said=words)

    return attempt(do, lambda error: history(visit, sessions, error))


def _version(tx: Tx, scope: Scope, number: int) -> policy_versions.Version:
    found = policy_versions.get(tx.conn, scope.tenant_id, number)
    if found is None:
        raise NotFound(f"There is no version {number} of these policies.")
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadRequest("the number of a version is a whole number")
    return int(text)


PAGES = (
    Page("GET", "/policies", overview),
    Page("POST", "/policies/rule", rule),
    Page("GET", "/policies/history", history),
    Page("GET", "/policies/diff", compare),
    Page("POST", "/policies/roll-back", roll_back),
)
