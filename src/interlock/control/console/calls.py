"""The ledger's calls, searched. Each look is recorded, as in the admin API."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.permissions import Action
from interlock.control.services import ledger, ledger_filter, looks
from interlock.control.services.base import Names
from interlock.errors import BadRequest
from interlock.storage import ledger_read

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

ROWS = 50
MARK_BYTES = 32
FILTERS = (
    *("since", "until", "kind", "team", "principal", "model", "alias", "class", "cost_center", "source", "state"),
    *("without", "document"),
)
KINDS = (("call", "calls"), ("refusal", "refusals"), ("", "everything"))
STATES = ("completed", ledger_read.NOT_COMPLETED, "failed", "refused", "cut", "disconnected", "interrupted")


class Line(NamedTuple):
    """One entry of the list. Instants in UTC; `us`: milliseconds would lose what fast answers take."""

    request: str
    kind: str
    at: datetime.datetime
    who: str
    team: str
    model: str
    source: str
    state: str
    code: str
    tokens: int
    nusd: int
    us: int
    alias: str


def search(visit: Visit, _: Sessions) -> Response:
    """Entries, newest first, by who, when, model, alias, label, source and state."""
    tenant, names = chosen(visit, Action.ledger_read)
    api, actor = visit.api, visit.who()
    tenant_id = looks.allowed_tenant(api.store, actor, tenant, Action.ledger_read)
    given = {name: visit.query.get(name, "").strip() for name in FILTERS}
    if "kind" not in visit.query:
        given["kind"] = "call"
    before = visit.query.get("before", "")
    with api.store.tenant(tenant_id) as conn:
        known = Names(conn)
        since_ns, until_ns = instant_of(given["since"], "since"), instant_of(given["until"], "until")
        words = {name: given[name] for name in ledger_filter.WORDS if name in given}
        wanted = ledger_filter.filter_of(known, tenant_id, words, since_ns, until_ns, _mark(given["document"]))
        found = ledger.search(conn, tenant_id, wanted, int(before) if before.isdigit() else 0, ROWS)
        leaves = [msgspec.json.decode(entry.leaf) for entry in found]
        known.learn_all(str(leaf.get("who", {}).get(name, "")) for leaf in leaves for name in ("principal", "team"))
        lines = [line_of(leaf, known) for leaf in leaves]
    asked = {**ledger_filter.asked(wanted), "found": len(found)}
    looks.note(api.store, api.tools, actor, tenant_id, "ledger.search", "", asked, Reason(""))
    older = ""
    if len(found) == ROWS:
        older = "?" + urlencode({"tenant": tenant, **given, "before": found[-1].position})
    return visit.page(
        "calls.html",
        tenant=tenant,
        tenants=names,
        given=given,
        lines=lines,
        older=older,
        kinds=KINDS,
        states=STATES,
        without=dict.fromkeys((*ledger_read.WITHOUT, *filter(None, (given["without"],)))),
    )


def _mark(text: str) -> bytes:
    """The keyed hash of a document's name, as an entry has it in hex. Raises BadRequest."""
    try:
        mark = bytes.fromhex(text)
    except ValueError:
        mark = b"?"
    if mark and len(mark) != MARK_BYTES:
        raise BadRequest("document is the keyed hash of a name, as an entry shows it", param="document")
    return mark


def instant_of(text: str, name: str) -> int:
    """Unix nanoseconds of what a field of type datetime-local holds, taken as UTC; 0 for "". Raises BadRequest."""
    if not text:
        return 0
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is an instant such as 2026-03-01T14:00", param=name) from None
    return max(0, int(at.replace(tzinfo=at.tzinfo or datetime.UTC).timestamp())) * 1_000_000_000


def line_of(leaf: dict[str, Any], names: Names) -> Line:
    """An entry's leaf as a line of the list."""
    who, what, where = leaf.get("who", {}), leaf.get("what", {}), leaf.get("where", {})
    tokens = leaf.get("tokens", {})
    asked = what.get("alias") or what.get("model") or (f"auto ({what['mode']})" if what.get("mode") else "")
    return Line(
        str(leaf.get("request", "")),
        str(leaf.get("kind", "")),
        datetime.datetime.fromtimestamp(leaf["at"] / 1e9, datetime.UTC),
        names.of(str(who.get("principal", ""))),
        names.of(str(who.get("team", ""))),
        str(where.get("model") or asked or what.get("object", "")),
        str(where.get("name", "")),
        str(leaf.get("result", {}).get("state", "")),
        str(leaf.get("result", {}).get("code", "")),
        int(tokens.get("prompt", 0)) + int(tokens.get("completion", 0)),
        int(leaf.get("cost", {}).get("nusd", 0)),
        int(leaf.get("times", {}).get("total_us", 0)),
        str(what.get("alias", "")),
    )


PAGES = (Page("GET", "/calls", search),)
