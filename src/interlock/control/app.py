"""The admin API: every path, what is open and what is not, readable in one place."""

from __future__ import annotations

import functools
import hmac

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from interlock import __version__
from interlock.control.console.app import Console
from interlock.control.metrics import CONTENT_TYPE, ControlMetrics
from interlock.control.routes import (
    actions,
    alerts,
    alias_use,
    budgets,
    holds,
    ledger,
    ledger_evidence,
    ledger_follow,
    ledger_upkeep,
    live,
    policies,
    quotas,
    rerouting,
    resources,
    system,
    usage,
)
from interlock.control.web import Api, Json, install_errors, openapi
from interlock.errors import StoreError, Unauthenticated


def make_app(api: Api, metrics: ControlMetrics | None = None) -> FastAPI:
    """The application around its services. /health, /ready and /metrics are open; everything else asks for a key."""
    app = FastAPI(
        title="Interlock admin API",
        version=__version__,
        openapi_url="/admin/v1/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.api = api
    install_errors(app)
    counts = metrics or ControlMetrics()
    counts.install(app)
    app.router.routes.extend(_admin_routes())
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]

    app.mount("/console", Console(api).app())

    @app.get("/", include_in_schema=False)
    def front() -> Response:
        return RedirectResponse("/console/")

    @app.get("/health", include_in_schema=False)
    def health() -> Response:
        return Json({"status": "ok"})

    @app.get("/ready", include_in_schema=False)
    def ready() -> Response:
        try:
            api.store.check()
        except StoreError as e:
            return Json({"status": "not ready", "reason": e.message}, status_code=503)
        if api.compiler.last is None:
            return Json({"status": "not ready", "reason": "no snapshot was compiled yet"}, status_code=503)
        return Json({"status": "ready", "snapshot": api.compiler.last.version})

    @app.get("/metrics", include_in_schema=False)
    def exposition(request: Request) -> Response:
        wanted = api.tools.settings.metrics_key
        given = request.headers.get("authorization", "")
        if wanted and not hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode()):
            raise Unauthenticated("the metrics key is missing or wrong")
        return Response(counts.text(api), media_type=CONTENT_TYPE)

    return app


@functools.cache
def _admin_routes() -> tuple[BaseRoute, ...]:
    """Everything under /admin/v1. Routes hold nothing of an application (`api_of`), so that each has the same ones:
    reading what their endpoints take is most of the time that making an application takes."""
    admin = APIRouter(prefix="/admin/v1")
    # actions first: /keys/{name}/rotate is not a key with a slash in its name
    admin.include_router(actions.router())
    admin.include_router(system.router())
    admin.include_router(ledger.router())
    admin.include_router(holds.router())
    admin.include_router(ledger_upkeep.router())
    admin.include_router(ledger_follow.router())
    admin.include_router(ledger_evidence.router())
    admin.include_router(usage.router())
    admin.include_router(live.router())
    admin.include_router(policies.router())
    admin.include_router(rerouting.router())
    admin.include_router(budgets.router())
    admin.include_router(quotas.router())
    admin.include_router(alerts.router())
    admin.include_router(alias_use.router())
    admin.include_router(resources.router())
    return tuple(admin.routes)
