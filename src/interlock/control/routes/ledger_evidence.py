"""What the ledger has of a document: its chunks, their calls and outputs, each with its proof. The look is recorded."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.permissions import Action
from interlock.control.routes.ledger import keys_of, look, tenant_for
from interlock.control.services import evidence
from interlock.control.services.base import Names
from interlock.control.services.keeping import id_of
from interlock.control.web import Body, Given, Json, Who, api_of, route


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names that callers gave. `subject`: whose document, name or id of a principal; "" for anybody's. `content`:
    what was asked and answered too."""

    document: str
    batch: str = ""
    subject: str = ""
    content: bool = False


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    summary = "From a document to its chunks, their calls and outputs"
    path = "/tenants/{tenant}/ledger/evidence"
    route(out, "POST", path, ask, summary, tag="ledger", body=Ask, answer=evidence.Evidence, reason=True)
    return out


def ask(request: Request, who: Who, body: Body) -> Response:
    """For whoever holds the role payload_reader: a document's name is a content, and to find it confirms it."""
    api = api_of(request)
    given = Given(request, body)
    asked = given.as_(Ask)
    evidence.check_names(asked.document, asked.batch, asked.subject)
    tenant_id = tenant_for(request, who, Action.ledger_content)
    # recorded first, and without the name, which is a content itself
    why = given.reason.text
    look(request, who, tenant_id, "ledger.evidence", "", {"content": asked.content}, reason_needed=True, reason=why)
    settings = api.tools.settings
    with api.store.tenant(tenant_id) as conn:
        subject = id_of(Names(conn).principal, tenant_id, asked.subject)
        names = (asked.document, asked.batch, subject)
        found = evidence.evidence(conn, tenant_id, names, keys_of(settings), settings, content=asked.content)
    return Json(found)
