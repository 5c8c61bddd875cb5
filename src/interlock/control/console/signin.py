"""Signing in: the pages that are open to everybody."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

from interlock.control.console import passwords
from interlock.control.console.page import Page
from interlock.control.console.visit import COOKIE, check_same_site, safe_path
from interlock.control.services.base import Names
from interlock.errors import InterlockError, NotFound
from interlock.storage import console, issuers, tenants

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

WRONG = "The name or the password is wrong, or the account waits after too many wrong passwords."
"""Says nothing about which: a stranger learns no names."""
NAME_MAX = 200
WAYS_MAX = 200
"""As many issuers as a tenant may have."""


class Way(NamedTuple):
    """An identity provider that people may sign in at. `path`: the link that begins it."""

    label: str
    path: str


def form(visit: Visit, _: Sessions) -> Response:
    """The form, and the identity providers that people may sign in at."""
    return show(visit)


def show(visit: Visit, *, wrong: str = "", done: str = "", status: int = 200) -> Response:
    """The form, with what went wrong, or was done."""
    goes_to = safe_path(visit.form.get("to") or visit.query.get("to", ""))
    name = visit.form.get("name", "")[:NAME_MAX]
    return visit.page(
        "sign_in.html",
        status,
        wrong=wrong,
        done=done,
        goes_to=goes_to,
        name=name,
        insecure=not _secure(visit),
        ways=_ways(visit, goes_to),
    )


def _ways(visit: Visit, goes_to: str) -> list[Way]:
    """The platform's providers; a tenant's only for who names it (`?tenant=`): the page lists no tenants."""
    tenant = visit.query.get("tenant", "")[:NAME_MAX]
    with visit.api.store.platform() as conn:
        found = issuers.page(conn, tenant_id=tenants.PLATFORM_TENANT, limit=WAYS_MAX)
        named = tenants.by_name(conn, tenant) if tenant else None
        if named is not None and named.value.active and named.value.id != tenants.PLATFORM_TENANT:
            found += issuers.page(conn, tenant_id=named.value.id, limit=WAYS_MAX)
    return [
        Way(
            stored.value.login.label or urlsplit(stored.value.issuer).hostname or stored.value.issuer,
            f"/console/sign-in/{stored.value.id}?{urlencode({'to': goes_to})}",
        )
        for stored in found
        if stored.value.login is not None
    ]


def _secure(visit: Visit) -> bool:
    """Whether a browser keeps our cookie: over TLS, or at this machine itself."""
    host = visit.origin.partition("://")[2]
    local = host.rpartition(":")[0] or host
    return visit.origin.startswith("https://") or local in ("localhost", "127.0.0.1", "[::1]")


def sign_in(visit: Visit, sessions: Sessions) -> Response:
    """With name and password. `tenant/name` for an account of a tenant; a bare name is of the platform."""
    check_same_site(visit)
    tenant, _, name = visit.form.get("name", "").strip()[:NAME_MAX].rpartition("/")
    found = _proven(visit, tenant, name, visit.form.get("password", ""))
    if found is None:
        return show(visit, wrong=WRONG, status=401)
    principal_id, tenant_id = found
    try:
        token = sessions.begin(method="password", principal_id=principal_id, name=name, tenant_id=tenant_id)
    except InterlockError as error:
        return show(visit, wrong=error.message, status=error.status)
    answer = visit.go(safe_path(visit.form.get("to", "")))
    set_cookie(answer, token)
    return answer


def set_cookie(answer: Response, token: str) -> None:
    """For this host only, over TLS only (or at this machine), out of reach of scripts and of other sites' requests."""
    answer.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="lax", path="/")


def _proven(visit: Visit, tenant: str, name: str, password: str) -> tuple[str, str] | None:
    """(principal, tenant) of a right password. Wrong ones are counted in the same transaction as they are looked at."""
    tools = visit.api.tools
    now = tools.now()
    with visit.api.store.platform() as conn:
        try:
            tenant_id = Names(conn).tenant(tenant) if tenant else tenants.PLATFORM_TENANT
        except NotFound:
            tenant_id = ""
        account = console.account(conn, tenant_id, name) if tenant_id else None
        right = passwords.verify(account.password_hash if account is not None else None, password)
        if account is None or now < account.locked_until:
            return None
        failures = 0 if right else account.failures + 1
        until = datetime.datetime.fromtimestamp(0, datetime.UTC) if right else passwords.locked_until(failures, now)
        if failures or account.failures:
            console.note_try(conn, account.principal_id, failures, until)
    return (account.principal_id, tenant_id) if right else None


PAGES = (
    Page("GET", "/sign-in", form, open=True),
    Page("POST", "/sign-in", sign_in, open=True),
)
