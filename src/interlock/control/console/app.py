"""The console: its pages put together, and what holds for all of them. Only pages marked `open` ask for no session."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interlock.control.console import (
    alerts_page,
    alias_pages,
    budgets_page,
    call_page,
    calls,
    doctor_page,
    documents_page,
    health,
    keeping_page,
    live,
    oidc,
    people_pages,
    playground,
    policies,
    policy_ask,
    policy_compare,
    policy_drafting,
    policy_wizard,
    proof_page,
    quota_pages,
    router_page,
    sign_out,
    signin,
    source_pages,
    usage_page,
)
from interlock.control.console.assets import Assets
from interlock.control.console.page import Page
from interlock.control.console.render import environment
from interlock.control.console.sessions import Sessions
from interlock.control.console.visit import COOKIE, Fields, Visit, check_csrf
from interlock.errors import BodyTooLarge, InterlockError, NotFound, Unauthenticated

if TYPE_CHECKING:
    from interlock.control.web import Api

logger = logging.getLogger(__name__)

MODULES = (
    signin,
    sign_out,
    oidc,
    live,
    health,
    doctor_page,
    playground,
    calls,
    proof_page,
    keeping_page,
    documents_page,
    call_page,
    usage_page,
    budgets_page,
    alerts_page,
    quota_pages,
    source_pages,
    router_page,
    alias_pages,
    people_pages,
    policies,
    policy_ask,
    policy_compare,
    policy_drafting,
    policy_wizard,
)
PAGES = tuple(page for module in MODULES for page in module.PAGES)

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content Security Policy Level 3: nothing from elsewhere, nothing inline but what carries the page's nonce."""


@functools.cache
def _made() -> tuple[Assets, Environment]:
    """Files and templates, read and compiled once in a process: they hold nothing of an application."""
    assets = Assets()
    return assets, environment(assets)


class Console:
    """The application behind /console."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._assets, self._templates = _made()
        self._sessions = Sessions(api)
        if self._assets.missing:
            logger.warning("the console lacks %s: build them with `make assets`", ", ".join(self._assets.missing))

    def app(self) -> Starlette:
        """To be mounted at /console."""
        routes = [Route(page.path, self._endpoint(page), methods=[page.method]) for page in PAGES]
        routes.append(Route("/static/{name}", self._static, methods=["GET"]))
        return Starlette(routes=routes, exception_handlers={404: self._lost, 405: self._lost})

    def _endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            try:
                if request.method == "POST":
                    visit.form = Fields.read((await self._body(request)).decode("utf-8", "replace"))
                answer = await run_in_threadpool(self._admit, page, visit)
                if answer is None and inspect.iscoroutinefunction(page.handler):
                    answer = await page.handler(visit, self._sessions)
                elif answer is None:
                    answer = cast("Response", await run_in_threadpool(page.handler, visit, self._sessions))
            except InterlockError as error:
                answer = self._failed(visit, error)
            except Exception:
                logger.exception("a page of the console failed")
                answer = self._failed(visit, InterlockError("The page failed; the control process's log says why."))
            return self._safe(visit, answer)

        return endpoint

    def _admit(self, page: Page, visit: Visit) -> Response | None:
        """Who it is; an answer only for those who have to sign in first. Raises Denied for a change without token."""
        if visit.token:
            try:
                visit.session, visit.actor = self._sessions.find(visit.token)
            except Unauthenticated:
                visit.token = ""
        if page.open:
            return None
        if visit.session is None:
            return self._to_sign_in(visit)
        if page.method != "GET":
            check_csrf(visit)
        return None

    def _visit(self, request: Request) -> Visit:
        origin = self._api.tools.settings.console_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
        return Visit(
            self._api,
            self._templates,
            request.method,
            request.url.path,
            origin,
            request.headers,
            Fields.read(request.url.query),
            Fields(),
            dict(request.path_params),
            request.cookies.get(COOKIE, ""),
        )

    async def _body(self, request: Request) -> bytes:
        most = self._api.tools.settings.admin_body_bytes_max
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise BodyTooLarge(f"the form is larger than admin_body_bytes_max ({most} bytes)")
        return bytes(body)

    def _to_sign_in(self, visit: Visit) -> Response:
        path = "/console/sign-in"
        if visit.method == "GET" and not visit.partial:
            path += f"?to={quote(visit.path)}"
        if visit.partial:
            return Response(status_code=204, headers={"hx-redirect": path})
        return visit.go(path)

    def _failed(self, visit: Visit, error: InterlockError) -> Response:
        if error.status >= 500:
            logger.log(error.level, "%s", error.message)
        return visit.page("failed.html", error.status, error=error)

    def _safe(self, visit: Visit, answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        answer.headers["content-security-policy"] = POLICY.format(nonce=visit.nonce)
        if visit.origin.startswith("https://"):
            answer.headers["strict-transport-security"] = "max-age=31536000"
        return answer

    async def _lost(self, request: Request, _: Exception) -> Response:
        visit = self._visit(request)
        return self._safe(visit, self._failed(visit, NotFound("There is no such page.")))

    async def _static(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["name"])
        if asset is None:
            return Response("There is no such file.\n", 404, {"cache-control": "no-store"}, "text/plain")
        headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
        return Response(asset.body, 200, headers, asset.media_type)
