"""Which tenants a visitor may look into, and which one a page is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.control.identity import reach_of
from interlock.errors import NotFound
from interlock.storage import tenants

if TYPE_CHECKING:
    from interlock.control.console.visit import Visit
    from interlock.control.permissions import Action

TENANTS_MAX = 500


def visible(visit: Visit, action: Action) -> list[str]:
    """Names of the tenants in which the visitor may do something, the platform's own last."""
    with visit.api.store.platform() as conn:
        found = [t.value for t in tenants.page(conn, limit=TENANTS_MAX)]
    allowed = [t for t in found if visit.may(action, reach_of(t.id))]
    allowed.sort(key=lambda t: (t.id == tenants.PLATFORM_TENANT, t.name))
    return [t.name for t in allowed]


def chosen(visit: Visit, action: Action) -> tuple[str, list[str]]:
    """The tenant that is looked at (`?tenant=`, else the first), and those that could be. Raises NotFound."""
    names = visible(visit, action)
    wanted = visit.query.get("tenant", "") or visit.form.get("tenant", "")
    if not names or (wanted and wanted not in names):
        raise NotFound("There is no such tenant, or none that you may see.")
    return wanted or names[0], names
