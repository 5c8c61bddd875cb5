"""What the pages about policies share: whose policies, how a policy is shown, how two sets of them differ."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from interlock.control.apply import Reason
from interlock.control.comparing import differing
from interlock.control.console.places import chosen
from interlock.control.identity import tenant_of
from interlock.control.lifecycle import Lifecycle
from interlock.control.permissions import Action
from interlock.control.reading import reading_at
from interlock.errors import BadRequest, Conflict, InterlockError
from interlock.policy.templates import TEMPLATES
from interlock.policy.text import pieces
from interlock.storage import policy_drafts, policy_versions
from interlock.storage.policy_drafts import Draft, Written, digest_of
from interlock.storage.tenants import PLATFORM_TENANT

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.visit import Visit
    from interlock.control.services.base import Tx

LABELS = {
    "team": "Team",
    "models": "Models",
    "features": "Also allowed to",
    "data_class": "Lowest data class that must stay",
    "teams": "Teams it holds for",
    "regions": "Allowed regions",
    "usd": "Highest cost of one call, in US dollars",
    "from": "Begins (UTC)",
    "to": "Ends (UTC)",
    "weekly": "Or every week (UTC)",
    "sources": "Sources",
}
"""What people call the parameters of templates."""
TITLES = {
    "team-may-use-models": "A team may use models",
    "data-class-stays-on-prem": "Sensitive data stays on the premises",
    "region-stays-in-region": "Calls stay in regions",
    "cloud-only-for-public-data": "Off-premises sources get public data only",
    "agents-need-a-delegator": "Agents act for somebody",
    "cost-ceiling-per-call": "A ceiling for the cost of a call",
    "maintenance-window": "Maintenance window",
}
"""What people call the templates."""


class Scope(NamedTuple):
    """Whose policies a page is about. `name`: as the tenant is called; `tenant`: as services want it, "" for the
    platform's own policies, which hold in every tenant; `tenant_id` likewise. `names`: what else could be looked at."""

    name: str
    tenant: str
    tenant_id: str
    names: list[str]

    @property
    def reach(self) -> str | None:
        """Where a permission is needed: None is the platform."""
        return self.tenant_id or None

    def at(self, path: str, **query: str | int) -> str:
        """The address of one of these pages."""
        return f"/console/policies{path}?{urlencode({'tenant': self.name, **query})}"


class Shown(NamedTuple):
    """A policy for people. `parameters`: (label, value) of one that comes from a template. `since`: the version that
    brought this text; None when that is not known, or not for the visitor."""

    policy: Written
    title: str
    parameters: list[tuple[str, str]]
    pieces: list[tuple[str, str]]
    since: policy_versions.Version | None = None


class Difference(NamedTuple):
    """How one policy differs. `how`: "create", "update" or "delete". `lines`: (sign, text) with "+", "-" or " ";
    `words`: what it says before and after."""

    id: str
    how: str
    words: tuple[str, str]
    decides: tuple[bool, bool]
    lines: list[tuple[str, str]]


class Base(NamedTuple):
    """What an edit starts from: the draft's policies, or those in force. `seen`: what the page carries so that nobody
    writes over another's work; `version`: the one in force. `outdated`: the draft was made from an earlier one."""

    policies: tuple[Written, ...]
    in_force: tuple[Written, ...]
    seen: str
    draft: Draft | None
    version: int

    @property
    def outdated(self) -> bool:
        """Whether the policies in force have changed since the draft was made."""
        return self.draft is not None and self.draft.base != self.version

    def get(self, policy_id: str) -> Written | None:
        """The policy of that id."""
        return next((p for p in self.policies if p.id == policy_id), None)


