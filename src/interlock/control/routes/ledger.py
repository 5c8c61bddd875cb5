"""Looks at the ledger: search, one call, an export, the newest checkpoint. Each look is recorded among the changes."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from interlock.control import replay as past_calls
from interlock.control.identity import Actor
from interlock.control.permissions import Action
from interlock.control.services import audit, keeping, ledger, ledger_filter, looks
from interlock.control.services.base import Names
from interlock.control.web import (
    Body,
    Given,
    Json,
    Who,
    api_of,
    page_size,
    reason_of,
    route,
)
from interlock.errors import BadRequest, NotFound
from interlock.ledger.proof.note import VerifierKey
from interlock.ledger.vault import KeyWrapper
from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage.ledger_keys import LedgerKeys, read_key

NUMBER_MAX = 1 << 63


class EntryPage(msgspec.Struct, frozen=True):
    """Entries, newest first. `next`: pass it as `before` for older ones; null at the end."""

    items: list[ledger.EntryView]
    next: int | None


class Erase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose contents: the name of a principal, or the id of one that is in no table."""

    subject: str


class ErasedView(msgspec.Struct, frozen=True):
    """What was destroyed. `gone_everywhere_at`: until when nodes' logs may hold a copy (backups: longer)."""

    subject: str
    keys: int
    contents: int
    gone_everywhere_at: datetime.datetime


class CheckpointView(msgspec.Struct, frozen=True):
    """The newest checkpoint of a tenant's tree: a signed note, its coverage, and every key that ever signed the ledger,
    the one of now first.

    `complete_until`: every call admitted before this instant is in the tree.
    """

    note: str
    coverage: msgspec.Raw
    size: int
    complete_until: datetime.datetime
    keys: list[str]


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    base = "/tenants/{tenant}/ledger"
    route(out, "GET", f"{base}/entries", entries, "Search the ledger", tag="ledger", answer=EntryPage)
    summary = "One call: its entries, proofs and, by a second grant, contents"
    route(out, "GET", f"{base}/calls/{{request_id}}", call, summary, tag="ledger", answer=ledger.CallView)
    summary = "Decide a call again from its record alone, on the snapshot that it names"
    path = f"{base}/calls/{{request_id}}/replay"
    route(out, "GET", path, replay, summary, tag="ledger", answer=past_calls.Replayed)
    summary = "The newest checkpoint"
    route(out, "GET", f"{base}/checkpoint", checkpoint, summary, tag="ledger", answer=CheckpointView)
    summary = "Erase a person's contents, for good"
    route(out, "POST", f"{base}/erase", erase, summary, tag="ledger", body=Erase, answer=ErasedView, reason=True)
    summary = "Hold the list of changes against the ledger"
    route(out, "GET", f"{base}/changes-audit", changes_audit, summary, tag="ledger", answer=audit.AuditView)
    summary = "What an export folder is made of, a JSON array [kind, value] a line"
    route(out, "GET", f"{base}/export", export, summary, tag="ledger", reason=True)
    return out


def entries(
    request: Request,
    who: Who,
    since_ns: int = 0,
    until_ns: int = 0,
    kind: str = "",
    team: str = "",
    principal: str = "",
    subject: str = "",
    source: str = "",
    model: str = "",
    state: str = "",
    alias: str = "",
    request_class: Annotated[str, Query(alias="class")] = "",
    cost_center: str = "",
    without: str = "",
    before: int = 0,
    limit: int = 100,
) -> Response:
    """By time of admission, kind, team and principal (name or id), source, model, state, alias, request class and cost
    centre. `without`: which of alias, class, source and model a call has none of, with commas between."""
    api = api_of(request)
    limit = page_size(request, limit)
    for name, value in (("since_ns", since_ns), ("until_ns", until_ns), ("before", before)):
        if not 0 <= value < NUMBER_MAX:
            raise BadRequest(f"{name} must be from 0 to 2^63", param=name)
    words = (kind, team, principal, subject, source, model, alias, request_class, cost_center, state, without)
    given = dict(zip(ledger_filter.WORDS, words, strict=True))
    ledger_filter.check(given)
    tenant_id = tenant_for(request, who, Action.ledger_read)
    with api.store.tenant(tenant_id) as conn:
        wanted = ledger_filter.filter_of(Names(conn), tenant_id, given, since_ns, until_ns)
        found = ledger.search(conn, tenant_id, wanted, before, limit)
    look(request, who, tenant_id, "ledger.search", "", {**ledger_filter.asked(wanted), "found": len(found)})
    return Json(EntryPage(found, found[-1].position if len(found) == limit else None))


def call(request: Request, who: Who, content: bool = False) -> Response:
    """With `content` what was asked and answered too, for whoever holds the role payload_reader and gives a reason."""
    api = api_of(request)
    tenant_id = tenant_for(request, who, Action.ledger_content if content else Action.ledger_read)
    request_id = request.path_params["request_id"]
    if content:  # recorded first: what was shown can never be missing from the list of looks
        look(request, who, tenant_id, "ledger.content", request_id, None, reason_needed=True)
    keys = keys_of(api.tools.settings) if content else None
    with api.store.tenant(tenant_id) as conn:
        view = ledger.show(conn, tenant_id, request_id, keys, api.tools.settings)
    if not content:
        look(request, who, tenant_id, "ledger.show", request_id, None)
    return Json(view)


