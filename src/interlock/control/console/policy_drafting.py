"""The draft of policies: writing on it, approval by a second person, putting it in force; an editor for Cedar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.control.apply import needs_second
from interlock.control.console.page import Page
from interlock.control.console.policy_parts import (
    TITLES,
    attempt,
    base_of,
    differences,
    life_of,
    only,
    page,
    reading,
    reason_of,
    scope_of,
    shown,
    unseen,
)
from interlock.control.documents import PolicySpec
from interlock.control.lifecycle import Lifecycle, spec_of, valid_approvals
from interlock.control.permissions import Action
from interlock.control.services.base import Names
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.policy.schema import validate
from interlock.policy.text import TEXT_BYTES_MAX, PolicyProblem
from interlock.storage.policy_drafts import Written

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.apply import Reason
    from interlock.control.console.policy_parts import Scope
    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

PROBLEMS_MAX = 20
NEW = 'permit (\n  principal in Team::"research",\n  action == Action::"infer",\n  resource\n);\n'
"""What the editor begins with: a text that is valid and can be changed."""


def show(visit: Visit, _: Sessions, error: InterlockError | None = None) -> Response:
    """The draft, what it changes, and who approved of it."""
    scope = scope_of(visit, Action.policy_history)
    with reading(visit, scope, Action.policy_history) as tx:
        base = base_of(tx, scope)
        second = needs_second(tx, scope.tenant_id)
    draft = base.draft
    names: list[str] = []
    if draft is not None:
        with visit.api.store.platform() as conn:
            known = Names(conn)
            names = [known.of(author) for author in draft.authors]
    return page(
        visit,
        "policy_draft.html",
        scope,
        error.status if error else 200,
        base=base,
        policies=[shown(p) for p in base.policies],
        changes=differences(base.in_force, base.policies),
        authors=names,
        mine=draft is not None and visit.who().principal_id in draft.authors,
        approvals=valid_approvals(draft) if draft is not None else (),
        second=second,
        titles=TITLES,
        typed=visit.form.get("reason", "") if error else "",
        error=error,
    )


def _step(
    action: Action, said: str, do: Callable[[Lifecycle, Visit, Scope, Reason], object], to: str = "/draft"
) -> Page:
    """A page that does one thing to the draft and leads to what is then there."""

    def handler(visit: Visit, sessions: Sessions) -> Response:
        scope = scope_of(visit, action)

        def step() -> Response:
            do(life_of(visit), visit, scope, reason_of(visit))
            return visit.go(scope.at(to), said=said)

        return attempt(step, lambda error: show(visit, sessions, error))

    return Page("POST", "", handler)


def _begin(life: Lifecycle, visit: Visit, scope: Scope, reason: Reason) -> None:
    number = visit.form.get("version", "")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise BadRequest("the number of a version is a whole number", param="version")
    life.draft(visit.who(), scope.tenant, None, reason, int(number), seen=visit.form.get("seen", ""))


def _start(life: Lifecycle, visit: Visit, scope: Scope, reason: Reason) -> None:
    """From what is in force; it is written again over what is in force now when it was outdated."""
    with reading(visit, scope, Action.policy_draft) as tx:
        base = base_of(tx, scope)
    life.draft(visit.who(), scope.tenant, map(spec_of, base.policies), reason, seen=visit.form.get("seen", ""))


def _take_out(life: Lifecycle, visit: Visit, scope: Scope, reason: Reason) -> None:
    seen = visit.form.get("seen", "")
    with reading(visit, scope, Action.policy_draft) as tx:
        base = base_of(tx, scope)
    unseen(base, seen)
    if base.get(visit.form.get("policy", "")) is None:
        raise NotFound("There is no such policy in the draft.")
    left = map(spec_of, only(base.policies, visit.form.get("policy", "")))
    life.draft(visit.who(), scope.tenant, left, reason, seen=seen)


def _digest(visit: Visit) -> str:
    return visit.form.get("seen", "")


def edit(visit: Visit, _: Sessions) -> Response:
    """The editor, with a policy of the draft or a new one."""
    scope = scope_of(visit, Action.policy_draft)
    with reading(visit, scope, Action.policy_draft) as tx:
        base = base_of(tx, scope)
    name = visit.query.get("policy", "")
    policy = base.get(name) if name else Written("", NEW)
    if policy is None:
        raise NotFound("There is no such policy.")
    if policy.template and visit.query.get("as") != "cedar":
        return visit.go(scope.at(f"/templates/{policy.template}", policy=policy.id))
    return _editor(visit, scope, policy, name, base.seen)


def save(visit: Visit, _: Sessions) -> Response:
    """The text into the draft, which is begun when there is none."""
    scope = scope_of(visit, Action.policy_draft)
    seen, old = visit.form.get("seen", ""), visit.form.get("old", "")
    spec = PolicySpec(
        id=visit.form.get("id", "").strip(),
        words=visit.form.get("words", "").strip(),
        cedar=_text(visit),
        report_only=visit.form.get("report_only", "") == "1",
    )

    def do() -> Response:
        with reading(visit, scope, Action.policy_draft) as tx:
            base = base_of(tx, scope)
        unseen(base, seen)
        specs = (*map(spec_of, only(base.policies, old)), spec)
        life_of(visit).draft(visit.who(), scope.tenant, specs, reason_of(visit), seen=seen)
        return visit.go(scope.at("/draft"), said=f"{spec.id} is in the draft.")

    def again(error: InterlockError) -> Response:
        with reading(visit, scope, Action.policy_draft) as tx:
            now = base_of(tx, scope).seen
        typed = Written(spec.id, spec.cedar, spec.words, report_only=spec.report_only)
        return _editor(visit, scope, typed, old, now, error)

    return attempt(do, again)


def check(visit: Visit, _: Sessions) -> Response:
    """A piece of the editor's page: what is wrong with the text, and where."""
    scope = scope_of(visit, Action.policy_draft)
    return page(visit, "policy_problems.html", scope, problems=_problems(_text(visit)))


