"""Live: what runs now, where, why there, what it costs and what is wrong; each number leads to its records."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from starlette.concurrency import run_in_threadpool

from interlock.control.console.page import Page
from interlock.control.console.places import visible
from interlock.control.console.stream import BEAT, EventStream
from interlock.control.live.hub import Event, Hub, Subscriber
from interlock.control.live.quality import KINDS
from interlock.control.live.view import BY, FILTERS, ORDERS, Row, Scope, View
from interlock.control.live.window import SHADOW
from interlock.control.permissions import Action
from interlock.control.services.live import scope_of
from interlock.errors import InterlockError, Unavailable
from interlock.storage.ledger_read import NOT_COMPLETED, WITHOUT

if TYPE_CHECKING:
    from jinja2 import Environment
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

ALL = "*"
"""What `?tenant=` is of somebody who looks at all tenants."""
BEAT_S = 10.0
CHECK_S = 30.0
"""How often it is made sure that the session, and what it may see, are still what they were."""
TITLES = {
    "source": "source",
    "model": "model",
    "team": "team",
    "cost_center": "cost centre",
    "principal": "caller",
    "tenant": "tenant",
}
SECTIONS = ("note", "tiles", "running", "sources", "table", "quality", "calls")
LEDGER_FIELDS = ("source", "model", "team", "principal")
"""What the Ledger's search can be narrowed to."""


class Look(NamedTuple):
    """What a visitor looks at: `tenant` a name or `ALL`, and the names that it could be."""

    scope: Scope
    tenant: str
    tenants: list[str]

    def path(self, page: str = "/console/", **changed: str) -> str:
        """This look, or one that differs, as an address."""
        scope = self.scope
        query = {"tenant": self.tenant, "by": scope.by}
        if scope.order != ORDERS[0]:
            query["order"] = scope.order
        if scope.field and not changed.keys() & set(FILTERS):
            query[scope.field] = scope.value
        return page + "?" + urlencode(query | changed)


def page(visit: Visit, _: Sessions) -> Response:
    """The page as it is now; its stream brings what comes. Whoever may see no usage is led to Health."""
    if not visit.may_somewhere(Action.usage_read):
        return visit.go("/console/health")
    look, hub = _look(visit), _hub(visit)
    view = hub.feed.view(look.scope)
    _record(visit, hub, view.looked_at)
    columns = [(name, TITLES[name]) for name in _columns(look.scope)]
    return visit.page(
        "live.html",
        look=look,
        columns=columns,
        titles=TITLES,
        all=ALL,
        stream=look.path("/console/live/stream"),
        points=msgspec.to_builtins(view.points),
        **_given(look.scope, view),
        without=look._replace(scope=look.scope._replace(field="", value="")).path(),
    )


async def stream(visit: Visit, sessions: Sessions) -> Response:
    """Server-sent events: sections that changed, and new points of the charts, once a second. Refused when too many
    are open."""
    look = await run_in_threadpool(_look, visit)
    hub = _hub(visit)
    who = visit.who()
    templates = visit.templates
    subscriber = hub.join(look.scope, who.principal_id or who.name, lambda s, view: render(templates, s, view))
    return EventStream(_events(visit, sessions, hub, subscriber), lambda: hub.leave(subscriber))


async def _events(visit: Visit, sessions: Sessions, hub: Hub, subscriber: Subscriber) -> AsyncIterator[bytes]:
    event: Event | None = await run_in_threadpool(hub.whole, subscriber)
    now_s = subscriber.loop.time
    checked_s = now_s()
    while True:
        if event is None:
            yield BEAT
        else:
            if hub.watching.unrecorded(visit.api.tools, visit.who(), event.tenants):
                await run_in_threadpool(_record, visit, hub, set(event.tenants))
            yield event.data
        event = await subscriber.get(min(BEAT_S, max(0.1, checked_s + CHECK_S - now_s())))
        if subscriber.lost:
            yield _over("again", "The stream ended; the page connects again.")
            return
        if now_s() - checked_s >= CHECK_S:
            checked_s = now_s()
            ended = await run_in_threadpool(_ended, visit, sessions, subscriber.scope)
            if ended is not None:
                yield ended
                return


