"""The life of policies: drafts, approvals, versions, what-if, and what those would change that only report."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import comparing, trials, whatif
from interlock.control.documents import PolicySpec
from interlock.control.lifecycle import Activated, DraftView, Lifecycle, draft_of, view, written
from interlock.control.permissions import Action
from interlock.control.routes.resources import reading
from interlock.control.web import Body, Given, Json, Who, allow, api_of, page_size, reason_of, route
from interlock.errors import BadRequest, NotFound
from interlock.storage import policy_versions

EXAMPLES_MAX = 10_000
NUMBER_MAX = 1 << 63


class Drafted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole set of policies that is proposed; or, without it, the number of an earlier version."""

    policies: tuple[PolicySpec, ...] | None = None
    version: int = 0


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The digest of the draft that was looked at."""

    digest: str


class Reporting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the draft is evaluated beside what is in force."""

    on: bool = True


class Period(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked about: the draft, or `policies` as a whole set. Calls admitted in [since_ns, until_ns), 0: open.
    `examples`: at most so many changed decisions and calls are listed; the counts are of all."""

    policies: tuple[PolicySpec, ...] | None = None
    since_ns: int = 0
    until_ns: int = 0
    examples: int = 50


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body with at most a reason."""


class VersionView(msgspec.Struct, frozen=True):
    """A version without its texts: `policies` are their ids."""

    number: int
    origin: str
    of_number: int | None
    at: Any
    author: str
    reason: str
    approved_by: list[str]
    policies: list[str]


class VersionPage(msgspec.Struct, frozen=True):
    """Versions, newest first. `next`: pass it as `before` for older ones; null at the end."""

    items: list[VersionView]
    next: int | None


def router() -> APIRouter:
    """The endpoints, once for a tenant's policies and once for the platform's."""
    out = APIRouter()
    for base, words in (("/tenants/{tenant}", "a tenant's policies"), ("", "the platform's policies")):
        _endpoints(out, base, words)
    return out


def _endpoints(out: APIRouter, base: str, words: str) -> None:
    draft, of = f"{base}/policy-draft", f"of {words}"
    tag = "policies"
    route(out, "GET", draft, show_draft, f"The draft {of}", tag=tag, answer=DraftView)
    route(out, "PUT", draft, put_draft, f"Write the draft {of}", tag=tag, body=Drafted, answer=DraftView, reason=True)
    route(out, "DELETE", draft, drop_draft, f"Give the draft {of} up", tag=tag, reason=True)
    summary = f"Let the draft {of} report beside what is in force"
    path = f"{draft}/report-only"
    route(out, "POST", path, report_draft, summary, tag=tag, body=Reporting, answer=DraftView, reason=True)
    summary = f"Approve of the draft {of}, as a second person"
    path = f"{draft}/approve"
    route(out, "POST", path, approve_draft, summary, tag=tag, body=Digest, answer=DraftView, reason=True)
    summary = f"Put the draft {of} in force"
    path = f"{draft}/activate"
    route(out, "POST", path, activate_draft, summary, tag=tag, body=Digest, answer=Activated, reason=True)
    path = f"{base}/policy-versions"
    route(out, "GET", path, list_versions, f"List every version {of}", tag=tag, answer=VersionPage)
    path += "/{number}"
    route(out, "GET", path, show_version, f"Read a version {of}", tag=tag, answer=policy_versions.Version)
    path += "/rollback"
    summary = f"Put an earlier version {of} in force again"
    route(out, "POST", path, roll_back, summary, tag=tag, body=Nothing, answer=Activated, reason=True)
    summary = f"What a change {of} would do to every caller, and to logged calls"
    path = f"{base}/policy-what-if"
    route(out, "POST", path, what_if, summary, tag=tag, body=Period, answer=whatif.WhatIf)
    summary = f"What the draft, or the policies that only report, {of} would have changed"
    path = f"{base}/policy-report"
    route(out, "GET", path, report, summary, tag=tag, answer=trials.Report)


def _tenant(request: Request) -> str:
    return str(request.path_params.get("tenant", ""))


def _life(request: Request) -> Lifecycle:
    return Lifecycle(api_of(request).configurator)


def show_draft(request: Request, who: Who) -> Response:
    """With what activation would change, and the approvals that count."""
    tenant = _tenant(request)
    with reading(request, who, tenant, Action.policy_history) as (tx, tenant_id):
        return Json(view(tx, tenant, tenant_id))


def put_draft(request: Request, who: Who, body: Body) -> Response:
    """The whole set. Whoever changes it voids every approval that it had."""
    given = Given(request, body)
    asked = given.as_(Drafted)
    if (asked.policies is None) == (asked.version == 0):
        raise BadRequest("give either policies or version", param="policies")
    return Json(_life(request).draft(who, _tenant(request), asked.policies, given.reason, asked.version))


def drop_draft(request: Request, who: Who) -> Response:
    """Nothing that is in force changes."""
    _life(request).discard(who, _tenant(request), reason_of(request))
    return Json({"discarded": True})


def report_draft(request: Request, who: Who, body: Body) -> Response:
    """It decides nothing: what it would have decided is recorded with each call."""
    given = Given(request, body)
    return Json(_life(request).report_only(who, _tenant(request), given.as_(Reporting).on, given.reason))


def approve_draft(request: Request, who: Who, body: Body) -> Response:
    """By somebody who did not write on it; of exactly the text that has this digest."""
    given = Given(request, body)
    return Json(_life(request).approve(who, _tenant(request), given.as_(Digest).digest, given.reason))


def activate_draft(request: Request, who: Who, body: Body) -> Response:
    """All of it, in one change; gateways follow within a second."""
    given = Given(request, body)
    return Json(_life(request).activate(who, _tenant(request), given.as_(Digest).digest, given.reason))


def list_versions(request: Request, who: Who, before: int = 0, limit: int = 100) -> Response:
    """Who changed what when, and why."""
    limit = page_size(request, limit)
    if not 0 <= before < 1 << 31:
        raise BadRequest("before is the number of a version", param="before")
    with reading(request, who, _tenant(request), Action.policy_history) as (tx, tenant_id):
        found = policy_versions.page(tx.conn, tenant_id, before=before, limit=limit)
    items = [
        VersionView(
            v.number,
            v.origin,
            v.of_number,
            v.at,
            v.author,
            v.reason,
            [approval.by for approval in v.approvals],
            [policy.id for policy in v.policies],
        )
        for v in found
    ]
    return Json(VersionPage(items, found[-1].number if len(found) == limit else None))


def show_version(request: Request, who: Who) -> Response:
    """With every text, as it was in force."""
    number = _number(request)
    with reading(request, who, _tenant(request), Action.policy_history) as (tx, tenant_id):
        found = policy_versions.get(tx.conn, tenant_id, number)
    if found is None:
        raise NotFound(f"there is no version {number} of these policies", param="version")
    return Json(found)


def roll_back(request: Request, who: Who, body: Body) -> Response:
    """It is a new version, with the texts of the old one."""
    given = Given(request, body)
    given.as_(Nothing)
    return Json(_life(request).roll_back(who, _tenant(request), _number(request), given.reason))


def _number(request: Request) -> int:
    text = request.path_params["number"]
    if not text.isdecimal() or len(text) > 9:
        raise BadRequest("the number of a version is a whole number", param="number")
    return int(text)


def what_if(request: Request, who: Who, body: Body) -> Response:
    """Both sides are decided by the engine that gateways run. The look at the ledger is recorded."""
    asked = Given(request, body).as_(Period)
    checked_period(asked.since_ns, asked.until_ns)
    if not 0 <= asked.examples <= EXAMPLES_MAX:
        raise BadRequest(f"examples must be from 0 to {EXAMPLES_MAX}", param="examples")
    tenant = _tenant(request)
    with reading(request, who, tenant, Action.policy_history) as (tx, tenant_id):
        allow(who, Action.ledger_read, tenant_id or None)
        if asked.policies is not None:
            proposed = written(asked.policies)
        else:
            proposed = draft_of(tx.conn, tenant_id).policies
        before = policy_versions.in_force(tx.conn, tenant_id)
    asker = comparing.Asker(api_of(request).store, api_of(request).tools, who, reason_of(request))
    differing = comparing.differing(before, proposed)
    period = comparing.Period(asked.since_ns, asked.until_ns, asked.examples)
    return Json(comparing.what_if(asker, tenant_id, proposed, differing, period))


def report(request: Request, who: Who, since_ns: int = 0, until_ns: int = 0, examples: int = 50) -> Response:
    """From what was recorded with each call while it was made; the look is recorded."""
    api = api_of(request)
    checked_period(since_ns, until_ns)
    if not 0 <= examples <= EXAMPLES_MAX:
        raise BadRequest(f"examples must be from 0 to {EXAMPLES_MAX}", param="examples")
    with reading(request, who, _tenant(request), Action.policy_history) as (_, tenant_id):
        allow(who, Action.ledger_read, tenant_id or None)
    asker = comparing.Asker(api.store, api.tools, who, reason_of(request))
    return Json(comparing.report(asker, tenant_id, comparing.Period(since_ns, until_ns, examples)))


def checked_period(since_ns: int, until_ns: int) -> None:
    """Raise BadRequest for what is no period."""
    for name, value in (("since_ns", since_ns), ("until_ns", until_ns)):
        if not 0 <= value < NUMBER_MAX:
            raise BadRequest(f"{name} must be from 0 to 2^63", param=name)
