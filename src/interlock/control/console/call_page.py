"""One call with its evidence: what happened when, why it went where it went, what it took, and the proof of it.

Each look is recorded, as in the admin API. What may quote the call (its texts, and what sources said of them) is shown
to whoever holds the second grant and gives a reason; so are the names that its caller gave to documents and batches.
"""

from __future__ import annotations

import datetime
import json
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from interlock.control import replay as past_calls
from interlock.control.apply import Reason
from interlock.control.console.alias_pages import path_of
from interlock.control.console.calls import line_of
from interlock.control.console.page import Page
from interlock.control.console.waterfall import Bar, bars, bars_of_leaf
from interlock.control.identity import reach_of
from interlock.control.permissions import Action
from interlock.control.services import evidence, ledger, looks
from interlock.control.services.base import Names
from interlock.control.web import Json
from interlock.errors import InterlockError
from interlock.ledger.sums import Sums
from interlock.ledger.vault import KeyWrapper
from interlock.routing.explain import Explanation, explain_call, reading_words
from interlock.routing.score import WEIGHTS, weights_of
from interlock.routing.slo import asked_words, verdict_words
from interlock.storage.ledger_keys import LedgerKeys, read_key
from interlock.types.record import AttemptEnd, Intent, Outcome, Refusal
from interlock.types.slo import Slo

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.types.decision import Candidate, RouteDecision
    from interlock.types.decision import Reason as Why
    from interlock.types.record import Record
    from interlock.types.source import Source

_CALLS = ("call", "refusal")
_MEASURED = (("ttft", "first byte"), ("latency", "end"), ("cost", "cost"))


