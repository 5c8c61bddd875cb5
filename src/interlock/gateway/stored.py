"""`GET` and `DELETE /v1/responses/{id}`, `GET /v1/responses/{id}/input_items`: a caller's own stored responses.

What belongs to somebody else is as good as not there. None of these is a call: nothing is asked of a model, and the
ledger has what was said already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from interlock.errors import BadRequest, InterlockError, NotFound, NotImplementedYet
from interlock.gateway.faces.responses import RESPONSES
from interlock.gateway.http.protocol import method_not_allowed
from interlock.gateway.stages.authenticate import identity_of
from interlock.gateway.stages.authorize import fresh_enough
from interlock.gateway.states import Owner, owner_of
from interlock.gateway.turn import ID, SHOWN_MAX, room, unavailable
from interlock.ledger.vault import VaultError

if TYPE_CHECKING:
    from interlock.gateway.http.exchange import Exchange, Request, Sink
    from interlock.gateway.link import StateAnswer, StatePart
    from interlock.gateway.runtime import Runtime

PREFIX = "/v1/responses/"
ITEMS = "input_items"
JSON = b"content-type: application/json\r\n"
ITEMS_MAX = 100
"""Most items of a page, and `ITEMS_DEFAULT` where the query does not say (OpenAI API reference, "List input items")."""
ITEMS_DEFAULT = 20
_LATER = frozenset(("compact", "input_tokens"))
"""Paths of the API that this version does not serve."""


def serve(request: Request, sink: Sink, runtime: Runtime) -> Exchange | None:
    """Answer one request. Returns the exchange while the answer is owed."""
    try:
        response_id, what = _place(request)
        identity = identity_of(request.headers, runtime.state.view, runtime.authenticator)
        fresh_enough(identity.caller.data_class, runtime.clock.wall_ns(), runtime)
        give = _page(request) if what == ITEMS else _response
        if not ID.fullmatch(response_id):
            raise _not_found(response_id)
        owner = owner_of(identity)
        room(runtime, owner)
        looking = Looking(owner, response_id, give, sink, runtime)
        looking.begin(delete=request.method == "DELETE")
    except InterlockError as error:
        sink.respond(*RESPONSES.error(error))
        return None
    return looking


def _place(request: Request) -> tuple[str, str]:
    """(id, what is wanted of it)."""
    response_id, _, what = request.path.removeprefix(PREFIX).partition("/")
    if response_id in _LATER:
        raise NotImplementedYet(f"{request.path} is not served by this version of Interlock.")
    if what == "cancel" and request.method == "POST":
        raise BadRequest("Only answers in the background can be cancelled, and there are none.", code="not_cancellable")
    if what not in ("", ITEMS) or not response_id:
        raise NotFound(f"There is no {request.path[:200]} here.")
    if request.method not in ("GET", "DELETE") or (what and request.method != "GET"):
        raise method_not_allowed(request.method, request.path, "GET" if what else "GET, DELETE")
    if not what and b"stream" in request.query:
        raise BadRequest("A stored response is given whole, not streamed.", code="unsupported_field", param="stream")
    return response_id, what


Give = Callable[[list[bytes], bytes, str], bytes]
"""(the call's items, the response, its id) -> the body of the answer."""


class Looking:
    """The exchange of such a request, which waits for the node."""

    call_number = 0

    def __init__(self, owner: Owner, response_id: str, give: Give, sink: Sink, runtime: Runtime) -> None:
        self._owner = owner
        self._id = response_id
        self._give = give
        self._sink = sink
        self._runtime = runtime
        self._over = False
        self._number = 0
        self._operation = "read"
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.responses_wait_ms * 1_000_000

    def begin(self, *, delete: bool) -> None:
        """Ask for it."""
        states = self._runtime.states
        self._runtime.waiting.add(self)
        if delete:
            self._operation = "delete"
            self._number = states.drop(self._owner, self._id, self)
        else:
            self._number = states.want(self._owner, self._id, self, alone=True, make_key=False)

    def answered(self, answer: StateAnswer, parts: list[StatePart]) -> None:
        """What there is."""
        if self._over:
            return
        try:
            body = self._body(answer, parts)
        except InterlockError as error:
            self.end(error)
            return
        self._leave(answer.state)
        self._sink.respond(200, JSON, body)

    def sweep(self, now_ns: int) -> None:
        """Give up after a while."""
        if now_ns >= self._deadline_ns:
            self.end(unavailable())

    def end(self, error: InterlockError) -> None:
        """Answer with an error."""
        if not self._over:
            self._leave(error.code)
            self._sink.respond(*RESPONSES.error(error))

    def told(self) -> None:
        """See Waits: it is no call."""

    def on_disconnect(self) -> None:
        """See Exchange. A deletion that was asked for is not taken back."""
        if not self._over:
            self._leave("client_disconnected")

    def on_pause(self) -> None:
        """See Exchange."""

    def on_resume(self) -> None:
        """See Exchange."""

    def _body(self, answer: StateAnswer, parts: list[StatePart]) -> bytes:
        if answer.state == "unavailable":
            raise unavailable()
        if answer.state == "dropped":
            return msgspec.json.encode({"id": self._id, "object": "response", "deleted": True})
        if answer.state != "found" or len(parts) != 1:
            raise _not_found(self._id)
        settings = self._runtime.settings
        try:
            key = self._runtime.states.key(self._owner, answer)
            if key is None:
                raise _not_found(self._id)
            stored = key.open(parts[0], settings.body_bytes_max + settings.response_bytes_max)
        except VaultError:
            raise unavailable() from None
        return self._give(stored.items, stored.response, self._id)

    def _leave(self, result: str) -> None:
        self._over = True
        self._runtime.waiting.discard(self)
        self._runtime.states.forget(self._number)
        self._runtime.metrics.responses.add((self._operation, result))


def _response(items: list[bytes], response: bytes, response_id: str) -> bytes:  # noqa: ARG001 - see Give
    return response


def _page(request: Request) -> Give:
    """The items of a call as its query asks for them. Raises BadRequest."""
    query = parse_qs(request.query.decode("latin-1"))
    limit, order, after = (query.get(name, [""])[-1] for name in ("limit", "order", "after"))
    most = int(limit) if limit.isdigit() and len(limit) < 4 else 0 if limit else ITEMS_DEFAULT
    if not 1 <= most <= ITEMS_MAX:
        raise BadRequest(f"Parameter 'limit' must be between 1 and {ITEMS_MAX}.", param="limit")
    if order not in ("", "asc", "desc"):
        raise BadRequest("Parameter 'order' must be asc or desc.", param="order")

    def give(items: list[bytes], response: bytes, response_id: str) -> bytes:  # noqa: ARG001 - see Give
        stem = response_id.removeprefix("resp_").rpartition("_")[0]
        listed = [_item(item, f"in_{stem}_{n}") for n, item in enumerate(items)]
        if order != "asc":
            listed.reverse()
        ids = [str(item["id"]) for item in listed]
        begin = ids.index(after) + 1 if after in ids else 0
        page = listed[begin : begin + most]
        answer = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": begin + most < len(listed),
        }
        return msgspec.json.encode(answer)

    return give


def _item(raw: bytes, name: str) -> dict[str, Any]:
    """An item as it is listed: with an id, and a message's text as a part."""
    item: dict[str, Any] = msgspec.json.decode(raw)
    item.setdefault("type", "message")
    if not isinstance(item.get("id"), str):
        item["id"] = name
    content = item.get("content")
    if item["type"] == "message" and isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": content}]
    item.setdefault("status", "completed")
    return item


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id {response_id[:SHOWN_MAX]!r} not found.", code="response_not_found")
