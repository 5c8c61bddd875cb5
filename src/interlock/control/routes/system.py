"""Who am I, what was changed, what runs where, whole documents, and explanations."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import diagnosis, explain
from interlock.control import replay as past_calls
from interlock.control.apply import Applied
from interlock.control.documents import Document, lean
from interlock.control.parse import dump
from interlock.control.permissions import RULES, Action, decide
from interlock.control.plan import Plan
from interlock.control.routes.resources import reading
from interlock.control.services.base import Names
from interlock.control.web import Body, Given, Json, Who, allow, api_of, page_size, route
from interlock.errors import BadRequest
from interlock.storage import changes, nodes, snapshots

_FILES_MAX = 100


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One configuration file: its name, used in errors, and its text (YAML or JSON)."""

    name: str
    text: str


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration files whose sections are joined in this order. docs/configuration.md describes them."""

    files: tuple[File, ...]

    def texts(self) -> list[tuple[str, str]]:
        """As the configurator takes them. Raises BadRequest when there are none, or too many."""
        if not 1 <= len(self.files) <= _FILES_MAX:
            raise BadRequest(f"give 1 to {_FILES_MAX} files", param="files")
        return [(file.name, file.text) for file in self.files]


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Intent or Refusal as the record log has it (msgpack), in base64. Its payloads may be left out."""

    record: bytes


class Whoami(msgspec.Struct, frozen=True):
    """The administrator behind the key, its roles, and what they allow (action: explanation) where it was asked."""

    principal: str
    tenant: str
    roles: list[dict[str, Any]]
    may: dict[str, str]


class ChangePage(msgspec.Struct, frozen=True):
    """Changes, newest first. `next`: pass it as `before` for older ones; null at the end."""

    items: list[changes.Change]
    next: int | None


class NodeView(msgspec.Struct, frozen=True):
    """A gateway node. `behind`: how many versions the oldest of its workers is behind the newest snapshot."""

    name: str
    workers: int
    snapshot_version: int
    behind: int
    seen_at: datetime.datetime
    seen_s_ago: float
    address: str
    version: str


class SnapshotView(msgspec.Struct, frozen=True):
    """The newest snapshot, the compiler's trouble if it has any, and the nodes that run on it."""

    version: int
    root: str
    compiled_at: datetime.datetime | None
    failure: str
    nodes: list[NodeView]


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    route(out, "GET", "/whoami", whoami, "Who am I, and what may I do", tag="system", answer=Whoami)
    route(out, "GET", "/changes", all_changes, "List every change", tag="changes", answer=ChangePage)
    summary = "List changes in a tenant"
    route(out, "GET", "/tenants/{tenant}/changes", tenant_changes, summary, tag="changes", answer=ChangePage)
    summary = "The newest snapshot and who runs on it"
    route(out, "GET", "/snapshot", snapshot, summary, tag="system", answer=SnapshotView)
    summary = "Facts for `interlock doctor`"
    route(out, "GET", "/diagnosis", diagnosed, summary, tag="system", answer=diagnosis.ControlFacts)
    route(out, "POST", "/plan", plan, "What applying would do", tag="configuration", body=Files, answer=Plan)
    summary = "Apply configuration files, all or nothing"
    route(out, "POST", "/apply", apply, summary, tag="configuration", body=Files, answer=Applied, reason=True)
    summary = "The configuration as a document"
    route(out, "GET", "/export", export, summary, tag="configuration", answer=Document)
    summary = "May a caller use a model, and why"
    path = "/tenants/{tenant}/explain"
    route(out, "POST", path, explained, summary, tag="policies", body=explain.Question, answer=explain.Answer)
    summary = "Decide a recorded call again, on the snapshot that it names"
    route(out, "POST", "/replay", replay, summary, tag="policies", body=Recorded, answer=past_calls.Replayed)
    summary = "Run a policy test file on the stored configuration"
    route(out, "POST", "/policy-test", policy_test, summary, tag="policies", body=File, answer=explain.TestAnswer)
    return out


def whoami(request: Request, who: Who, tenant: str = "") -> Response:
    """With `tenant`: what the roles allow there; else on the platform."""
    api = api_of(request)
    with api.store.platform() as conn:
        names = Names(conn)
        place = names.tenant(tenant) or None
        roles = [{"role": b.role, "tenant": names.of(b.tenant_id) if b.tenant_id else None} for b in who.bindings]
        home = names.of(who.tenant_id)
    verdicts = {action: decide(who.bindings, action, place) for action in RULES}
    may = {action.value: verdict.words for action, verdict in verdicts.items() if verdict.allowed}
    return Json(Whoami(who.name, home, roles, may))


