"""One request of a browser: what was sent, who makes it, and what a page may answer."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import HTMLResponse, RedirectResponse, Response

from interlock.control.permissions import Action, decide
from interlock.errors import BadRequest, Denied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Environment

    from interlock.control.identity import Actor
    from interlock.control.web import Api
    from interlock.storage.console import Session

COOKIE = "__Host-interlock"
FIELDS_MAX = 200
SEAL_CHARS = 32
"""128 bits."""
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-interlock-csrf"


class Place(NamedTuple):
    """An entry of the main navigation. `action`: who may do it anywhere is shown it; None is for everybody."""

    group: str
    name: str
    path: str
    action: Action | None = None


NAVIGATION = (
    Place("Watch", "Live", "/console/", Action.usage_read),
    Place("Watch", "Alerts", "/console/alerts", Action.alert_read),
    Place("Watch", "Health", "/console/health"),
    Place("Account for", "Ledger", "/console/calls", Action.ledger_read),
    Place("Account for", "Usage", "/console/usage", Action.usage_read),
    Place("Account for", "Budgets", "/console/budgets", Action.budget_read),
    Place("Try", "Playground", "/console/playground", Action.playground_use),
    Place("Set up", "People", "/console/people", Action.principal_read),
    Place("Set up", "Policies", "/console/policies", Action.policy_read),
    Place("Set up", "My keys", "/console/keys", Action.key_write_own),
    Place("Set up", "Sources", "/console/sources", Action.source_read),
    Place("Set up", "Router", "/console/router", Action.router_read),
    Place("Set up", "Aliases", "/console/aliases", Action.alias_read),
)


class Fields(dict[str, str]):
    """A query or a form (application/x-www-form-urlencoded): the last value of each name, and all of them."""

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(pairs)
        self._pairs = pairs

    @classmethod
    def read(cls, text: str) -> Fields:
        """Raises BadRequest when there are more than FIELDS_MAX fields."""
        try:
            return cls(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="replace"))
        except ValueError:
            raise BadRequest(f"a form has at most {FIELDS_MAX} fields") from None

    def __missing__(self, name: str) -> str:
        """What was not sent is empty, as an unfilled field is."""
        return ""

    def every(self, name: str) -> list[str]:
        """All values of a name, such as those of checked boxes, in the form's order."""
        return [value for key, value in self._pairs if key == name]


class Link(NamedTuple):
    """An entry of the navigation. `here`: the page that is shown. `firing`: how many alerts do there."""

    name: str
    path: str
    here: bool
    firing: int = 0


@dataclasses.dataclass(slots=True)
class Visit:
    """`session` and `actor` are None until somebody signed in."""

    api: Api
    templates: Environment
    method: str
    path: str
    origin: str
    """Scheme, host and port that the browser asked, as `console_url` or the request says."""
    headers: Mapping[str, str]
    query: Fields
    form: Fields
    path_params: dict[str, str]
    token: str = ""
    session: Session | None = None
    actor: Actor | None = None
    nonce: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(18))

    @property
    def partial(self) -> bool:
        """Whether htmx asks for a piece of a page."""
        return self.headers.get("hx-request") == "true"

    def may(self, action: Action, tenant_id: str | None = None) -> bool:
        """Whether the visitor may: what one may not do is not shown (and refused by the services anyway)."""
        return self.actor is not None and decide(self.actor.bindings, action, tenant_id).allowed

    def may_somewhere(self, action: Action) -> bool:
        """Whether the visitor may do it on the platform or in some tenant."""
        held = self.actor.bindings if self.actor is not None else ()
        return any(self.may(action, binding.tenant_id) for binding in held)

    def who(self) -> Actor:
        """The signed-in administrator. INVARIANT: pages that are not open are reached with one only."""
        if self.actor is None:
            raise Denied("sign in first", code="no_session")
        return self.actor

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A rendered page."""
        html = self.templates.get_template(template).render(visit=self, **values)
        return HTMLResponse(html, status_code=status)

    def links(self) -> list[tuple[str, list[Link]]]:
        """The pages that the main navigation leads to, by group."""
        here = self.path.rstrip("/")
        groups: dict[str, list[Link]] = {}
        for group, name, path, action in NAVIGATION:
            if action is None or self.may_somewhere(action):
                shown = here == path.rstrip("/") or (path != "/console/" and here.startswith(path + "/"))
                groups.setdefault(group, []).append(Link(name, path, shown, self._firing(path)))
        return list(groups.items())

    def _firing(self, path: str) -> int:
        """How many alerts fire that the visitor may see."""
        if path != "/console/alerts" or self.actor is None or self.api.alerts is None:
            return 0
        return self.api.alerts.counts.seen_by(self.actor.bindings)

    def go(self, path: str, *, said: str = "") -> Response:
        """Off to another page of the console, by GET. `said`: a sentence for that page to show once at its top.

        It travels in the address under a seal of this session, so that no link can put words into our mouth.
        """
        if said:
            path += ("&" if "?" in path else "?") + urlencode({"said": said, "seal": self._seal(said)})
        return RedirectResponse(path, status_code=303)

    def said(self) -> str:
        """What the page before this one wanted to be said; "" without a right seal."""
        text = self.query.get("said", "")
        right = bool(text) and hmac.compare_digest(self.query.get("seal", "").encode(), self._seal(text).encode())
        return text if right else ""

    def _seal(self, text: str) -> str:
        key = self.session.csrf if self.session is not None else self.nonce
        return hmac.new(key.encode(), b"said:" + text.encode(), hashlib.sha256).hexdigest()[:SEAL_CHARS]


def check_same_site(visit: Visit) -> None:
    """A change is asked for by our own pages only. Raises Denied.

    Browsers say where a request comes from: `Sec-Fetch-Site`, or, those that do not know it, `Origin`.
    """
    site = visit.headers.get("sec-fetch-site", "")
    origin = visit.headers.get("origin", "")
    if site not in ("", "same-origin") or (origin and not _same(origin, visit.origin)) or not (site or origin):
        raise Denied("this request did not come from a page of this console", code="cross_site")


def check_csrf(visit: Visit) -> None:
    """A change carries the token of its session. Raises Denied."""
    check_same_site(visit)
    given = visit.headers.get(CSRF_HEADER, "") or visit.form.get(CSRF_FIELD, "")
    if visit.session is None or not hmac.compare_digest(given.encode(), visit.session.csrf.encode()):
        raise Denied("the page was open for too long; load it again and repeat what you did", code="csrf")


def safe_path(path: str) -> str:
    """Where to go after signing in: a path of the console, never another site."""
    parts = urlsplit(path)
    if parts.scheme or parts.netloc or not path.startswith("/console") or "\\" in path or not path.isprintable():
        return "/console/"
    return path


def _same(origin: str, ours: str) -> bool:
    return hmac.compare_digest(origin.lower().encode(), ours.lower().encode())