def _ended(visit: Visit, sessions: Sessions, scope: Scope) -> bytes | None:
    """The stream's last event, when its session or what it may see is no longer what it was."""
    try:
        visit.session, visit.actor = sessions.find(visit.token, use=False)
        if _look(visit).scope == scope:
            return None
    except InterlockError as e:
        if e.status >= 500:
            return None  # the database is away: nobody knows that anything changed
        return _over("gone", "This session has ended, or may see this no longer. Sign in again.")
    return _over("gone", "What you may see has changed. Load the page again.")


def _over(kind: str, words: str) -> bytes:
    return b"event: over\ndata: " + msgspec.json.encode({"kind": kind, "words": words}) + b"\n\n"


def _hub(visit: Visit) -> Hub:
    if visit.api.live is None:
        raise Unavailable("this control process has no live view")
    return visit.api.live


def _record(visit: Visit, hub: Hub, tenants: set[str]) -> None:
    hub.watching.note(visit.api.store, visit.api.tools, visit.who(), sorted(tenants))


def _look(visit: Visit) -> Look:
    """What `?tenant=`, `?by=` and a filter ask for. Raises NotFound, Denied, BadRequest."""
    names = visible(visit, Action.usage_read)
    everything = visit.may(Action.usage_read)
    tenant = visit.query.get("tenant", "") or (ALL if everything or not names else names[0])
    field = next((name for name in FILTERS if visit.query.get(name)), "")
    wanted = visit.query.get("by", "")
    by = wanted or "source"
    if tenant == ALL and field and by in ("source", "model"):
        by = "tenant"
    name = "" if tenant == ALL else tenant
    scope = scope_of(visit.api.store, visit.who(), name, by, field, visit.query.get(field, "") if field else "",
                     visit.query.get("order") or ORDERS[0])  # fmt: skip
    return Look(scope, tenant, ([ALL] if everything else []) + names)


def _columns(scope: Scope) -> list[str]:
    """What the table can be by: over all tenants, what is narrowed already only by what tells tenants apart."""
    if scope.tenant_id:
        return [name for name in BY if name != "tenant"]
    return [name for name in BY if not scope.field or name not in ("source", "model")]


def render(templates: Environment, scope: Scope, view: View) -> dict[str, str]:
    """HTML of each section, the same for whoever sees this scope."""
    given = _given(scope, view)
    return {name: templates.get_template(f"live_{name}.html").render(given) for name in SECTIONS}


def _given(scope: Scope, view: View) -> dict[str, Any]:
    """What the sections' templates work with."""
    look = Look(scope, view.tenant or ALL, [])
    since = (view.at - datetime.timedelta(seconds=view.window_s)).strftime("%Y-%m-%dT%H:%M")

    def records(tenant: str, **more: str) -> str:
        """The Ledger's search for the calls of these figures."""
        narrowed = {scope.field: scope.value} if scope.field in LEDGER_FIELDS else {}
        return "/console/calls?" + urlencode({"tenant": tenant, "since": since, **narrowed, **more})

    def row_path(row: Row, **more: str) -> str:
        """Where a line's numbers lead: to its records, or, where those are several searches, to a closer look."""
        tenant = row.tenant or view.tenant
        if scope.by == "tenant":
            return records(tenant, **more)
        if scope.by == "cost_center" and row.name and row.name != SHADOW:
            return Look(scope, tenant, []).path(by="team", cost_center=row.name)
        if not tenant:
            return look.path(by="tenant", **({scope.by: row.name} if row.name else {}))
        named = scope.by in LEDGER_FIELDS and row.name not in ("", SHADOW)
        none = not row.name and scope.by in WITHOUT
        narrowed = {scope.by: row.name} if named else {"without": scope.by} if none else {}
        return records(tenant, **narrowed, **more)

    def source_path(name: str) -> str:
        return look.path(by="model" if view.tenant else "tenant", source=name)

    return {
        "view": view,
        "scope": scope,
        "title": TITLES[scope.by],
        "records": records,
        "row_path": row_path,
        "source_path": source_path,
        "not_completed": NOT_COMPLETED,
        "kinds": [kind for kind in KINDS if any(row.get(kind.name) is not None for row in view.quality)],
        "orders": [(each, look.path(order=each), each == scope.order) for each in ORDERS],
    }


PAGES = (Page("GET", "/", page), Page("GET", "/live/stream", stream))
