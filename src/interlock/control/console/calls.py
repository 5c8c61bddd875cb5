"""The ledger's calls: search, and one call with its evidence. Each look is recorded, as in the admin API."""

from __future__ import annotations

import datetime
import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from interlock.control import replay as past_calls
from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.identity import reach_of
from interlock.control.permissions import Action
from interlock.control.services import ledger, looks
from interlock.control.services.base import Names
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.ledger.vault import KeyWrapper
from interlock.routing.explain import Explanation, explain_call
from interlock.storage import ledger_read
from interlock.storage.ledger_keys import LedgerKeys, read_key
from interlock.types.record import Intent

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

ROWS = 50
FILTERS = ("since", "until", "kind", "team", "principal", "model", "source", "state")
KINDS = (("call", "calls"), ("refusal", "refusals"), ("", "everything"))
STATES = ("completed", "failed", "refused", "cut", "disconnected", "interrupted")


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


def search(visit: Visit, _: Sessions) -> Response:
    """Entries, newest first, by who, when, model, source and state."""
    tenant, names = chosen(visit, Action.ledger_read)
    api, actor = visit.api, visit.who()
    tenant_id = looks.allowed_tenant(api.store, actor, tenant, Action.ledger_read)
    given = {name: visit.query.get(name, "").strip() for name in FILTERS}
    if "kind" not in visit.query:
        given["kind"] = "call"
    before = visit.query.get("before", "")
    with api.store.tenant(tenant_id) as conn:
        known = Names(conn)
        wanted = _filter(given, known, tenant_id)
        found = ledger.search(conn, tenant_id, wanted, int(before) if before.isdigit() else 0, ROWS)
        lines = [line_of(msgspec.json.decode(entry.leaf), known) for entry in found]
    asked: dict[str, object] = {name: value for name, value in wanted._asdict().items() if value}
    looks.note(api.store, api.tools, actor, tenant_id, "ledger.search", "", {**asked, "found": len(found)}, Reason(""))
    older = ""
    if len(found) == ROWS:
        older = "?" + urlencode({"tenant": tenant, **given, "before": found[-1].position})
    return visit.page(
        "calls.html", tenant=tenant, tenants=names, given=given, lines=lines, older=older, kinds=KINDS, states=STATES
    )


def _filter(given: dict[str, str], names: Names, tenant_id: str) -> ledger_read.Filter:
    if any("\0" in value for value in given.values()):
        raise BadRequest("a filter holds no NUL character")
    return ledger_read.Filter(
        instant_of(given["since"], "since"),
        instant_of(given["until"], "until"),
        given["kind"],
        _id(names.team, tenant_id, given["team"]),
        _id(names.principal, tenant_id, given["principal"]),
        "",
        given["source"],
        given["model"],
        given["state"],
    )


def instant_of(text: str, name: str) -> int:
    """Unix nanoseconds of what a field of type datetime-local holds, taken as UTC; 0 for "". Raises BadRequest."""
    if not text:
        return 0
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is an instant such as 2026-03-01T14:00", param=name) from None
    return max(0, int(at.replace(tzinfo=at.tzinfo or datetime.UTC).timestamp())) * 1_000_000_000


def _id(find: Any, tenant_id: str, name: str) -> str:
    try:
        return str(find(tenant_id, name)) if name else ""
    except NotFound:
        return name


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
    )


def show(visit: Visit, _: Sessions) -> Response:
    """One call: what it was, why it went where it went, what it took, and the proof that it is in the ledger."""
    return _show(visit)


def contents(visit: Visit, _: Sessions) -> Response:
    """With what was asked and answered: a second grant, and a reason, which is recorded before anything is shown."""
    return _show(visit, Reason(visit.form.get("reason", "").strip()))


def _show(visit: Visit, content: Reason | None = None) -> Response:
    api, actor = visit.api, visit.who()
    settings = api.tools.settings
    tenant, request = visit.path_params["tenant"], visit.path_params["request"]
    action = Action.ledger_content if content is not None else Action.ledger_read
    tenant_id = looks.allowed_tenant(api.store, actor, tenant, action)
    if content is not None:
        words = "ledger.content"
        looks.note(api.store, api.tools, actor, tenant_id, words, request, None, content, reason_needed=True)
    keys = ledger_keys(visit)
    with api.store.tenant(tenant_id) as conn:
        view = ledger.show(conn, tenant_id, request, keys if content is not None else None, settings)
        names = Names(conn)
        leaves = [msgspec.json.decode(entry.leaf) for entry in view.entries]
        line = line_of(leaves[0], names)
        decision, replayed = decision_of(visit, tenant_id, request, keys)
    if content is None:
        looks.note(api.store, api.tools, actor, tenant_id, "ledger.show", request, None, Reason(""))
    return visit.page(
        "call.html",
        tenant=tenant,
        line=line,
        leaf=leaves[0],
        later=leaves[1:],
        view=view,
        decision=decision,
        replayed=replayed,
        contents=texts_of(view.contents),
        may_read=visit.may(Action.ledger_content, reach_of(tenant_id)),
        evidence=json.dumps(leaves, indent=2, ensure_ascii=False),
        here=f"/console/calls/{quote(tenant, safe='')}/{quote(request, safe='')}",
    )


def decision_of(
    visit: Visit, tenant_id: str, request: str, keys: LedgerKeys
) -> tuple[Explanation | None, past_calls.Replayed | str]:
    """The decision in words, and whether it comes out the same again; or why neither can be had."""
    api = visit.api
    try:
        with api.store.tenant(tenant_id) as conn:
            record = past_calls.decidable(ledger.record_of(conn, tenant_id, request, keys, api.tools.settings))
        with api.store.platform() as conn:
            then = past_calls.past(conn, record.snapshot_version)
    except InterlockError as error:
        return None, error.message
    names = {source.id: source.name for source in then.sources}
    told = explain_call(record, (), names) if isinstance(record, Intent) else None
    return told, past_calls.replay(record, then)


def ledger_keys(visit: Visit) -> LedgerKeys:
    """What opens the contents of subjects, for one look. Raises ConfigError without the ledger's master key."""
    settings = visit.api.tools.settings
    master = KeyWrapper(read_key(settings.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)
    return LedgerKeys(master, secrets.token_bytes, settings.ledger_keys_max)


def texts_of(contents: dict[str, Any] | None) -> list[tuple[str, str]] | None:
    """Contents by role as text; the record itself is shown as the decision."""
    if contents is None:
        return None
    return [(role, _text(value)) for role, value in contents.items() if role != "record"]


def _text(value: Any) -> str:
    if value is None:
        return "(erased, or removed by retention)"
    if isinstance(value, str):
        return value
    return json.dumps(value, indent=2, ensure_ascii=False)


PAGES = (
    Page("GET", "/calls", search),
    Page("GET", "/calls/{tenant}/{request}", show),
    Page("POST", "/calls/{tenant}/{request}", contents),
)
