"""The gateway's paths: which endpoint is served by what, and a plain 501 for those that are not finished."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from interlock.errors import InterlockError, NotFound, NotImplementedYet, Unauthenticated, Unavailable
from interlock.gateway import feedback, stored
from interlock.gateway.faces import ollama, ollama_pages
from interlock.gateway.faces.anthropic import ANTHROPIC, COUNTING, VERSION_HEADER, speaks_anthropic
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.faces.responses import RESPONSES
from interlock.gateway.http.protocol import method_not_allowed
from interlock.gateway.listing import listed
from interlock.gateway.pipeline import govern
from interlock.wire.anthropic.models import model_info, model_page

if TYPE_CHECKING:
    from interlock.gateway.faces.base import Face
    from interlock.gateway.http.exchange import Exchange, Request, Sink
    from interlock.gateway.runtime import Runtime

ROUTES: dict[str, tuple[str, Face]] = {
    "/v1/chat/completions": ("chat", OPENAI),
    "/v1/completions": ("completions", OPENAI),
    "/v1/embeddings": ("embeddings", OPENAI),
    "/v1/messages": ("chat", ANTHROPIC),
    "/v1/messages/count_tokens": ("count_tokens", COUNTING),
    "/v1/rerank": ("rerank", OPENAI),
    "/v2/rerank": ("rerank", OPENAI),
    "/rerank": ("rerank", OPENAI),
    "/v1/score": ("score", OPENAI),
    "/score": ("score", OPENAI),
    "/api/chat": ("chat", ollama.CHAT),
    "/api/generate": ("chat", ollama.GENERATE),
    "/api/embed": ("embeddings", ollama.EMBED),
    "/api/embeddings": ("embeddings", ollama.EMBEDDINGS),
    "/v1/responses": ("chat", RESPONSES),
}
"""Path -> operation, and what its callers speak. All of them take POST."""
LATER = (
    "/v1/messages",
    "/v1/files",
    "/v1/batches",
    "/v1/vector_stores",
    "/v1/networks",
)
"""Known endpoints (and what is below them) that this version does not serve."""
JSON = b"content-type: application/json\r\n"


class Gateway:
    """The application of one worker: give it a request and a sink."""

    def __init__(self, runtime: Runtime, render_metrics: Callable[[], bytes]) -> None:
        self.runtime = runtime
        self._render_metrics = render_metrics

    def __call__(self, request: Request, sink: Sink) -> Exchange | None:
        """Serve one request."""
        route = ROUTES.get(request.path)
        if route is not None and request.method == "POST":
            return govern(route[0], route[1], request, sink, self.runtime)
        if route is None and request.path.startswith(ollama_pages.PREFIX):
            ollama_pages.serve(request, sink, self.runtime)
            return None
        if request.path.startswith(stored.PREFIX):
            return stored.serve(request, sink, self.runtime)
        if request.path == feedback.PATH:
            return feedback.serve(request, sink, self.runtime)
        face = ANTHROPIC if speaks_anthropic(request) else route[1] if route is not None else OPENAI
        try:
            self._other(route is not None, request, sink)
        except InterlockError as error:
            sink.respond(*face.error(error))
        return None

    def _other(self, taken: bool, request: Request, sink: Sink) -> None:
        path = request.path
        if taken:
            raise method_not_allowed(request.method, path, "POST")
        if path.startswith(LATER):
            raise NotImplementedYet(f"{path} is not served by this version of Interlock.")
        if request.method not in ("GET", "HEAD"):
            known = path in ("/health", "/ready", "/metrics", "/v1/models")
            raise method_not_allowed(request.method, path, "GET") if known else NotFound(f"There is no {path} here.")
        if path == "/health":
            sink.respond(200, JSON, b'{"status":"ok"}')
        elif path == "/ready":
            self._ready(sink)
        elif path == "/metrics":
            self._metrics(request, sink)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            self._models(request, sink)
        else:
            raise NotFound(f"There is no {path[:200]} here.")

    def _ready(self, sink: Sink) -> None:
        runtime = self.runtime
        if runtime.draining:
            raise Unavailable("This gateway is shutting down.", code="draining")
        if runtime.log.refusal is not None:
            raise runtime.log.refusal
        body = {"status": "ready", "snapshot": runtime.state.version, "epoch": runtime.log.epoch}
        sink.respond(200, JSON, msgspec.json.encode(body))

    def _metrics(self, request: Request, sink: Sink) -> None:
        wanted = self.runtime.settings.metrics_key
        if wanted:
            given = request.headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + wanted.encode()):
                raise Unauthenticated("This path asks for the metrics key as a bearer token.")
        kind = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
        sink.respond(200, kind, self._render_metrics())

    def _models(self, request: Request, sink: Sink) -> None:
        """Only what the caller may use."""
        created = self.runtime.state.view.compiled_ns // 1_000_000_000
        data = [_model(one.name, created, one.owner) for one in listed(request, self.runtime)]
        shown: dict[str, object] = {"object": "list", "data": data}
        if VERSION_HEADER in request.headers:
            data = [model_info(str(model["id"]), created) for model in data]
            shown = model_page(data)
        if request.path == "/v1/models":
            sink.respond(200, JSON, msgspec.json.encode(shown))
            return
        name = unquote(request.path.removeprefix("/v1/models/"))
        for model in data:
            if model["id"] == name:
                sink.respond(200, JSON, msgspec.json.encode(model))
                return
        raise NotFound(
            f"The model {name[:200]!r} does not exist or you do not have access to it.", code="model_not_found"
        )


def _model(name: str, created: int, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
