"""Following a ledger: its entries in the order of the tree, for a reader that comes back for what is new."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.identity import Actor, tenant_of
from interlock.control.permissions import Action
from interlock.control.routes.ledger import NUMBER_MAX
from interlock.control.services.ledger_follow import FollowedEntry, Follows, begin
from interlock.control.services.looks import NO_REASON
from interlock.control.web import REASON_HEADER, REQUEST_ID_HEADER, Json, Who, allow, api_of, page_size, route
from interlock.errors import BadRequest
from interlock.storage import ledger_read
from interlock.storage.changes import Author


class FollowPage(msgspec.Struct, frozen=True):
    """Entries of the tree whose id is `tree`, lowest position first. `next`: pass it as `after` for what comes then.
    `size`: of the tree; a reader whose `next` is `size` - 1 is at its end."""

    tree: str
    items: list[FollowedEntry]
    next: int
    size: int


def router() -> APIRouter:
    """The endpoint, with its memory of whose looks are on record."""
    follows = Follows()

    def follow(request: Request, who: Who, after: int = -1, since_ns: int = 0, limit: int = 0) -> Response:
        """What comes after position `after` (-1: the first entry), only what is in the tree, at most `limit`
        (`page_size_max` when left out). With `since_ns` at the earliest from the last checkpoint before that instant
        on, so that everything admitted since is among it. Recorded when it begins, and then once an hour."""
        return _follow(request, who, follows, after, since_ns, limit)

    out = APIRouter()
    path = "/tenants/{tenant}/ledger/follow"
    route(out, "GET", path, follow, "Follow the ledger: entries in their order", tag="ledger", answer=FollowPage)
    return out


def _follow(request: Request, who: Actor, follows: Follows, after: int, since_ns: int, limit: int) -> Response:
    api = api_of(request)
    limit = page_size(request, limit or api.tools.settings.page_size_max)
    if not -1 <= after < NUMBER_MAX:
        raise BadRequest("after is a position, or -1 for everything", param="after")
    if not 0 <= since_ns < NUMBER_MAX:
        raise BadRequest("since_ns must be from 0 to 2^63", param="since_ns")
    tenant_id = tenant_of(api.store, who, request.path_params["tenant"])
    allow(who, Action.ledger_read, tenant_id)
    with api.store.tenant(tenant_id) as conn:
        if since_ns:
            after = max(after, begin(conn, tenant_id, since_ns, api.tools.settings))
        size, found = ledger_read.following(conn, tenant_id, after, limit)
    reason = request.headers.get(REASON_HEADER, "") or NO_REASON
    by = Author(who.principal_id, who.name, reason, api.tools.now(), request.headers.get(REQUEST_ID_HEADER, "")[:128])
    follows.note(api.store, tenant_id, after, size, by)  # before anything is shown
    items = [FollowedEntry(each.position, each.hash.hex(), msgspec.Raw(each.leaf)) for each in found]
    return Json(FollowPage(tenant_id, items, found[-1].position if found else after, size))
