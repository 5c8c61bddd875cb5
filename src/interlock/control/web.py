"""What the admin API's routes share: bounded bodies, who asks, answers, errors, and the OpenAPI of our types.

Bodies and answers are msgspec values, described in OpenAPI by msgspec's own JSON Schema, so that the types are written
once. Endpoints are plain functions: FastAPI runs them on its thread pool, where waiting for the database blocks nobody.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from interlock import __version__
from interlock.control.alerts.shown import Alerts
from interlock.control.apply import Configurator, Reason
from interlock.control.canaries import CanaryKeeper
from interlock.control.compiler import SnapshotCompiler
from interlock.control.identity import Actor, ByToken, authenticate
from interlock.control.keyring import Keyring
from interlock.control.live.hub import Hub
from interlock.control.permissions import Action, require
from interlock.control.plan import ConfigErrors
from interlock.control.retention import RetentionSweeper
from interlock.control.sequencer import Sequencer
from interlock.control.services.base import Tools
from interlock.errors import BadRequest, BodyTooLarge, InterlockError
from interlock.storage.pool import Store

logger = logging.getLogger(__name__)

REASON_HEADER = "x-interlock-reason"
REQUEST_ID_HEADER = "x-request-id"

_S = TypeVar("_S")
_encoder = msgspec.json.Encoder()


@dataclasses.dataclass(frozen=True, slots=True)
class Api:
    """What the endpoints work with."""

    store: Store
    tools: Tools
    configurator: Configurator
    compiler: SnapshotCompiler
    by_token: ByToken
    sequencer: Sequencer
    keyring: Keyring
    retention: RetentionSweeper | None = None
    canaries: CanaryKeeper | None = None
    live: Hub | None = None
    alerts: Alerts | None = None


class Json(Response):
    """A msgspec value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the value."""
        return _encoder.encode(content)


async def read_body(request: Request) -> bytes:
    """The request's body. Raises BodyTooLarge above `admin_body_bytes_max`, whatever its length was said to be."""
    most = api_of(request).tools.settings.admin_body_bytes_max
    if int(request.headers.get("content-length") or 0) > most:
        raise BodyTooLarge(f"the body is larger than admin_body_bytes_max ({most} bytes)")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise BodyTooLarge(f"the body is larger than admin_body_bytes_max ({most} bytes)")
    return bytes(body)


def api_of(request: Request) -> Api:
    """What the endpoints work with."""
    api: Api = request.app.state.api
    return api


def actor_of(request: Request) -> Actor:
    """Who asks. INVARIANT: every route under /admin/v1 depends on this; nothing there is open."""
    api = api_of(request)
    return authenticate(api.store, api.tools, api.by_token, request.headers.get("authorization", ""))


Who = Annotated[Actor, Depends(actor_of)]
Body = Annotated[bytes, Depends(read_body)]