def scope_of(visit: Visit, action: Action) -> Scope:
    """The tenant that is asked for, where the visitor may do `action`. Raises NotFound."""
    if any("\0" in value for value in (*visit.form.values(), *visit.query.values())):
        raise BadRequest("a field holds no NUL character")
    name, names = chosen(visit, action)
    tenant_id = tenant_of(visit.api.store, visit.who(), name)
    whole = tenant_id == PLATFORM_TENANT
    return Scope(name, "" if whole else name, "" if whole else tenant_id, names)


@contextmanager
def reading(visit: Visit, scope: Scope, action: Action) -> Iterator[Tx]:
    """A transaction for looking at these policies. Raises Denied."""
    api = visit.api
    with reading_at(api.store, api.tools, visit.who(), scope.tenant, action) as (tx, _):
        yield tx


def base_of(tx: Tx, scope: Scope) -> Base:
    """The draft, or what is in force."""
    in_force = policy_versions.in_force(tx.conn, scope.tenant_id)
    version = policy_versions.newest(tx.conn, scope.tenant_id)
    found = policy_drafts.of(tx.conn, scope.tenant_id)
    if found is None:
        return Base(in_force, in_force, digest_of(scope.tenant_id, version, in_force), None, version)
    return Base(found.value.policies, in_force, found.value.digest, found.value, version)


def unseen(base: Base, seen: str) -> None:
    """Raise Conflict unless `seen` is what is there now, and may be written on."""
    if seen != base.seen:
        raise Conflict(
            "Somebody else changed these policies since you opened this page. What you typed is still below: look at"
            " the draft as it is now, then save again.",
            code="draft_changed",
        )
    if base.outdated:
        raise Conflict(
            f"The policies in force changed after the draft was begun: open the draft and base it on version"
            f" {base.version} first.",
            code="draft_outdated",
        )


def shown(policy: Written, since: policy_versions.Version | None = None) -> Shown:
    """A policy as people read it."""
    parameters = [(LABELS.get(name, name), _value(value)) for name, value in policy.parameters.items()]
    title = TITLES.get(policy.template, "") if policy.template in TEMPLATES else ""
    return Shown(policy, title, parameters, pieces(policy.cedar), since)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "every one" if value == "*" else str(value)


def differences(before: Sequence[Written], after: Sequence[Written]) -> list[Difference]:
    """Every policy that two sets do not have in common, with both texts line by line."""
    old, new = ({p.id: p for p in policies} for policies in (before, after))
    nothing = Written("", "")
    found = []
    for name, how in differing(before, after):
        was, becomes = old.get(name, nothing), new.get(name, nothing)
        lines = [
            (line[0], line[2:])
            for line in difflib.ndiff(was.cedar.splitlines(), becomes.cedar.splitlines())
            if line[0] != "?"
        ]
        decides = (not was.report_only, not becomes.report_only)
        found.append(Difference(name, how, (was.words, becomes.words), decides, lines))
    return found


def reason_of(visit: Visit) -> Reason:
    """The reason that was typed."""
    return Reason(visit.form.get("reason", "").strip())


def life_of(visit: Visit) -> Lifecycle:
    """What is done with drafts and versions."""
    return Lifecycle(visit.api.configurator)


def attempt(do: Callable[[], Response], again: Callable[[InterlockError], Response]) -> Response:
    """Do what was asked; when that is refused, the page again, with the reason and what was typed."""
    try:
        return do()
    except InterlockError as error:
        return again(error)


def page(visit: Visit, template: str, scope: Scope, status: int = 200, **values: object) -> Response:
    """One of these pages, with what all of them show."""
    reach = scope.reach
    may = {action.name: visit.may(action, reach) for action in _ACTIONS}
    return visit.page(template, status, scope=scope, may=may, **values)


def only(policies: Iterable[Written], without: str) -> list[Written]:
    """The policies but for one."""
    return [p for p in policies if p.id != without]


_ACTIONS = (
    Action.policy_read,
    Action.policy_history,
    Action.policy_draft,
    Action.policy_approve,
    Action.policy_activate,
    Action.policy_rule,
    Action.ledger_read,
    Action.explain,
)