def _text(visit: Visit) -> str:
    return visit.form.get("cedar", "").replace("\r\n", "\n")


def _problems(text: str) -> list[PolicyProblem]:
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
        return [PolicyProblem(1, 1, f"the text is larger than {TEXT_BYTES_MAX} bytes")]
    return validate(text)[:PROBLEMS_MAX]


def _editor(
    visit: Visit, scope: Scope, policy: Written, old: str, seen: str, error: InterlockError | None = None
) -> Response:
    return page(
        visit,
        "policy_edit.html",
        scope,
        error.status if error else 200,
        policy=policy,
        old=old,
        seen=seen,
        problems=_problems(policy.cedar),
        reason=visit.form.get("reason", ""),
        error=error,
    )


_STEPS = {
    "begin": _step(Action.policy_draft, "The draft holds the policies of that version.", _begin),
    "start": _step(Action.policy_draft, "The draft is based on what is in force now.", _start),
    "take-out": _step(Action.policy_draft, "The policy is no longer in the draft.", _take_out),
    "report": _step(
        Action.policy_draft,
        "The draft now reports beside what is in force; it decides nothing.",
        lambda life, visit, scope, reason: life.report_only(visit.who(), scope.tenant, True, reason),
    ),
    "report-end": _step(
        Action.policy_draft,
        "The draft reports no longer.",
        lambda life, visit, scope, reason: life.report_only(visit.who(), scope.tenant, False, reason),
    ),
    "approve": _step(
        Action.policy_approve,
        "You approved of the draft.",
        lambda life, visit, scope, reason: life.approve(visit.who(), scope.tenant, _digest(visit), reason),
    ),
    "activate": _step(
        Action.policy_activate,
        "The draft is in force. Gateways follow within a second.",
        lambda life, visit, scope, reason: life.activate(visit.who(), scope.tenant, _digest(visit), reason),
        "",
    ),
    "discard": _step(
        Action.policy_draft,
        "The draft was given up; nothing that is in force changed.",
        lambda life, visit, scope, reason: life.discard(visit.who(), scope.tenant, reason, _digest(visit)),
        "",
    ),
}

PAGES = (
    Page("GET", "/policies/draft", show),
    Page("GET", "/policies/edit", edit),
    Page("POST", "/policies/edit", save),
    Page("POST", "/policies/check", check),
    *(step._replace(path=f"/policies/draft/{name}") for name, step in _STEPS.items()),
)
