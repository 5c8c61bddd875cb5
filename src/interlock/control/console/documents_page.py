"""Documents: from a document that callers named to its chunks, their calls and outputs, each with its proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.control.apply import Reason
from interlock.control.console.call_page import ledger_keys, texts_of
from interlock.control.console.calls import line_of
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.permissions import Action
from interlock.control.services import evidence, looks
from interlock.control.services.base import Names
from interlock.control.services.keeping import id_of
from interlock.errors import InterlockError

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

FIELDS = ("document", "batch", "subject", "reason", "content")


def page(visit: Visit, _: Sessions) -> Response:
    """The form. Whoever opens it holds the second grant: that a document is known at all confirms its name."""
    tenant, names = chosen(visit, Action.ledger_content)
    return _page(visit, tenant, names)


def search(visit: Visit, _: Sessions) -> Response:
    """What the ledger has of a document; recorded before it is looked for, and without its name."""
    api, actor = visit.api, visit.who()
    tenant, names = chosen(visit, Action.ledger_content)
    tenant_id = looks.allowed_tenant(api.store, actor, tenant, Action.ledger_content)
    document, batch, asked = (visit.form.get(name, "").strip() for name in ("document", "batch", "subject"))
    content, reason = bool(visit.form.get("content")), Reason(visit.form.get("reason", "").strip())
    try:
        evidence.check_names(document, batch, asked)
        what: dict[str, object] = {"content": content}
        looks.note(api.store, api.tools, actor, tenant_id, "ledger.evidence", "", what, reason, reason_needed=True)
        settings = api.tools.settings
        with api.store.tenant(tenant_id) as conn:
            known = Names(conn)
            subject = id_of(known.principal, tenant_id, asked)
            wanted = (document, batch, subject)
            found = evidence.evidence(conn, tenant_id, wanted, ledger_keys(visit), settings, content=content)
            parts = [
                (
                    chunk,
                    [
                        (line_of(msgspec.json.decode(c.entries[0].leaf), known), c, texts_of(c.contents))
                        for c in chunk.calls
                    ],
                )
                for chunk in found.parts
            ]
            people = [known.of(each) for each in found.subjects]
    except InterlockError as e:
        return _page(visit, tenant, names, error=e)
    return _page(visit, tenant, names, found=found, parts=parts, people=people)


def _page(
    visit: Visit,
    tenant: str,
    names: list[str],
    *,
    error: InterlockError | None = None,
    found: evidence.Evidence | None = None,
    parts: object = (),
    people: object = (),
) -> Response:
    return visit.page(
        "ledger_documents.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        tenants=names,
        given={name: visit.form.get(name, "") for name in FIELDS},
        found=found,
        parts=parts,
        people=people,
    )


PAGES = (
    Page("GET", "/calls/documents", page),
    Page("POST", "/calls/documents", search),
)
