"""`interlock alert`: what fires, rules, silence, channels and their tests."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json, table
from interlock.errors import BadRequest, DeliveryError
from interlock.types.alert import KINDS, AlertKind

app = Commands(help="Alerts of a tenant, or of the platform.", no_args_is_help=True)
rule_app = Commands(help="Rules.", no_args_is_help=True)
channel_app = Commands(help="Channels.", no_args_is_help=True)
app.add_typer(rule_app, name="rule")
app.add_typer(channel_app, name="channel")
Whose = Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant; the platform's when left out.")]
RuleName = Annotated[str, typer.Argument(help="Name of the rule.")]
ChannelName = Annotated[str, typer.Argument(help="Name of the channel.")]
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("list")
def list_(tenant: Whose = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """Show what fires, and every rule."""
    found = client_of(home, url, ca).call("GET", "/alerts", query=_query(tenant))
    if as_json:
        put_json(found)
        return
    firing = [(rule, thing) for rule in found["rules"] for thing in rule["things"] if thing["status"] == "firing"]
    put(f"{len(firing)} firing" if firing else "Nothing fires.")
    rows = [
        (
            rule["severity"],
            rule["name"],
            thing["subject"] or "everything",
            thing["shown"],
            rule["shown"],
            thing["since"],
        )
        for rule, thing in firing
    ]
    if rows:
        table(rows, ("SEVERITY", "RULE", "WHAT", "VALUE", "THRESHOLD", "SINCE"))
    put("")
    rules = [
        (
            rule["name"],
            rule["kind"],
            rule["shown"],
            f"{rule['for_s']} s",
            ", ".join(rule["channels"]) or "-",
            _now(rule),
        )
        for rule in found["rules"]
    ]
    table(rules, ("RULE", "READS", "FIRES AT", "FOR", "TELLS", "NOW"))
    if found["channels"]:
        put("")
        channels = [(c["name"], c["kind"], c["url"] or ", ".join(c["addresses"])) for c in found["channels"]]
        table(channels, ("CHANNEL", "KIND", "GOES TO"))


@app.command()
def show(
    rule: RuleName, tenant: Whose = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Show a rule, and each thing that it watches."""
    found = client_of(home, url, ca).call("GET", _rule(rule), query=_query(tenant))
    if as_json:
        put_json(found)
        return
    put(f"{found['name']}: {found['reads']}, at {found['shown']} or above for {found['for_s']} s; {_now(found)}")
    rows = [
        (t["subject"] or "everything", t["status"], t["since"], t["shown"], t["words"], t["unknown_since"] or "-")
        for t in found["things"]
    ]
    table(rows, ("WHAT", "STATE", "SINCE", "VALUE", "FOUND", "UNKNOWN SINCE"))