class Given:
    """A request's JSON body with its reason taken out, to be read as one of our types."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.fields: dict[str, Any] = _object(body)
        text = self.fields.pop("reason", None) or request.headers.get(REASON_HEADER, "")
        if not isinstance(text, str):
            raise BadRequest("reason must be text", param="reason")
        self.reason = Reason(text, request.headers.get(REQUEST_ID_HEADER, "")[:128])

    def as_(self, form: type[_S]) -> _S:
        """The body as `form`. Raises BadRequest with the field at fault."""
        return read_as(self.fields, form)


def read_as(fields: dict[str, Any], form: type[_S]) -> _S:
    """These fields as `form`. Raises BadRequest with the field at fault."""
    try:
        return msgspec.convert(fields, form)
    except msgspec.ValidationError as e:
        reason, _, path = str(e).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        words = reason.replace("`", "'")
        raise BadRequest(f"{param}: {words}" if param else words, param=param) from None


def reason_of(request: Request) -> Reason:
    """The reason of a request without a body."""
    return Reason(request.headers.get(REASON_HEADER, ""), request.headers.get(REQUEST_ID_HEADER, "")[:128])


def revision_of(request: Request) -> int | None:
    """The revision that `If-Match` asks for. Raises BadRequest when it is no number."""
    text = request.headers.get("if-match", "").strip().strip('"')
    if not text or text == "*":
        return None
    if not text.isdigit():
        raise BadRequest("If-Match holds the revision that was read, a whole number", param="if-match")
    return int(text)


def page_size(request: Request, limit: int) -> int:
    """How many rows a listing may have. Raises BadRequest outside of 1..`page_size_max`."""
    most = api_of(request).tools.settings.page_size_max
    if not 1 <= limit <= most:
        raise BadRequest(f"limit must be from 1 to {most}", param="limit")
    return limit


def allow(actor: Actor, action: Action, tenant_id: str | None) -> None:
    """Raise Denied unless the actor may."""
    require(actor.bindings, action, tenant_id)


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise BadRequest(f"the body is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def install_errors(app: FastAPI) -> None:
    """Every error as `{"error": {"code", "message", "param"}}`, never with a stack trace."""

    def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, InterlockError)  # noqa: S101  INVARIANT: registered for this class only
        if error.status >= 500:
            logger.log(error.level, "%s", error.message)
        details = list(error.errors) if isinstance(error, ConfigErrors) else None
        return _error(error.status, error.code, error.message, error.param, error.headers, details)

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  INVARIANT: registered for this class only
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        words = {404: "there is no such path", 405: "this path does not take that method"}
        return _error(error.status_code, code, words.get(error.status_code, str(error.detail)), None, error.headers)

    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  INVARIANT: registered for this class only
        first = error.errors()[0]
        field = ".".join(str(step) for step in first.get("loc", ())[1:])
        return _error(400, "invalid_request", f"{field}: {first.get('msg')}", field or None)

    def unknown(_: Request, error: Exception) -> Response:
        logger.error("an admin request failed: %s", type(error).__name__, exc_info=error)
        return _error(500, "internal_error", "the request failed inside; the log of the control process says why", None)

    app.add_exception_handler(InterlockError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unknown)


def _error(
    status: int,
    code: str,
    message: str,
    param: str | None,
    headers: Mapping[str, str] | None = None,
    details: list[str] | None = None,
) -> Response:
    error: dict[str, Any] = {"code": code, "message": message, "param": param}
    if details:
        error["details"] = details
    if status == 401:
        headers = {**(headers or {}), "www-authenticate": "Bearer"}
    return Json({"error": error}, status_code=status, headers=dict(headers or {}))


class ErrorBody(msgspec.Struct):
    """What went wrong. `details`: every fault of a document, one line each."""

    code: str
    message: str
    param: str | None
    details: list[str] | None = None


class ErrorAnswer(msgspec.Struct):
    """The form of every error."""

    error: ErrorBody


_described: list[Any] = [ErrorAnswer]
_REFERENCE = "#/components/schemas/{name}"


def route(
    router: APIRouter,
    method: str,
    path: str,
    endpoint: Callable[..., Response],
    summary: str,
    *,
    tag: str,
    body: Any = None,
    answer: Any = None,
    status: int = 200,
    reason: bool = False,
    revision: bool = False,
) -> None:
    """Add an endpoint with its OpenAPI: body and answer types, whether it takes a reason or a revision (If-Match)."""
    parameters = [_parameter(name, "path", required=True) for name in re.findall(r"\{(\w+)(?::path)?\}", path)]
    if reason:
        words = "Why the change is made; required, here or as `reason` in the body."
        parameters.append(_parameter("X-Interlock-Reason", "header", words))
    if revision:
        parameters.append(_parameter("If-Match", "header", "The revision that was read; another one is a conflict."))
    extra: dict[str, Any] = {"parameters": parameters}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _content(body)}
    done: dict[str, Any] = {"description": "done"}
    if answer is not None:
        done["content"] = _content(answer)
    wrong = {"description": "what was wrong", "content": _content(ErrorAnswer)}
    extra["responses"] = {str(status): done, "4XX": wrong}
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        summary=summary,
        description=endpoint.__doc__ or "",
        tags=[tag],
        status_code=status,
        response_class=Json,
        openapi_extra=extra,
        operation_id=f"{method.lower()}:{path}",
        name=summary,
    )


@functools.cache
def _content(form: Any) -> dict[str, Any]:
    if form not in _described:
        _described.append(form)
    (schema,), _ = msgspec.json.schema_components([form], ref_template=_REFERENCE)
    return {"application/json": {"schema": schema}}


def _parameter(name: str, place: str, words: str = "", *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "description": words, "schema": {"type": "string"}}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The API's description: FastAPI's paths, msgspec's types."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="Interlock admin API",
            version=__version__,
            summary="Tenants, identity, policies, sources, aliases, and the snapshot that gateways run on.",
            routes=app.routes,
        )
        _, components = msgspec.json.schema_components(_described, ref_template=_REFERENCE)
        parts = document.setdefault("components", {})
        parts["schemas"] = components
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "il_... or JWT"}}
        document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