def replay(request: Request, who: Who) -> Response:
    """Policy and routing, as `POST /replay` does for a record that is sent; nothing of the record is shown."""
    api = api_of(request)
    tenant_id = tenant_for(request, who, Action.ledger_read)
    request_id = request.path_params["request_id"]
    with api.store.tenant(tenant_id) as conn:
        record = ledger.record_of(conn, tenant_id, request_id, keys_of(api.tools.settings), api.tools.settings)
    record = past_calls.decidable(record)
    with api.store.platform() as conn:
        then = past_calls.past(conn, record.snapshot_version, record.tenant_id)
    look(request, who, tenant_id, "ledger.replay", request_id, None)
    return Json(past_calls.replay(record, then))


def checkpoint(request: Request, who: Who) -> Response:
    """Keep one now and then: a later export must agree with it."""
    api = api_of(request)
    tenant_id = tenant_for(request, who, Action.ledger_read)
    with api.store.tenant(tenant_id) as conn:
        found = ledger_read.latest_checkpoint(conn, tenant_id)
        keys = api.keyring.public(conn)
    if found is None:
        raise NotFound("this tenant has no ledger yet", param="tenant")
    until = datetime.datetime.fromtimestamp(found.complete_ns / 1e9, datetime.UTC)
    view = CheckpointView(found.note, msgspec.Raw(found.coverage), found.size, until, keys)
    return Json(view)


def erase(request: Request, who: Who, body: Body) -> Response:
    """Keys are destroyed and contents deleted; entries and proofs stay, and one more entry says what was done."""
    api = api_of(request)
    given = Given(request, body)
    asked = given.as_(Erase).subject
    tenant_id = tenant_for(request, who, Action.ledger_erase)
    done = keeping.erase(api.store, api.tools, who, tenant_id, asked, given.reason)
    return Json(ErasedView(done.subject, done.keys, done.contents, done.gone_everywhere_at))


def changes_audit(request: Request, who: Who) -> Response:
    """Whether each row of the list of changes is as its entry says, and none is missing; of the tenant `platform`: the
    changes that concern the whole installation."""
    api = api_of(request)
    tenant_id = tenant_for(request, who, Action.ledger_read)
    with api.store.platform() as conn:
        key = VerifierKey.parse(api.keyring.public(conn)[0])
    found = audit.audit(api.store, api.tools, tenant_id, [key])
    look(request, who, tenant_id, "ledger.audit_changes", "", {"rows": found.rows, "problems": len(found.problems)})
    return Json(found)


def export(request: Request, who: Who, from_ns: int, to_ns: int, payloads: bool = False) -> Response:
    """Entries admitted in [from_ns, to_ns), with what proves them; `interlock ledger export` makes a folder of it.

    With `payloads` what was said too, for whoever holds the role payload_reader.
    """
    api = api_of(request)
    if not 0 <= from_ns < to_ns < NUMBER_MAX:
        raise BadRequest("from_ns must be before to_ns, both Unix nanoseconds", param="from_ns")
    tenant_id = tenant_for(request, who, Action.ledger_content if payloads else Action.ledger_read)
    with api.store.platform() as conn:
        keys = api.keyring.public(conn)
    opening = keys_of(api.tools.settings) if payloads else None
    made = ledger.Export(api.store, api.tools.settings, tenant_id, from_ns, to_ns, keys, opening)
    what: dict[str, object] = {"from_ns": from_ns, "to_ns": to_ns}
    if payloads:
        what["payloads"] = True
    look(request, who, tenant_id, "ledger.export", "", what, reason_needed=True)

    def lines() -> Iterator[bytes]:
        encode = msgspec.json.encode
        yield encode(["manifest", made.manifest]) + b"\n"
        for kind, value in made.lines():
            yield encode([kind, value]) + b"\n"

    return StreamingResponse(lines(), media_type="application/jsonl")


def keys_of(settings: Settings) -> LedgerKeys:
    """Subjects' keys for one look: none is made, none is kept in memory."""
    master = KeyWrapper(read_key(settings.ledger_key_path(), "the ledger's master key"), secrets.token_bytes)
    return LedgerKeys(master, secrets.token_bytes, settings.ledger_keys_max)


def tenant_for(request: Request, who: Actor, action: Action) -> str:
    """The id of the tenant in the path, if the caller may do this there. Raises Denied, NotFound."""
    return looks.allowed_tenant(api_of(request).store, who, request.path_params["tenant"], action)


def look(
    request: Request,
    who: Actor,
    tenant_id: str,
    action: str,
    object_id: str,
    after: dict[str, object] | None,
    *,
    reason_needed: bool = False,
    reason: str = "",
) -> None:
    """Record a look. `reason`: that of the body, if it has one. Raises BadRequest without one where it is needed."""
    api = api_of(request)
    told = reason_of(request)
    if reason:
        told = msgspec.structs.replace(told, text=reason)
    looks.note(api.store, api.tools, who, tenant_id, action, object_id, after, told, reason_needed=reason_needed)