class Decision(NamedTuple):
    """How it was decided: in words, as it was recorded, with what weighed how much (quality, cost, latency, energy, in
    millionths), load by name of the source, and the rules that permitted it. `route` None: it did not come so far."""

    told: Explanation | None
    route: RouteDecision | None
    weights: tuple[int, int, int, int]
    readings: list[tuple[str, str]]
    permits: tuple[Why, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """First to last."""
        return self.route.candidates if self.route is not None else ()

    @property
    def remarks(self) -> list[str]:
        """Of each candidate, what else is to be said of it."""
        route = self.route
        if route is None:
            return []
        excess = [
            "takes the excess of a saturated one that is preferred" if c.overflow else "" for c in route.candidates
        ]
        seen = [verdict_words(each) for each in route.foreseen] or [""] * len(excess)
        return ["; ".join(filter(None, pair)) for pair in zip(seen, excess, strict=True)]

    @property
    def rejected(self) -> tuple[Why, ...]:
        """Offers that were left out, and why."""
        return self.route.rejected if self.route is not None else ()


class Found(NamedTuple):
    """What the record of a call gives. `trouble`: why there is none. `words`: what was said of failures, which may
    quote the call."""

    bars: list[Bar]
    decision: Decision | None
    replayed: past_calls.Replayed | str
    words: list[tuple[str, str]]
    named: list[tuple[str, str]]
    whole: bool


class Said(NamedTuple):
    """A feedback on the call, by name."""

    at: datetime.datetime
    by: str
    given: ledger.FeedbackView


def _instant(at_ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.UTC)


def show(visit: Visit, _: Sessions) -> Response:
    """The call, without what was said."""
    return _show(visit)


def contents(visit: Visit, _: Sessions) -> Response:
    """With what was asked and answered: a second grant, and a reason, which is recorded before anything is shown."""
    return _show(visit, Reason(visit.form.get("reason", "").strip()))


def proof(visit: Visit, _: Sessions) -> Response:
    """Entries and proofs as a file, which `interlock ledger check` verifies without us."""
    api, actor = visit.api, visit.who()
    tenant, request = visit.path_params["tenant"], visit.path_params["request"]
    tenant_id = looks.allowed_tenant(api.store, actor, tenant, Action.ledger_read)
    with api.store.tenant(tenant_id) as conn:
        view = ledger.show(conn, tenant_id, request, None, api.tools.settings)
    looks.note(api.store, api.tools, actor, tenant_id, "ledger.show", request, {"file": True}, Reason(""))
    return Json(view, headers={"content-disposition": f'attachment; filename="{view.request}.json"'})


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
        leaves = [msgspec.json.decode(entry.leaf) for entry in view.entries]
        names = Names(conn)
        line = line_of(leaves[0], names)
        said = [Said(_instant(each.at), names.of(each.by), each) for each in view.feedback]
    found = _found(visit, tenant_id, request, keys, leaves[0])
    if content is None:
        looks.note(api.store, api.tools, actor, tenant_id, "ledger.show", request, None, Reason(""))
    return visit.page(
        "call.html",
        tenant=tenant,
        line=line,
        leaf=leaves[0],
        is_call=leaves[0]["kind"] in _CALLS,
        objectives=objectives_of(leaves[0]),
        took=_took(view, leaves[0]["kind"]),
        view=view,
        found=found,
        said=said,
        contents=texts_of(view.contents),
        may_read=visit.may(Action.ledger_content, reach_of(tenant_id)),
        evidence=json.dumps(leaves, indent=2, ensure_ascii=False),
        here=f"/console/calls/{quote(tenant, safe='')}/{quote(request, safe='')}",
        alias_path=path_of(tenant, str(leaves[0].get("what", {}).get("alias") or "-")),
    )


def objectives_of(leaf: dict[str, Any]) -> str:
    """What the call asked of where it goes, and what became of it, by its entry; "" when it asked for nothing."""
    told = leaf.get("slo")
    if not told:
        return ""
    words = asked_words(Slo(told["ttft_ms"], told["latency_ms"], told["cost_nusd"], told["strict"]))
    strict = ", strictly" if told["strict"] else ""
    predicted = told["predicted"]["verdict"] or "not"
    found = ", ".join(f"{what} {told[key]}" for key, what in _MEASURED if key in told)
    return f"{words}{strict}; predicted: {predicted}" + (f"; measured: {found}" if found else "")


def _took(view: ledger.CallView, kind: str) -> Sums:
    """Tokens, cost, energy and carbon, with what was measured later in place of the estimate."""
    return evidence.plus(Sums(), view.entries) if kind in _CALLS else Sums()


def _found(visit: Visit, tenant_id: str, request: str, keys: LedgerKeys, leaf: dict[str, Any]) -> Found:
    """What the record says; where it is gone, what the entry does."""
    api = visit.api
    if leaf["kind"] not in _CALLS:
        return Found([], None, "", [], [], False)
    try:
        with api.store.tenant(tenant_id) as conn:
            records = ledger.records_of(conn, tenant_id, request, keys, api.tools.settings)
    except InterlockError as error:
        return Found(bars_of_leaf(leaf), None, error.message, [], [], False)
    first = records[0]
    assert isinstance(first, (Intent, Refusal))  # noqa: S101 - the first of an entry's records
    sources: tuple[Source, ...] = ()
    replayed: past_calls.Replayed | str
    try:
        decidable = past_calls.decidable(first)
        with api.store.platform() as conn:
            then = past_calls.past(conn, first.snapshot_version, first.tenant_id)
        sources, replayed = then.sources, past_calls.replay(decidable, then)
    except InterlockError as error:
        replayed = error.message
    drawn = bars(records)
    named = [(name, str(getattr(first.work, name))) for name in ("batch", "document") if getattr(first.work, name, "")]
    return Found(drawn or bars_of_leaf(leaf), _decision(first, sources), replayed, _said(records), named, bool(drawn))


def told_of(visit: Visit, tenant_id: str, request: str) -> Explanation | None:
    """Why a call went where it went, in words; None where its record is gone."""
    api = visit.api
    try:
        with api.store.tenant(tenant_id) as conn:
            record = ledger.record_of(conn, tenant_id, request, ledger_keys(visit), api.tools.settings)
            record = past_calls.decidable(record)
        with api.store.platform() as conn:
            then = past_calls.past(conn, record.snapshot_version, record.tenant_id)
    except InterlockError:
        return None
    return _decision(record, then.sources).told


def _decision(record: Intent | Refusal, sources: tuple[Source, ...]) -> Decision:
    names = {source.id: source.name for source in sources}
    route = record.route
    told = explain_call(record, (), names) if isinstance(record, Intent) else None
    readings = [] if route is None else [(names.get(of, of), reading_words(reading)) for of, reading in route.readings]
    weights = WEIGHTS["balanced"]
    if record.features is not None and record.target is not None:
        weights = weights_of(record.features, record.target)
    return Decision(told, route, weights, readings, record.permits)


def _said(records: list[Record]) -> list[tuple[str, str]]:
    """What was said of failures, and of what: it may quote the call."""
    out = []
    for each in records:
        if isinstance(each, AttemptEnd) and each.words:
            out.append((f"attempt {each.number + 1}", each.words))
        elif isinstance(each, Outcome | Refusal) and each.words:
            out.append(("the call", each.words))
    return out


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
    Page("GET", "/calls/{tenant}/{request}", show),
    Page("POST", "/calls/{tenant}/{request}", contents),
    Page("GET", "/calls/{tenant}/{request}/proof", proof),
)
