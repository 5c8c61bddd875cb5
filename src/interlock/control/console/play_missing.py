"""Why somebody may call no model at all in the playground, and what is to be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from interlock.control import explain
from interlock.control.permissions import Action
from interlock.routing.catalog import is_granted
from interlock.storage import principals, sources, tenants
from interlock.storage.tenants import PLATFORM_TENANT

if TYPE_CHECKING:
    from interlock.control.console.visit import Visit


class Missing(msgspec.Struct, frozen=True):
    """One thing that is missing, in a sentence; `path` and `link`: where it is looked into, "" for who may not."""

    words: str
    path: str = ""
    link: str = ""


def missing(visit: Visit) -> list[Missing]:
    """What is missing for the visitor, whom the gateway lets call no model."""
    actor = visit.who()
    with visit.api.store.platform() as conn:
        tenant = tenants.get(conn, actor.tenant_id)
        stored = principals.get(conn, actor.principal_id)
        if tenant is None or stored is None:
            return []
        place, who = tenant.value.name, stored.value.name
        granted = [s for s in sources.everything(conn) if is_granted(s, actor.tenant_id)]
        question = explain.Question(who)
        told = explain.answer(conn, actor.tenant_id, question, visit.api.tools.clock.wall_ns())
    if not any(source.models for source in granted):
        words = f"No source that serves a model is granted to the tenant {place}."
        if visit.may(Action.source_write):
            return [Missing(words, "/console/sources", "Grant one")]
        return [Missing(words + " An administrator of the platform grants one.")]
    out = []
    if not told.permitted:
        reasons = list(dict.fromkeys(each.reason.words for each in told.explanations))
        path = "/console/policies/ask?" + urlencode({"tenant": place, "principal": who})
        words = f"No policy in force lets {who} of {place} call a model: {'; '.join(reasons[:2])}."
        out.append(Missing(words, path, "See which policies were asked") if _may_ask(visit) else Missing(words))
        out.append(_way(visit, place))
    return out


def _may_ask(visit: Visit) -> bool:
    return visit.may(Action.explain, visit.who().tenant_id)


def _way(visit: Visit, place: str) -> Missing:
    platform = visit.who().tenant_id == PLATFORM_TENANT
    scope = None if platform else visit.who().tenant_id
    words = "A policy that permits it is what is missing."
    if platform:
        words = (
            "This account is of the platform's own tenant, which administers and for which no policy permits models"
            " unless somebody writes one. To try what a tenant's people may do, sign in as one of them who has the role"
            " developer; or write a policy that permits this account."
        )
    if visit.may(Action.policy_draft, scope):
        return Missing(words, "/console/policies/templates?" + urlencode({"tenant": place}), "Draft a policy")
    return Missing(words + " An administrator of the tenant drafts one.")
