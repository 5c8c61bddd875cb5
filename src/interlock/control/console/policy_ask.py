"""May X use Y, and why? The question and its answer in words, for administrators and developers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.control import explain
from interlock.control.console.page import Page
from interlock.control.console.policy_choices import choices_of
from interlock.control.console.policy_parts import page, scope_of
from interlock.control.identity import tenant_of
from interlock.control.permissions import Action
from interlock.errors import BadRequest, InterlockError
from interlock.policy.engine import OPERATIONS
from interlock.policy.schema import ACTION_WORDS, DATA_CLASSES, FIELD_ACTIONS

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

OFFERS_MAX = 20
"""Offers that are explained on one page."""


def ask(visit: Visit, _: Sessions) -> Response:
    """The form, and the answer once somebody is named."""
    scope = scope_of(visit, Action.explain)
    tenant_id = tenant_of(visit.api.store, visit.who(), scope.name)
    choices = choices_of(visit.api.store, tenant_id)
    answer: explain.Answer | None = None
    error: InterlockError | None = None
    if visit.query.get("principal", "").strip():
        try:
            answer = _answer(visit, tenant_id)
        except InterlockError as raised:
            error = raised
    return page(
        visit,
        "policy_ask.html",
        scope,
        error.status if error else 200,
        choices=choices,
        models=[("", "Any model"), *((m, m) for m in choices.models)],
        sources=[("", "Any source"), *((s, s) for s in choices.sources)],
        operations=OPERATIONS,
        classes=DATA_CLASSES,
        features=[(name, ACTION_WORDS[name].rsplit(" ", 1)[0]) for name in FIELD_ACTIONS],
        asked=visit.query,
        ticked=visit.query.every("feature"),
        answer=answer,
        most=OFFERS_MAX,
        error=error,
    )


def _answer(visit: Visit, tenant_id: str) -> explain.Answer:
    given = {name: visit.query.get(name, "").strip() for name in ("principal", "acting_for", "model", "source")}
    if visit.query.get("operation", "chat") not in OPERATIONS:
        raise BadRequest(f"the operation is one of {', '.join(OPERATIONS)}", param="operation")
    given |= {"operation": visit.query.get("operation", "chat"), "data_class": visit.query.get("data_class", "")}
    given["data_class"] = given["data_class"] or "internal"
    try:
        question = msgspec.convert({**given, "features": visit.query.every("feature")}, explain.Question)
    except msgspec.ValidationError as wrong:
        raise BadRequest(str(wrong)) from None
    with visit.api.store.platform() as conn:
        return explain.answer(conn, tenant_id, question, visit.api.tools.clock.wall_ns())


PAGES = (Page("GET", "/policies/ask", ask),)
