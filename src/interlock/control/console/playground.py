"""Playground: chat with a model through the gateway, as oneself and governed as oneself; two side by side if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from interlock.control.apply import Reason
from interlock.control.console.call_page import told_of
from interlock.control.console.calls import line_of
from interlock.control.console.page import Page
from interlock.control.console.play_missing import missing
from interlock.control.console.sessions import digest
from interlock.control.console.streamed import Streamed
from interlock.control.console.upstream import Gateway, context_for, gateway_url, relay
from interlock.control.identity import reach_of
from interlock.control.permissions import Action, require
from interlock.control.services import looks
from interlock.control.services.base import Names
from interlock.control.web import Json
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.ledger.feedback import KIND as FEEDBACK
from interlock.routing.resolve import MODES
from interlock.storage import ledger_read, tenants
from interlock.types.feedback import DOWN, UP

if TYPE_CHECKING:
    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

MESSAGES_MAX = 200
ASKS_MAX = 40
"""How often a page asks for the record of a call, a second apart, before it gives up."""


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of the conversation so far."""

    role: Literal["user", "assistant"]
    content: str


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page asks to be called. `mode`: of routing, "" for the name's own; None: the model's own default."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    messages: Annotated[list[Said], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    system: str = ""
    mode: str = ""
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None

    def body(self) -> dict[str, Any]:
        """The request body in OpenAI's dialect."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages += [{"role": each.role, "content": each.content} for each in self.messages]
        out: dict[str, Any] = {"model": self.model, "messages": messages}
        for name in ("temperature", "max_tokens"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        if self.mode:
            out["interlock"] = {"mode": self.mode}
        return {**out, "stream": True, "stream_options": {"include_usage": True}}


def page(visit: Visit, _: Sessions) -> Response:
    """The page; the models that one may call come after it, from the gateway."""
    actor = visit.who()
    require(actor.bindings, Action.playground_use, actor.tenant_id)
    trouble, url = "", ""
    try:
        url = gateway_url(visit.api)
    except InterlockError as e:
        trouble = e.message
    return visit.page("playground.html", trouble=trouble, gateway=url, modes=MODES, tenant=_tenant_name(visit))


async def models(visit: Visit, sessions: Sessions) -> Response:
    """The names that the visitor may call, as the gateway lists them for them: {"models": [{"name", "kind"}],
    "missing"}. Without any, `missing` says what that is for."""
    try:
        gateway = await _gateway(visit, sessions)
        try:
            found = await gateway.models()
        finally:
            await gateway.close()
    except InterlockError as e:
        return Json({"problem": e.message}, e.status)
    return Json({"models": found, "missing": [] if found else await run_in_threadpool(missing, visit)})


async def send(visit: Visit, sessions: Sessions) -> Response:
    """One call, streamed as server-sent events. Field `ask`: an `Ask` as JSON."""
    settings = visit.api.tools.settings
    try:
        ask = _read(visit.form.get("ask", ""))
        gateway = await _gateway(visit, sessions)
        principal_id = visit.who().principal_id
        try:
            sessions.calls.begin(principal_id)
        except InterlockError:
            await gateway.close()
            raise
    except InterlockError as e:
        return Json({"problem": e.message}, e.status)

    async def still() -> None:
        await run_in_threadpool(sessions.find, visit.token)

    call_s = settings.playground_call_ms / 1000
    events = relay(gateway, ask.body(), settings.playground_answer_bytes_max, call_s, still)
    return Streamed(events, lambda: sessions.calls.done(principal_id))


async def give(visit: Visit, sessions: Sessions) -> Response:
    """Say of an answer whether it was good, as oneself, through the gateway. Fields `request`, `thumb`."""
    try:
        thumb = visit.form.get("thumb", "")
        if thumb not in (UP, DOWN):
            raise BadRequest(f"thumb is {UP} or {DOWN}", param="thumb")
        gateway = await _gateway(visit, sessions)
        try:
            linked = await gateway.feedback(visit.form.get("request", ""), thumb)
        finally:
            await gateway.close()
    except InterlockError as e:
        return Json({"problem": e.message}, e.status)
    return Json({"linked": linked})


def record(visit: Visit, _: Sessions) -> Response:
    """A call of the visitor's own as the ledger has it: cost, tokens, and why it went where it went."""
    api, actor = visit.api, visit.who()
    require(actor.bindings, Action.playground_use, actor.tenant_id)
    request, asked = visit.path_params["request"], visit.query.get("asked", "0")
    number = int(asked) + 1 if asked.isdigit() and len(asked) < 4 else 1
    with api.store.tenant(actor.tenant_id) as conn:
        found = ledger_read.of_request(conn, actor.tenant_id, request)
        entries = [entry for entry in found if entry.kind != FEEDBACK]
        leaf = msgspec.json.decode(entries[0].leaf) if entries else {}
        # INVARIANT: nobody sees calls of others here; for those there is the ledger, and who may read it
        if entries and leaf.get("who", {}).get("principal") != actor.principal_id:
            raise NotFound("There is no such call of yours.")
        line = line_of(leaf, Names(conn)) if entries else None
    decision = None
    if entries:
        decision = told_of(visit, actor.tenant_id, request)
        looks.note(api.store, api.tools, actor, actor.tenant_id, "ledger.show", request, None, Reason(""))
    return visit.page(
        "playground_record.html",
        request=request,
        tenant=_tenant_name(visit),
        leaf=leaf,
        line=line,
        decision=decision,
        asked=number,
        again=number < ASKS_MAX,
        may_read=visit.may(Action.ledger_read, reach_of(actor.tenant_id)),
    )


def _read(text: str) -> Ask:
    try:
        ask = msgspec.json.decode(text, type=Ask)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise BadRequest(f"this cannot be sent: {e}") from None
    if ask.messages[-1].role != "user" or not ask.messages[-1].content.strip():
        raise BadRequest("write something to send", param="messages")
    if ask.mode and ask.mode not in MODES:
        raise BadRequest(f"mode is one of {', '.join(MODES)}", param="mode")
    return ask


async def _gateway(visit: Visit, sessions: Sessions) -> Gateway:
    """A connection in the visitor's own name. Raises Denied, Unavailable, UpstreamError."""

    def made() -> Gateway:
        session, actor = visit.session, visit.who()
        assert session is not None  # noqa: S101 - pages that are not open are reached with one only
        key = sessions.calls.key(digest(visit.token), session, actor)
        url = gateway_url(visit.api)
        call_s = visit.api.tools.settings.playground_call_ms / 1000
        return Gateway(url, context_for(visit.api, url), key, call_s)

    return await run_in_threadpool(made)


def _tenant_name(visit: Visit) -> str:
    with visit.api.store.platform() as conn:
        found = tenants.get(conn, visit.who().tenant_id)
    return found.value.name if found is not None else ""


PAGES = (
    Page("GET", "/playground", page),
    Page("POST", "/playground/models", models),
    Page("POST", "/playground/send", send),
    Page("POST", "/playground/feedback", give),
    Page("GET", "/playground/calls/{request}", record),
)
