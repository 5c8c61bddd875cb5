"""Alerts: what fires now and where its evidence is, rules, silence, channels and their tests, and who was told."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from interlock.control.alerts import service, shown
from interlock.control.alerts.service import ChannelSpec, SecretRef
from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import visible
from interlock.control.documents import RuleSpec
from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action, require
from interlock.control.services.base import Names
from interlock.control.validate import PLATFORM
from interlock.control.web import read_as
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.types.alert import KINDS, AlertKind

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.alerts.shown import AlertsView, ChannelView, RuleView, Thing
    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Fields, Visit

PLACE = "/console/alerts"
SEVERITIES = ("critical", "warning", "info")
TONES = {"critical": "red", "warning": "yellow", "info": ""}
SCOPE_WORDS = {"source": "Only this source", "team": "Only this team", "budget": "Only this budget"}
SILENCE_H = 4


class Firing(NamedTuple):
    """Something that fires, with its rule, and the page with its evidence ("": none)."""

    rule: RuleView
    thing: Thing
    evidence: str


def listing(visit: Visit, _: Sessions) -> Response:
    """What fires first, then everything else."""
    return _listing(visit, None)


def _listing(visit: Visit, error: InterlockError | None) -> Response:
    tenant, names = _chosen(visit)
    view = shown.overview(visit.api, visit.who(), tenant)
    return visit.page(
        "alerts.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        tenants=names,
        view=view,
        firing=_firing(view, tenant),
        elsewhere=_elsewhere(visit, tenant, names),
        may_write=_may_write(visit, tenant),
        tones=TONES,
        typed=visit.form,
        now=visit.api.tools.now(),
    )


def show(visit: Visit, _: Sessions) -> Response:
    """One rule, what it watches, and what may be done with it."""
    return _show(visit, None)


def _show(visit: Visit, error: InterlockError | None) -> Response:
    tenant, _ = _chosen(visit)
    name = visit.query["name"] or visit.form["name"]
    rule = shown.one_rule(visit.api, visit.who(), tenant, name)
    until = visit.api.tools.now() + datetime.timedelta(hours=SILENCE_H)
    return visit.page(
        "alert_rule.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        rule=rule,
        typed=visit.form if visit.form["do"] == "save" else typed_of(rule),
        reason=visit.form["reason"],
        until=visit.form["until"] or until.strftime("%Y-%m-%dT%H:%M"),
        may_write=_may_write(visit, tenant),
        tones=TONES,
        evidence={each.subject: evidence(rule.kind, each.subject, tenant) for each in rule.things},
        now=visit.api.tools.now(),
        **_choices(visit, tenant, AlertKind(rule.kind)),
    )


def fresh(visit: Visit, _: Sessions) -> Response:
    """Which kind first, then the form of a new rule of that kind."""
    typed = {"severity": "warning", "window_s": "300", "for_s": "60", "count_min": "20", "no_data_s": "0", "on": "yes"}
    return _form(visit, typed, None)


def _form(visit: Visit, typed: dict[str, str], error: InterlockError | None) -> Response:
    tenant, _ = _chosen(visit)
    require(visit.who().bindings, Action.alert_write, _reach(visit, tenant))
    asked = visit.query["kind"] or visit.form["kind"]
    kind = AlertKind(asked) if asked in AlertKind.__members__ else None
    kinds = [(k.value, info.words) for k, info in KINDS.items() if tenant == PLATFORM or not info.platform_only]
    return visit.page(
        "alert_new.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        kind=kind.value if kind is not None else "",
        kinds=kinds,
        typed=typed,
        **(_choices(visit, tenant, kind) if kind is not None else {}),
    )


def act(visit: Visit, _: Sessions) -> Response:
    """Save, make, silence, unsilence or delete a rule, as the pressed button says."""
    form, api, who = visit.form, visit.api, visit.who()
    verb, name, reason = form["do"], form["name"].strip(), Reason(form["reason"].strip())
    tenant, _names = _chosen(visit)
    try:
        if verb in ("save", "make"):
            revision = int(form["revision"]) if form["revision"].isdecimal() else None
            if verb == "make" and any(each.name == name for each in shown.overview(api, who, tenant).rules):
                raise BadRequest(f"there is a rule {name} already", param="name")
            service.put_rule(api, who, tenant, name, rule_spec(form), reason, revision)
            said = f"Rule {name} is set."
        elif verb == "silence":
            service.silence(api, who, tenant, name, _until(form["until"]), reason)
            said = f"Nobody is told of {name} until {form['until'].replace('T', ' ')} UTC."
        elif verb == "unsilence":
            service.silence(api, who, tenant, name, None, reason)
            said = f"Its channels are told of {name} again."
        elif verb == "delete":
            service.delete_rule(api, who, tenant, name, reason)
            return visit.go(_path(tenant), said=f"Rule {name} is deleted.")
        else:
            raise BadRequest("there is no such action", param="do")
    except InterlockError as error:
        return _form(visit, form, error) if verb == "make" else _show(visit, error)
    return visit.go(_rule_path(tenant, name), said=said)


def channel(visit: Visit, _: Sessions) -> Response:
    """The form of a channel, new or as it is."""
    return _channel(visit, None)


def _channel(visit: Visit, error: InterlockError | None) -> Response:
    tenant, _ = _chosen(visit)
    require(visit.who().bindings, Action.alert_write, _reach(visit, tenant))
    name = visit.query["name"] or (visit.form["name"] if visit.form["known"] else "")
    found = None
    if name:
        view = shown.overview(visit.api, visit.who(), tenant)
        found = next((each for each in view.channels if each.name == name), None)
        if found is None:
            raise NotFound(f"there is no channel {name!r}", param="name")
    asked = visit.query["kind"] or visit.form["kind"]
    kind = found.kind if found is not None else asked if asked in ("webhook", "email") else "webhook"
    return visit.page(
        "alert_channel.html",
        error.status if error is not None else 200,
        error=error,
        tenant=tenant,
        channel=found,
        kind=kind,
        typed=visit.form if visit.form else _typed_channel(found),
        mail=bool(visit.api.tools.settings.alerts_smtp_host),
        own=tenant != PLATFORM,
    )


def act_channel(visit: Visit, _: Sessions) -> Response:
    """Save, test or delete a channel, as the pressed button says."""
    form, api, who = visit.form, visit.api, visit.who()
    verb, name, reason = form["do"], form["name"].strip(), Reason(form["reason"].strip())
    tenant, _names = _chosen(visit)
    try:
        if verb == "save":
            revision = int(form["revision"]) if form["revision"].isdecimal() else None
            service.put_channel(api, who, tenant, name, channel_spec(form), reason, revision)
            said = f"Channel {name} is set. Try it with a test."
        elif verb == "test":
            _event, delivery = service.try_channel(api, who, tenant, name, reason)
            if delivery.state != "delivered":
                raise BadRequest(f"{name} could not be told: {delivery.error or 'it is still being tried'}")
            said = f"{name} took the test."
        elif verb == "delete":
            service.delete_channel(api, who, tenant, name, reason)
            said = f"Channel {name} is deleted."
        else:
            raise BadRequest("there is no such action", param="do")
    except InterlockError as error:
        return _channel(visit, error) if verb == "save" else _listing(visit, error)
    return visit.go(_path(tenant), said=said)


def evidence(kind: str, subject: str, tenant: str) -> str:
    """The page that shows what a thing fires for: its source, its budget, its calls. `tenant`: whose rule it is."""
    platform = tenant == PLATFORM
    if kind.startswith("budget_"):
        whose, _, name = subject.rpartition("/") if platform else (tenant, "", subject)
        return "/console/budgets/budget?" + urlencode({"tenant": whose, "name": name})
    if kind in ("call_failures", "source_failures") and not platform:
        where = {"source": subject} if subject else {}
        return "/console/calls?" + urlencode({"tenant": tenant, "state": "not completed", **where})
    if kind.startswith("source_"):
        return f"/console/sources/{quote(subject, safe='')}"
    if kind == "denials" and not platform:
        return "/console/calls?" + urlencode({"tenant": tenant, "kind": "refusal"})
    return "/console/" if kind in ("call_failures", "denials") else "/console/health"


def rule_spec(form: Fields) -> RuleSpec:
    """What a filled-in form declares. Raises BadRequest."""
    kind = form["kind"]
    if kind not in AlertKind.__members__:
        raise BadRequest("choose what the rule reads", param="kind")
    info = KINDS[AlertKind(kind)]
    given: dict[str, Any] = {
        "kind": kind,
        "threshold": _threshold(form["threshold"], info.unit),
        "for_s": _number(form, "for_s", "For"),
        "no_data_s": _number(form, "no_data_s", "Tell when it cannot be read for"),
        "scope": {name: form[name].strip() for name in info.scope if form[name].strip()},
        "severity": form["severity"],
        "channels": form.every("channels"),
        "enabled": form["on"] == "yes",
    }
    if info.windowed:
        given |= {"window_s": _number(form, "window_s", "Within"), "count_min": _number(form, "count_min", "Least")}
    return read_as(given, RuleSpec)


def channel_spec(form: Fields) -> ChannelSpec:
    """What a filled-in form declares. Raises BadRequest."""
    if form["kind"] == "email":
        addresses = tuple(part for part in re.split(r"[,\s]+", form["addresses"]) if part)
        return ChannelSpec(kind="email", addresses=addresses)
    secret = SecretRef(env=form["secret_env"].strip(), file=form["secret_file"].strip())
    return ChannelSpec(kind="webhook", url=form["url"].strip(), secret=secret)


def typed_of(rule: RuleView) -> dict[str, str]:
    """The fields of the form that declare this rule."""
    scope = {name: getattr(rule.scope, name) for name in SCOPE_WORDS}
    return {
        "kind": rule.kind,
        "threshold": f"{rule.threshold / 10:g}" if rule.unit == "permille" else str(rule.threshold),
        "window_s": str(rule.window_s),
        "for_s": str(rule.for_s),
        "count_min": str(rule.count_min),
        "no_data_s": str(rule.no_data_s),
        "severity": rule.severity,
        "on": "yes" if rule.enabled else "no",
        **scope,
    }


def _typed_channel(found: ChannelView | None) -> dict[str, str]:
    if found is None:
        return {}
    secret = found.secret
    return {
        "name": found.name,
        "url": found.url,
        "secret_env": secret.env if secret is not None else "",
        "secret_file": secret.file if secret is not None else "",
        "addresses": ", ".join(found.addresses),
    }


def _choices(visit: Visit, tenant: str, kind: AlertKind) -> dict[str, Any]:
    """What a form offers."""
    info = KINDS[kind]
    view = shown.overview(visit.api, visit.who(), tenant)
    units = {"permille": "%", "s": "seconds", "count": ""}
    return {
        "info": info,
        "unit": units[info.unit],
        "severities": SEVERITIES,
        "scopes": [(name, SCOPE_WORDS[name]) for name in info.scope],
        "channels": [each.name for each in view.channels],
        "picked": visit.form.every("channels")
        if visit.form["do"] in ("save", "make")
        else next((rule.channels for rule in view.rules if rule.name == visit.query["name"]), ()),
    }


def _firing(view: AlertsView, tenant: str) -> list[Firing]:
    found = [
        Firing(rule, thing, evidence(rule.kind, thing.subject, tenant)) for rule in view.rules for thing in rule.firing
    ]
    return sorted(found, key=lambda each: (SEVERITIES.index(each.rule.severity), each.thing.since))


def _elsewhere(visit: Visit, tenant: str, names: list[str]) -> list[tuple[str, int]]:
    """Other places that the visitor sees in which something fires: (name, how many)."""
    alerts = visit.api.alerts
    counts = alerts.counts.by_tenant() if alerts is not None else {}
    if not counts:
        return []
    with visit.api.store.platform() as conn:
        known = Names(conn)
        named = {known.of(id_) if id_ else PLATFORM: count for id_, count in counts.items()}
    return [(name, named[name]) for name in names if name != tenant and name in named]


def _reach(visit: Visit, tenant: str) -> str | None:
    return reach_of(tenant_of(visit.api.store, visit.who(), tenant))


def _may_write(visit: Visit, tenant: str) -> bool:
    return visit.may(Action.alert_write, _reach(visit, tenant))


def _chosen(visit: Visit) -> tuple[str, list[str]]:
    """Whose alerts are looked at, and whose could be; the platform's first, as they are of everything."""
    names = sorted(visible(visit, Action.alert_read), key=lambda name: name != PLATFORM)
    wanted = visit.query["tenant"] or visit.form["tenant"]
    if not names or (wanted and wanted not in names):
        raise NotFound("There is no such tenant, or none that you may see.")
    return wanted or names[0], names