@rule_app.command("set")
def set_rule(
    rule: RuleName,
    kind: Annotated[AlertKind, typer.Option(help="What it reads; stays what it was made with.")],
    threshold: Annotated[str, typer.Option(help="Fires at or above: 90% for shares, else a number.")],
    tenant: Whose = "",
    for_: Annotated[str, typer.Option("--for", help="How long before it fires, such as 60s or 5m.")] = "60s",
    window: Annotated[str, typer.Option(help="Of calls of how long, such as 5m.")] = "300s",
    count_min: Annotated[int, typer.Option(help="With at least so many calls.")] = 0,
    no_data: Annotated[str, typer.Option(help="Tell when it cannot be read for so long; 0s: never.")] = "0s",
    source: Annotated[str, typer.Option(help="Only this source.")] = "",
    team: Annotated[str, typer.Option(help="Only this team.")] = "",
    budget: Annotated[str, typer.Option(help="Only this budget.")] = "",
    severity: Annotated[str, typer.Option(help="info, warning or critical.")] = "warning",
    channel: Annotated[list[str] | None, typer.Option(help="A channel that is told; may be repeated.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Switched off.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a rule, or replace it."""
    scope = {name: value for name, value in (("source", source), ("team", team), ("budget", budget)) if value}
    body = {
        "kind": kind.value,
        "threshold": _threshold(threshold, kind),
        "for_s": _seconds(for_, "--for"),
        "window_s": _seconds(window, "--window"),
        "count_min": count_min,
        "no_data_s": _seconds(no_data, "--no-data"),
        "scope": scope,
        "severity": severity,
        "channels": channel or [],
        "enabled": not off,
    }
    why = reason_or(reason, f"alert rule set {rule}")
    found = client_of(home, url, ca).call("PUT", _rule(rule), body, reason=why, query=_query(tenant))
    _done(found, f"Rule {rule} is set.", as_json)


@rule_app.command("delete")
def delete_rule(
    rule: RuleName,
    tenant: Whose = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Remove a rule; what it fires for is over."""
    why = reason_or(reason, f"alert rule delete {rule}")
    found = client_of(home, url, ca).call("DELETE", _rule(rule), why=why, query=_query(tenant))
    _done(found, f"Rule {rule} is removed.", as_json)


@app.command()
def silence(
    rule: RuleName,
    tenant: Whose = "",
    for_: Annotated[str, typer.Option("--for", help="For how long, such as 4h or 2d.")] = "4h",
    end: Annotated[bool, typer.Option("--end", help="End a silence.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Tell nobody of a rule's events for a time."""
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=_seconds(for_, "--for"))
    body = {"until": None if end else until.isoformat()}
    why = reason_or(reason, f"alert silence {rule}")
    path = f"{_rule(rule)}/silence"
    found = client_of(home, url, ca).call("POST", path, body, reason=why, query=_query(tenant))
    said = "Its channels are told again." if end else f"Nobody is told of {rule} until {found['silenced_until']}."
    _done(found, said, as_json)


@channel_app.command("set")
def set_channel(
    channel: ChannelName,
    tenant: Whose = "",
    webhook: Annotated[str, typer.Option(help="URL of a webhook.")] = "",
    secret_file: Annotated[str, typer.Option(help="File with its signing secret, where the control runs.")] = "",
    secret_env: Annotated[str, typer.Option(help="Or the environment variable with it.")] = "",
    address: Annotated[list[str] | None, typer.Option(help="An e-mail address; may be repeated.")] = None,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a channel, or replace it: a webhook, or e-mail addresses."""
    body: dict[str, Any] = {"kind": "webhook", "url": webhook, "secret": {"env": secret_env, "file": secret_file}}
    if address:
        if webhook:
            raise BadRequest("a channel is a webhook or e-mail, not both", param="--webhook")
        body = {"kind": "email", "addresses": address}
    why = reason_or(reason, f"alert channel set {channel}")
    found = client_of(home, url, ca).call("PUT", _channel(channel), body, reason=why, query=_query(tenant))
    _done(found, f"Channel {channel} is set.", as_json)


@channel_app.command("delete")
def delete_channel(
    channel: ChannelName,
    tenant: Whose = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Remove a channel that no rule names."""
    why = reason_or(reason, f"alert channel delete {channel}")
    found = client_of(home, url, ca).call("DELETE", _channel(channel), why=why, query=_query(tenant))
    _done(found, f"Channel {channel} is removed.", as_json)


@app.command()
def test(
    channel: ChannelName,
    tenant: Whose = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Tell a channel of a test, now. Fails when it could not be told."""
    why = reason_or(reason, f"alert test {channel}")
    found = client_of(home, url, ca).call("POST", f"{_channel(channel)}/test", {}, reason=why, query=_query(tenant))
    if found["delivery"]["state"] != "delivered":
        raise DeliveryError(f"{channel} could not be told: {found['delivery']['error'] or 'it is still being tried'}")
    _done(found, f"{channel} took the test.", as_json)


def _done(found: Any, said: str, as_json: bool) -> None:
    if as_json:
        put_json(found)
    else:
        put(said)


def _query(tenant: str) -> dict[str, object]:
    return {"tenant": tenant} if tenant else {}


def _rule(name: str) -> str:
    return f"/alerts/rules/{quote(name, safe='')}"


def _channel(name: str) -> str:
    return f"/alerts/channels/{quote(name, safe='')}"


def _now(rule: dict[str, Any]) -> str:
    if not rule["enabled"]:
        return "switched off"
    states = [thing["status"] for thing in rule["things"]]
    unknown = sum(thing["unknown_since"] is not None for thing in rule["things"])
    words = [f"{states.count(each)} {each}" for each in ("firing", "pending") if each in states]
    words += [f"{unknown} unknown"] if unknown else []
    words += ["silenced"] if rule["silenced_until"] else []
    return ", ".join(words) or "quiet"


def _seconds(text: str, option: str) -> int:
    if text in ("0", "0s"):
        return 0
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise BadRequest(f"{option}: a length such as 60s, 5m, 4h or 2d", param=option)
    return int(found[1]) * _UNITS[found[2]]


def _threshold(text: str, kind: AlertKind) -> int:
    share = KINDS[kind].unit == "permille"
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9])?%" if share else "[0-9]{1,9}", text):
        words = "a percentage such as 90% or 0.5%" if share else "a whole number"
        raise BadRequest(f"--threshold: {words} for {kind.value}", param="--threshold")
    return int(Decimal(text.rstrip("%")) * 10) if share else int(text)
