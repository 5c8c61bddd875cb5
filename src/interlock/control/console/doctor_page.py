"""Doctor: what is wrong or weak in the installation, with a remedy each; looked for when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from interlock.control import diagnosis
from interlock.control.console.page import Page
from interlock.control.doctor.cluster import CHECKS
from interlock.control.permissions import Action, require
from interlock.control.services.base import Names
from interlock.storage import aliases

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.types.snapshot import Canary

ALIASES_MAX = 1000


class Taken(NamedTuple):
    """A canary that was taken back, of an alias of a tenant ("": of all)."""

    tenant: str
    alias: str
    canary: Canary


def page(visit: Visit, _: Sessions) -> Response:
    """Before anything is looked at: checks ask sources and identity providers, which takes a moment."""
    require(visit.who().bindings, Action.system_diagnose, None)
    return visit.page("doctor.html", facts=None, findings=(), taken=())


def run(visit: Visit, _: Sessions) -> Response:
    """Gather the facts and hold every check of `interlock doctor` that needs no other machine against them."""
    require(visit.who().bindings, Action.system_diagnose, None)
    facts = diagnosis.gather(visit.api)
    findings = [finding for check in CHECKS for finding in check(facts)]
    findings.sort(key=lambda finding: finding.level != "wrong")
    return visit.page("doctor.html", facts=facts, findings=findings, taken=_taken(visit))


def _taken(visit: Visit) -> list[Taken]:
    with visit.api.store.platform() as conn:
        names = Names(conn)
        found = [stored.value for stored in aliases.page(conn, limit=ALIASES_MAX)]
        return [
            Taken(names.of(each.tenant_id), each.name, each.canary)
            for each in found
            if each.canary is not None and each.canary.state == "failed"
        ]


PAGES = (
    Page("GET", "/doctor", page),
    Page("POST", "/doctor", run),
)
