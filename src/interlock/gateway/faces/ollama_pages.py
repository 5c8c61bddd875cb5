"""Ollama's pages beside inference: which models there are, and what each can do, for this caller.

    GET  /api/tags       the models it may use
    GET  /api/ps         those of them that are in some source's memory
    POST /api/show       what one of them can do
    GET  /api/version    of Interlock

What would change models (`/api/pull`, `/api/push`, `/api/create`, `/api/copy`, `/api/delete`, blobs) is refused to
everybody: sources and their models are governed, not called up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock import __version__
from interlock.errors import BadRequest, Denied, InterlockError, ModelNotFound, NotFound
from interlock.gateway.faces.ollama import CHAT
from interlock.gateway.http.protocol import method_not_allowed
from interlock.gateway.listing import Listed, listed
from interlock.types.source import Ability, SourceKind, loaded_bit
from interlock.wire.ollama.answer import stamp

if TYPE_CHECKING:
    from interlock.gateway.http.exchange import Request, Sink
    from interlock.gateway.runtime import Runtime
    from interlock.types.source import Model

PREFIX = "/api/"
JSON = b"content-type: application/json; charset=utf-8\r\n"
_PAGES = {"/api/tags": "GET", "/api/ps": "GET", "/api/version": "GET", "/api/show": "POST"}
_MANAGES = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/")
_CAPABILITIES = (
    ("completion", Ability.chat),
    ("tools", Ability.tools),
    ("vision", Ability.vision),
    ("thinking", Ability.thinking),
    ("embedding", Ability.embeddings),
)
_ARCHITECTURE = "interlock"
"""Clients read the context length under the name of the architecture, which is nobody's business here."""


class _Show(msgspec.Struct):
    model: str = ""
    name: str = ""


_show = msgspec.json.Decoder(_Show)


def serve(request: Request, sink: Sink, runtime: Runtime) -> None:
    """Answer a request below `/api/` that is no inference, errors included."""
    try:
        body = _page(request, runtime)
    except InterlockError as error:
        sink.respond(*CHAT.error(error))
        return
    sink.respond(200, JSON, msgspec.json.encode(body))


def _page(request: Request, runtime: Runtime) -> dict[str, Any]:
    path = request.path
    method = _PAGES.get(path)
    if method is None:
        if path.startswith(_MANAGES):
            raise Denied(
                "Models are not managed here: sources and what they offer are governed by Interlock's administrators.",
                code="models_are_governed",
            )
        raise NotFound(f"There is no {path[:200]} here.")
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise method_not_allowed(request.method, path, method)
    models = listed(request, runtime)
    if path == "/api/version":
        return {"version": __version__}
    if path == "/api/tags":
        modified = stamp(runtime.state.view.compiled_ns)
        return {"models": [_entry(one) | {"modified_at": modified} for one in models]}
    if path == "/api/ps":
        return {"models": [_entry(one) | _running(one) for one in models if _in_memory(one, runtime)]}
    return _shown(request.body, models, runtime)


def _entry(one: Listed) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.name,
        "size": 0,
        "digest": _shared(one, "version") if one.owner == "source" else "",
        "details": {"format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": ""},
    }


def _shared(one: Listed, field: str) -> str:
    """What all offers behind a name agree on, else nothing."""
    values = {getattr(offer.model, field) for offer in one.offers}
    return values.pop() if len(values) == 1 else ""


def _running(one: Listed) -> dict[str, Any]:
    return {"size_vram": 0, "context_length": _context(one)}


def _in_memory(one: Listed, runtime: Runtime) -> bool:
    """Ollama servers say what is loaded; engines that serve one model have it."""
    now_ns = runtime.clock.mono_ns()
    for offer in one.offers:
        reading = runtime.board.reading(runtime.state.links[offer.source.id].row, now_ns)
        if reading.healthy and (
            offer.source.kind is not SourceKind.ollama
            or (reading.loaded >= 0 and reading.loaded & loaded_bit(offer.model.name))
        ):
            return True
    return False


def _context(one: Listed) -> int:
    """The smallest that is known: what any source behind the name takes."""
    return min((offer.model.context_length for offer in one.offers if offer.model.context_length), default=0)


def _shown(body: bytes, models: list[Listed], runtime: Runtime) -> dict[str, Any]:
    try:
        asked = _show.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BadRequest(f"The request body is not {{'model': ...}}: {e}", code="invalid_json") from None
    name = asked.model or asked.name
    for one in models:
        if one.name == name:
            info: dict[str, Any] = {"general.architecture": _ARCHITECTURE}
            if _context(one):
                info[f"{_ARCHITECTURE}.context_length"] = _context(one)
            return {
                "details": _entry(one)["details"],
                "model_info": info,
                "capabilities": _capabilities([offer.model for offer in one.offers]),
                "modified_at": stamp(runtime.state.view.compiled_ns),
            }
    raise ModelNotFound(f"model {name[:200]!r} not found")


def _capabilities(models: list[Model]) -> list[str]:
    return [name for name, ability in _CAPABILITIES if any(ability.value in model.abilities for model in models)]
