"""Names that the policies of a tenant can speak of, for forms to offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interlock.storage import principals, sources, teams

if TYPE_CHECKING:
    from interlock.storage.pool import Store

PEOPLE_MAX = 1000
"""Names that are proposed while a caller is typed; others can be typed."""


class Choices(NamedTuple):
    """Names, in order. `sources`: the tenant's own and those that the platform lets it use; `models`, `regions`:
    theirs. `people`: callers of every kind, PEOPLE_MAX at most."""

    teams: list[str]
    models: list[str]
    sources: list[str]
    regions: list[str]
    people: list[str]


def choices_of(store: Store, tenant_id: str) -> Choices:
    """What is stored now of a tenant; of all of them for "", the platform's policies."""
    with store.platform() as conn:
        offered = [
            s
            for s in sources.everything(conn)
            if tenant_id in ("", s.tenant_id) or (not s.tenant_id and {tenant_id, "*"} & {*s.granted_to})
        ]
        every = teams.everything(conn)
        people = principals.page(conn, tenant_id=tenant_id or None, limit=PEOPLE_MAX)
    return Choices(
        sorted({t.name for t in every if tenant_id in ("", t.tenant_id)}),
        sorted({m.name for s in offered for m in s.models}),
        sorted(s.name for s in offered),
        sorted({s.labels.region for s in offered if s.labels.region}),
        sorted({p.value.name for p in people}),
    )
