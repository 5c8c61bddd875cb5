"""What is kept and what is destroyed: how long contents stay, legal holds, erasure of a person in two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action, require
from interlock.control.services import keeping, looks
from interlock.control.services.base import Names
from interlock.errors import BadRequest, InterlockError
from interlock.storage import holds, tenants
from interlock.types.identity import DataClass

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.control.services.keeping import Extent


def page(visit: Visit, _: Sessions) -> Response:
    """Retention, holds, and for owners the first step of an erasure."""
    return _page(visit)


def _page(visit: Visit, error: InterlockError | None = None, extent: Extent | None = None) -> Response:
    api = visit.api
    tenant, names = chosen(visit, Action.ledger_read)
    tenant_id = looks.allowed_tenant(api.store, visit.who(), tenant, Action.ledger_read)
    with api.store.tenant(tenant_id) as conn:
        found = holds.every(conn, tenant_id)
    with api.store.platform() as conn:  # holds are also added by people of the platform
        stored, known = tenants.get(conn, tenant_id), Names(conn)
        met = {each for hold in found for each in (hold.subject, hold.added_by, hold.released_by or "")}
        people = {each: known.of(each) for each in met}
    reach = reach_of(tenant_id)
    return visit.page(
        "ledger_keeping.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        tenants=names,
        retention=stored.value.retention if stored is not None else None,
        classes=[each.name for each in DataClass],
        holds=sorted(found, key=lambda hold: (hold.released_at is not None, hold.added_at)),
        people=people,
        extent=extent,
        given={name: visit.form.get(name, "") for name in ("subject", "reason", "held", "held_reason", "typed")},
        may_hold=visit.may(Action.ledger_hold, reach),
        may_release=visit.may(Action.ledger_hold_release, reach),
        may_erase=visit.may(Action.ledger_erase, reach),
    )


def hold(visit: Visit, _: Sessions) -> Response:
    """Add a legal hold."""
    try:
        tenant, tenant_id = _allowed(visit, Action.ledger_hold)
        asked = visit.form.get("held", "").strip()
        reason = Reason(visit.form.get("held_reason", "").strip())
        keeping.hold(visit.api.store, visit.api.tools, visit.who(), tenant_id, asked, reason)
    except InterlockError as e:
        return _page(visit, e)
    whom = f"on {asked}" if asked else f"on everything of {tenant}"
    return visit.go(_here(tenant), said=f"A legal hold stands {whom}.")


def release(visit: Visit, _: Sessions) -> Response:
    """Release a legal hold."""
    try:
        tenant, tenant_id = _allowed(visit, Action.ledger_hold_release)
        reason = Reason(visit.form.get("reason", "").strip())
        keeping.release(visit.api.store, visit.api.tools, visit.who(), tenant_id, visit.form.get("hold", ""), reason)
    except InterlockError as e:
        return _page(visit, e)
    return visit.go(_here(tenant), said="The hold is released; it stays in the list.")


def ask_erase(visit: Visit, _: Sessions) -> Response:
    """The first step: what would be destroyed, and what forbids it. Nothing is changed; the question is recorded."""
    try:
        tenant_id = _allowed(visit, Action.ledger_erase)[1]
        extent = keeping.extent(visit.api.store, tenant_id, visit.form.get("subject", "").strip())
        api, actor = visit.api, visit.who()
        looks.note(api.store, api.tools, actor, tenant_id, "ledger.erase_ask", extent.subject, None, Reason(""))
    except InterlockError as e:
        return _page(visit, e)
    return _page(visit, None, extent)


def erase(visit: Visit, _: Sessions) -> Response:
    """The second step: the name typed again, and a reason."""
    subject, extent = visit.form.get("subject", "").strip(), None
    try:
        tenant, tenant_id = _allowed(visit, Action.ledger_erase)
        extent = keeping.extent(visit.api.store, tenant_id, subject)
        if visit.form.get("typed", "").strip() != subject:
            raise BadRequest(f"Type the name exactly as it is here: {subject}", param="typed")
        reason = Reason(visit.form.get("reason", "").strip())
        done = keeping.erase(visit.api.store, visit.api.tools, visit.who(), tenant_id, subject, reason)
    except InterlockError as e:
        return _page(visit, e, extent)
    until = done.gone_everywhere_at.strftime("%Y-%m-%d %H:%M UTC")
    said = (
        f"{done.contents} contents of {subject} are destroyed. The nodes' logs forget them until {until}, backups when"
        " they expire."
    )
    return visit.go(_here(tenant), said=said)


def _here(tenant: str) -> str:
    return f"/console/calls/keeping?tenant={quote(tenant, safe='')}"


def _allowed(visit: Visit, action: Action) -> tuple[str, str]:
    """The tenant's name and id. Raises NotFound, Denied."""
    tenant, _ = chosen(visit, Action.ledger_read)
    tenant_id = tenant_of(visit.api.store, visit.who(), tenant)
    require(visit.who().bindings, action, reach_of(tenant_id))
    return tenant, tenant_id


PAGES = (
    Page("GET", "/calls/keeping", page),
    Page("POST", "/calls/hold", hold),
    Page("POST", "/calls/release", release),
    Page("POST", "/calls/erase", ask_erase),
    Page("POST", "/calls/erase-now", erase),
)