def _path(tenant: str) -> str:
    return f"{PLACE}?{urlencode({'tenant': tenant})}"


def _rule_path(tenant: str, name: str) -> str:
    return f"{PLACE}/rule?{urlencode({'tenant': tenant, 'name': name})}"


def _until(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise BadRequest("until: a day and a time, UTC", param="until") from None


def _number(form: Fields, name: str, words: str) -> int:
    text = form[name].strip() or "0"
    if not re.fullmatch("[0-9]{1,9}", text):
        raise BadRequest(f"{words}: a whole number", param=name)
    return int(text)


def _threshold(text: str, unit: str) -> int:
    """Percentages with at most one decimal become thousandths. Raises BadRequest."""
    try:
        value = Decimal(text.strip().replace("\u202f", "")) if re.fullmatch(r"\s*[0-9.]{1,12}\s*", text) else None
    except InvalidOperation:
        value = None
    if value is not None and unit == "permille":
        value *= 10
    if value is None or value != int(value) or value < 1:
        words = "a percentage such as 90 or 0.5" if unit == "permille" else "a whole number from 1"
        raise BadRequest(f"threshold: {words}", param="threshold")
    return int(value)


PAGES = (
    Page("GET", "/alerts", listing),
    Page("GET", "/alerts/rule", show),
    Page("GET", "/alerts/new", fresh),
    Page("POST", "/alerts/rule", act),
    Page("GET", "/alerts/channel", channel),
    Page("POST", "/alerts/channel", act_channel),
)
