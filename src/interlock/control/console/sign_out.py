"""Signing out: here first, in any case, and then at the identity provider where its issuer says so.

OpenID Connect RP-Initiated Logout 1.0. The browser is led to the `end_session_endpoint` of the issuer's own discovery
document, and to nothing that a request names. The ID token that goes along as a hint was kept with the session, sealed
under a key that only the session's cookie gives.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from interlock.control.console.page import Page
from interlock.control.console.signin import show
from interlock.control.console.visit import COOKIE, check_csrf
from interlock.errors import InterlockError
from interlock.identity import oidc
from interlock.storage import issuers

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.storage.console import Session

logger = logging.getLogger(__name__)

STATE_COOKIE = "__Host-interlock-out"
BACK_S = 600
"""How long somebody may take at the provider to be told, when they are back, that they are signed out there too."""


class Away(NamedTuple):
    """Where a browser is led to sign out at a provider."""

    label: str
    url: str
    state: str


def sign_out(visit: Visit, sessions: Sessions) -> Response:
    """The session ends here and in the database; then, perhaps, at its provider."""
    check_csrf(visit)
    session, token = visit.session, visit.token
    # INVARIANT: what the provider does, or does not, changes nothing about the end of the session here.
    sessions.end(token)
    away = _away(visit, sessions, session, token) if session is not None and session.method == "oidc" else None
    visit.session = visit.actor = None
    answer = visit.go("/console/sign-in") if away is None else visit.page("signed_out.html", away=away)
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    if away is not None:
        answer.set_cookie(
            STATE_COOKIE, away.state, max_age=BACK_S, secure=True, httponly=True, samesite="lax", path="/"
        )
    return answer


def back(visit: Visit, _: Sessions) -> Response:
    """Back from the provider. Nothing depends on it: whoever comes with the state of this browser is told so."""
    kept = cookie_parser(visit.headers.get("cookie", "")).get(STATE_COOKIE, "")
    given = visit.query.get("state", "")
    theirs = bool(kept) and hmac.compare_digest(kept.encode(), given.encode())
    answer = show(visit, done="You are signed out, at your identity provider too." if theirs else "")
    answer.delete_cookie(STATE_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _away(visit: Visit, sessions: Sessions, session: Session, token: str) -> Away | None:
    """Where to go; None when the issuer does not ask for it, or its provider has no such endpoint, or is not there."""
    try:
        with visit.api.store.platform() as conn:
            found = issuers.get(conn, session.issuer_id)
        login = found.value.login if found is not None else None
        if found is None or login is None or not login.end_session:
            return None
        provider = sessions.providers.find(found.value.issuer)
        if not provider.end_session_endpoint:
            return None
        state = secrets.token_urlsafe(32)
        url = oidc.end_session_url(
            provider,
            login,
            id_token=sessions.id_token(token, session),
            redirect_uri=f"{visit.origin}/console/sign-in/{found.value.id}/signed-out",
            state=state,
        )
    except InterlockError as error:
        logger.warning("signed out here, and not at issuer %s: %s", session.issuer_id, error.message)
        return None
    return Away(login.label or urlsplit(found.value.issuer).hostname or "", url, state)


PAGES = (
    Page("POST", "/sign-out", sign_out),
    Page("GET", "/sign-in/{issuer}/signed-out", back, open=True),
)
