"""Signing in at an identity provider: away to it with a link, and back with a code.

A sign-in under way belongs to one browser and one provider: it is found by `state` together with a cookie of that
browser, once, and each provider has a callback of its own, so that the answer of one is never taken for another's.
"""

from __future__ import annotations

import datetime
import logging
import re
import secrets
from typing import TYPE_CHECKING

from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse

from interlock.control.console.page import Page
from interlock.control.console.sessions import digest
from interlock.control.console.signin import set_cookie, show
from interlock.control.console.visit import safe_path
from interlock.control.identity import reach_of
from interlock.errors import Denied, InterlockError, NotFound, Unauthenticated, Unavailable, UpstreamError
from interlock.identity import oidc
from interlock.identity.fetch import FetchError
from interlock.identity.tokens import groups_of
from interlock.sources.credentials import CredentialStore
from interlock.storage import console, issuers, tenants
from interlock.storage.console import Login
from interlock.types.identity import Issuer, SignIn
from interlock.types.source import CredentialRef

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

logger = logging.getLogger(__name__)

BROWSER_COOKIE = "__Host-interlock-login"
LOGIN_S = 600
"""How long somebody may take at the provider."""
SECRET_BYTES = 32
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
OVER = "This sign-in is not under way in this browser any more. Start again."
AWAY = "The identity provider cannot be asked just now; the log of the control process says why."


def begin(visit: Visit, sessions: Sessions) -> Response:
    """Off to the provider."""
    issuer, login = _issuer(visit)
    tools = visit.api.tools
    try:
        provider = sessions.providers.find(issuer.issuer)
    except FetchError as error:
        return _away(visit, issuer, error)
    state, nonce, verifier = (secrets.token_urlsafe(SECRET_BYTES) for _ in range(3))
    browser = _browser(visit) or secrets.token_urlsafe(SECRET_BYTES)
    now = tools.now()
    with visit.api.store.platform() as conn:
        under_way = Login(issuer.id, nonce, verifier, safe_path(visit.query.get("to", "")))
        until = now + datetime.timedelta(seconds=LOGIN_S)
        most = tools.settings.console_logins_max
        if not console.begin_login(conn, _name(state, browser), under_way, now, until, most=most):
            raise Unavailable("too many sign-ins are under way; try again in some minutes", code="too_many_logins")
    url = oidc.authorization_url(
        provider, login, redirect_uri=_callback(visit, issuer), state=state, nonce=nonce, verifier=verifier
    )
    answer = RedirectResponse(url, status_code=303)
    answer.set_cookie(BROWSER_COOKIE, browser, max_age=LOGIN_S, secure=True, httponly=True, samesite="lax", path="/")
    return answer


def back(visit: Visit, sessions: Sessions) -> Response:
    """Back from the provider: whoever it vouches for is signed in, if their groups give them a role."""
    issuer, _ = _issuer(visit)
    browser, state = _browser(visit), visit.query.get("state", "")
    with visit.api.store.platform() as conn:
        under_way = console.take_login(conn, _name(state, browser), visit.api.tools.now()) if browser else None
    if under_way is None or under_way.issuer_id != issuer.id:
        return show(visit, wrong=OVER, status=400)
    try:
        token = _signed_in(visit, sessions, issuer, under_way)
    except Denied as error:
        if error.code != "admin_denied":
            raise
        words = "You are signed in at the identity provider, but none of your groups has a role here."
        return show(visit, wrong=f"{words} Ask an administrator of your tenant.", status=403)
    except oidc.SignInRefused as error:
        return show(visit, wrong=error.message, status=error.status)
    except Unauthenticated as error:
        logger.warning("a sign-in at issuer %s was refused: %s", issuer.id, error.message)
        return show(visit, wrong="What the identity provider answered does not hold.", status=401)
    except (FetchError, UpstreamError, Unavailable) as error:
        return _away(visit, issuer, error)
    answer = visit.go(safe_path(under_way.goes_to))
    set_cookie(answer, token)
    answer.delete_cookie(BROWSER_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _signed_in(visit: Visit, sessions: Sessions, issuer: Issuer, under_way: Login) -> str:
    """The token of the new session. Raises SignInRefused, Unauthenticated, Denied, FetchError, Unavailable."""
    login = issuer.login
    if login is None:
        raise NotFound("There is no such page.")
    provider = sessions.providers.find(issuer.issuer)
    code = oidc.code_of(provider, visit.query)
    id_token = sessions.providers.redeem(
        provider,
        login,
        secret=_secret(visit, issuer, login),
        code=code,
        redirect_uri=_callback(visit, issuer),
        verifier=under_way.verifier,
    )
    proven = visit.api.by_token.signed_in(issuer, id_token)
    oidc.check_id_token(proven.claims, login, under_way.nonce)
    return sessions.begin(
        method="oidc",
        principal_id=proven.caller.principal.id,
        name=proven.caller.principal.name,
        tenant_id=issuer.tenant_id,
        issuer_id=issuer.id,
        id_token=id_token if login.end_session else "",
        groups=sorted(groups_of(issuer, proven.claims) & (set(issuer.group_roles) | set(issuer.group_teams))),
    )


def _issuer(visit: Visit) -> tuple[Issuer, SignIn]:
    """The issuer of the address. Raises NotFound when nobody signs in there."""
    with visit.api.store.platform() as conn:
        found = issuers.get(conn, visit.path_params["issuer"])
        tenant = tenants.get(conn, found.value.tenant_id) if found is not None else None
    if found is None or found.value.login is None or tenant is None or not tenant.value.active:
        raise NotFound("There is no such page.")
    return found.value, found.value.login


def _secret(visit: Visit, issuer: Issuer, login: SignIn) -> str:
    if not login.secret_env and not login.secret_file:
        return ""
    ref = CredentialRef(env=login.secret_env, file=login.secret_file)
    # A tenant's secret is in the folder of that tenant: nobody has the console read other files and send them away.
    owner = reach_of(issuer.tenant_id) or ""
    return CredentialStore(visit.api.tools.settings).secret(f"issuer {issuer.issuer!r}", owner, ref)


def _callback(visit: Visit, issuer: Issuer) -> str:
    return f"{visit.origin}/console/sign-in/{issuer.id}/callback"


def _browser(visit: Visit) -> str:
    """The secret of this browser, "" without one."""
    found = cookie_parser(visit.headers.get("cookie", "")).get(BROWSER_COOKIE, "")
    return found if _SECRET.fullmatch(found) else ""


def _name(state: str, browser: str) -> bytes:
    return digest(f"{state}.{browser}")


def _away(visit: Visit, issuer: Issuer, error: InterlockError) -> Response:
    logger.warning("nobody can sign in at issuer %s: %s", issuer.id, error.message)
    return show(visit, wrong=AWAY, status=503)


PAGES = (
    Page("GET", "/sign-in/{issuer}", begin, open=True),
    Page("GET", "/sign-in/{issuer}/callback", back, open=True),
)
