"""Templates of policies: the catalogue, and a form for each, made from the kinds of its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.control import comparing
from interlock.control.console.page import Page
from interlock.control.console.policy_choices import choices_of
from interlock.control.console.policy_compare import grouped
from interlock.control.console.policy_parts import (
    LABELS,
    TITLES,
    Base,
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
from interlock.control.lifecycle import spec_of, written
from interlock.control.permissions import Action
from interlock.errors import InterlockError, NotFound
from interlock.policy.schema import ACTION_WORDS, DATA_CLASSES, FIELD_ACTIONS
from interlock.policy.templates import TEMPLATES, Template

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

NAMES_MAX = 60
"""Boxes to tick in one list; further names are typed."""
PREVIEW_EXAMPLES = 500
PREVIEW_LINES = 5
LISTS = ("teams", "models", "sources", "regions", "features")


def catalogue(visit: Visit, _: Sessions) -> Response:
    """Every template and what it is for."""
    scope = scope_of(visit, Action.policy_draft)
    kinds = [(name, TITLES.get(name, name), template) for name, template in TEMPLATES.items()]
    return page(visit, "policy_templates.html", scope, templates=kinds)


def show(visit: Visit, _: Sessions) -> Response:
    """The form of a template, empty or with the parameters of a policy that there is."""
    scope = scope_of(visit, Action.policy_draft)
    with reading(visit, scope, Action.policy_draft) as tx:
        base = base_of(tx, scope)
    policy = base.get(visit.query.get("policy", ""))
    parameters = policy.parameters if policy is not None and policy.template == _name(visit) else {}
    return _form(visit, base.seen, policy.id if policy else "", parameters, policy.report_only if policy else False)


def preview(visit: Visit, _: Sessions) -> Response:
    """A piece of the form's page: the Cedar text, and what it would change."""
    scope = scope_of(visit, Action.policy_draft)
    with reading(visit, scope, Action.policy_draft) as tx:
        base = base_of(tx, scope)
    api = visit.api
    try:
        made = _made(visit, base)
        (policy,) = (p for p in made if p.id == visit.form.get("id", "").strip())
        matrix = comparing.matrix(api.store, api.tools, scope.tenant_id, made, PREVIEW_EXAMPLES)
    except InterlockError as error:
        return page(visit, "policy_preview.html", scope, policy=None, error=error)
    return page(
        visit,
        "policy_preview.html",
        scope,
        policy=shown(policy),
        matrix=matrix,
        groups=grouped(matrix.examples)[:PREVIEW_LINES],
        changes=differences(base.policies, made),
        error=None,
    )


def add(visit: Visit, _: Sessions) -> Response:
    """Into the draft, which is begun when there is none."""
    scope = scope_of(visit, Action.policy_draft)
    seen = visit.form.get("seen", "")

    def do() -> Response:
        with reading(visit, scope, Action.policy_draft) as tx:
            base = base_of(tx, scope)
        unseen(base, seen)
        made = map(spec_of, _made(visit, base))
        life_of(visit).draft(visit.who(), scope.tenant, made, reason_of(visit), seen=seen)
        return visit.go(scope.at("/draft"), said=f"{visit.form.get('id', '').strip()} is in the draft.")

    def again(error: InterlockError) -> Response:
        with reading(visit, scope, Action.policy_draft) as tx:
            now = base_of(tx, scope).seen
        marked = visit.form.get("report_only", "") == "1"
        return _form(visit, now, visit.form.get("old", ""), _parameters(visit), marked, error)

    return attempt(do, again)


def _made(visit: Visit, base: Base) -> Any:
    """The whole set with the policy that the form describes. Raises ConfigError, BadRequest."""
    spec = PolicySpec(
        id=visit.form.get("id", "").strip(),
        template=_name(visit),
        parameters=_parameters(visit),
        report_only=visit.form.get("report_only", "") == "1",
    )
    return written((*map(spec_of, only(base.policies, visit.form.get("old", ""))), spec))


def _name(visit: Visit) -> str:
    name = visit.path_params["template"]
    if name not in TEMPLATES:
        raise NotFound("There is no such template.")
    return name


def _parameters(visit: Visit) -> dict[str, Any]:
    """What was chosen and typed, as the template takes it; what was left empty is left out."""
    found: dict[str, Any] = {}
    for name, parameter in TEMPLATES[_name(visit)].parameters.items():
        if parameter.kind in LISTS:
            typed = visit.form.get(f"{name}_more", "").replace("\n", ",").split(",")
            value: Any = [v for v in (*visit.form.every(name), *(t.strip() for t in typed)) if v]
            if value == ["*"] and parameter.kind == "models":
                value = "*"
        else:
            value = visit.form.get(name, "").strip()
        if value:
            found[name] = value
    return found


def _form(
    visit: Visit,
    seen: str,
    old: str,
    parameters: dict[str, Any],
    report_only: bool,
    error: InterlockError | None = None,
) -> Response:
    scope = scope_of(visit, Action.policy_draft)
    name = _name(visit)
    template: Template = TEMPLATES[name]
    choices = choices_of(visit.api.store, scope.tenant_id)
    offered: dict[str, list[tuple[str, str]]] = {
        "team": [("*", "Everyone in the tenant"), *((t, t) for t in choices.teams)],
        "data_class": [(c, c.capitalize()) for c in DATA_CLASSES],
        "features": [(f, ACTION_WORDS[f].rsplit(" ", 1)[0]) for f in FIELD_ACTIONS],
        "teams": [(t, t) for t in choices.teams],
        "models": [("*", "Every model"), *((m, m) for m in choices.models)],
        "sources": [(s, s) for s in choices.sources],
        "regions": [(r, r) for r in choices.regions],
    }
    return page(
        visit,
        "policy_template.html",
        scope,
        error.status if error else 200,
        name=name,
        heading=TITLES.get(name, name),
        kind=template,
        labels=LABELS,
        offered={kind: pairs[:NAMES_MAX] for kind, pairs in offered.items()},
        values=parameters,
        lists=LISTS,
        old=old,
        id=visit.form.get("id", old),
        seen=seen,
        report_only=report_only,
        reason=visit.form.get("reason", ""),
        error=error,
    )


PAGES = (
    Page("GET", "/policies/templates", catalogue),
    Page("GET", "/policies/templates/{template}", show),
    Page("POST", "/policies/templates/{template}", add),
    Page("POST", "/policies/templates/{template}/preview", preview),
)