def all_changes(request: Request, who: Who, before: int = 0, limit: int = 100, object_id: str = "") -> Response:
    """Of the platform and of every tenant; needs a platform role."""
    return _changes(request, who, "", before, limit, object_id)


def tenant_changes(request: Request, who: Who, before: int = 0, limit: int = 100, object_id: str = "") -> Response:
    """Of one tenant."""
    return _changes(request, who, request.path_params["tenant"], before, limit, object_id)


def _changes(request: Request, who: Who, tenant: str, before: int, limit: int, object_id: str) -> Response:
    limit = page_size(request, limit)
    with reading(request, who, tenant, Action.change_read) as (tx, tenant_id):
        place = tenant_id or None
        rows = changes.page(tx.conn, tenant_id=place, object_id=object_id, before_id=before, limit=limit)
    return Json(ChangePage(rows, rows[-1].id if len(rows) == limit else None))


def snapshot(request: Request, who: Who) -> Response:
    """Nodes report the version of the slowest of their workers."""
    api = api_of(request)
    allow(who, Action.snapshot_read, None)
    now = api.tools.now()
    with api.store.platform() as conn:
        head = snapshots.head(conn)
        rows = nodes.page(conn, limit=1000)
    version = head.version if head else 0
    views = [
        NodeView(
            name=row.name,
            workers=row.workers,
            snapshot_version=row.snapshot_version,
            behind=max(0, version - row.snapshot_version),
            seen_at=row.seen_at,
            seen_s_ago=round((now - row.seen_at).total_seconds(), 3),
            address=row.address,
            version=row.version,
        )
        for row in rows
    ]
    compiled = datetime.datetime.fromtimestamp(head.compiled_ns / 1e9, datetime.UTC) if head else None
    root = head.root.hex() if head else ""
    return Json(SnapshotView(version, root, compiled, api.compiler.failure, views))


def diagnosed(request: Request, who: Who) -> Response:
    """Every source is asked once without its credential, and every issuer for its keys: takes seconds."""
    allow(who, Action.system_diagnose, None)
    return Json(diagnosis.gather(api_of(request)))


def plan(request: Request, who: Who, body: Body) -> Response:
    """Nothing is changed."""
    given = Given(request, body)
    return Json(api_of(request).configurator.plan(who, given.as_(Files).texts()))


def apply(request: Request, who: Who, body: Body) -> Response:
    """New keys are in the answer, this once."""
    given = Given(request, body)
    return Json(api_of(request).configurator.apply(who, given.as_(Files).texts(), given.reason))


def export(request: Request, who: Who, tenant: str = "", form: str = "json") -> Response:
    """Of one tenant, or of everything that the roles show. `form`: json or yaml. Holds no secrets."""
    if form not in ("json", "yaml"):
        raise BadRequest("form is json or yaml", param="form")
    document = api_of(request).configurator.export(who, tenant)
    if form == "yaml":
        return Response(dump(document), media_type="application/yaml")
    return Json(lean(document))


def explained(request: Request, who: Who, body: Body) -> Response:
    """Decided by the same engine that gateways run, on what is stored now."""
    question = Given(request, body).as_(explain.Question)
    with reading(request, who, request.path_params["tenant"], Action.explain) as (_, tenant_id):
        pass
    with api_of(request).store.platform() as conn:
        return Json(explain.answer(conn, tenant_id, question, api_of(request).tools.clock.wall_ns()))


def policy_test(request: Request, who: Who, body: Body) -> Response:
    """A company's own expectations, decided by the engine that gateways run. docs/policy.md describes the file."""
    file = Given(request, body).as_(File)
    allow(who, Action.config_export, None)
    with api_of(request).store.platform() as conn:
        return Json(explain.run_tests(conn, file.name, file.text, api_of(request).tools.clock.wall_ns()))


def replay(request: Request, who: Who, body: Body) -> Response:
    """Policy and routing, from the record and what that snapshot version said; names each difference."""
    record = past_calls.read(Given(request, body).as_(Recorded).record)
    allow(who, Action.explain, record.tenant_id or None)
    with api_of(request).store.platform() as conn:
        then = past_calls.past(conn, record.snapshot_version, record.tenant_id)
    return Json(past_calls.replay(record, then))
