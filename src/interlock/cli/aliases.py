"""Aliases: list, show, add, remove, and their canaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli import alias_reports
from interlock.cli.common import AsJson, Ca, Commands, Home, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json, table
from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient

app = Commands(help="Aliases: model names of your own.", no_args_is_help=True)
shadow_app = Commands(help="Send a share of an alias's calls to a candidate too, to compare.", no_args_is_help=True)
app.add_typer(shadow_app, name="shadow")
alias_reports.add_to(app)
canary_app = Commands(help="Try a candidate on a share of an alias's calls.", no_args_is_help=True)
app.add_typer(canary_app, name="canary")

Name = Annotated[str, typer.Argument(help="Name of the alias.")]
Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant; without one, the platform's aliases.")]
Model = Annotated[str, typer.Option("--model", help="Model, or model@version.")]
Source = Annotated[str, typer.Option("--source", help="Only at this source.")]

_SHOWN = ("id", "revision", "created_at", "updated_at", "canary_state")
"""What is shown of an alias and not declared."""


@app.command("list")
def list_(tenant: Tenant = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """List the aliases, their targets, their canaries, and when they end."""
    rows = client_of(home, url, ca).pages(_path(tenant))
    if as_json:
        put_json(rows)
        return
    table(
        (
            (row["name"], _targets(row), _canary(row), row["deprecated"], row["sunset"], row["successor"])
            for row in rows
        ),
        ("name", "targets", "canary", "deprecated", "sunset", "successor"),
    )


@app.command()
def show(name: Name, tenant: Tenant = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """Show one alias."""
    item = client_of(home, url, ca).call("GET", _path(tenant, name))
    if as_json:
        put_json(item)
    else:
        _show(item)


@app.command()
def add(
    name: Name,
    model: Annotated[list[str], typer.Option("--model", help="Model, or model@version; weighted with model=WEIGHT.")],
    tenant: Tenant = "",
    mode: Annotated[str, typer.Option("--mode", help="eco, balanced or quality.")] = "balanced",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Add an alias."""
    targets = [_weighted(each) for each in model]
    body = {"name": name, "targets": targets, "mode": mode}
    answer = client_of(home, url, ca).call("POST", _path(tenant), body, reason=reason_or(reason, f"alias add {name}"))
    _done(answer, as_json)


@app.command()
def sunset(
    name: Name,
    at: Annotated[str, typer.Argument(help="Date or time (UTC) from which on it is refused; empty: never.")],
    tenant: Tenant = "",
    deprecated: Annotated[str, typer.Option("--deprecated", help="From when on it should not be used.")] = "",
    successor: Annotated[str, typer.Option("--successor", help="Name to use instead.")] = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Say when an alias ends, and what to use instead."""
    client = client_of(home, url, ca)
    change = {"sunset": at, "deprecated": deprecated, "successor": successor}
    _change(client, tenant, name, change, reason_or(reason, f"alias sunset {name}"), as_json)


@app.command()
def remove(
    name: Name,
    tenant: Tenant = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Remove an alias."""
    client = client_of(home, url, ca)
    answer = client.call("DELETE", _path(tenant, name), why=reason_or(reason, f"alias remove {name}"))
    if as_json:
        put_json(answer)
    else:
        put(f"removed {name}")


@canary_app.command("start")
def start(
    name: Name,
    model: Model,
    share: Annotated[int, typer.Option("--share-milli", min=1, max=1000, help="Thousandths of the calls.")],
    tenant: Tenant = "",
    source: Source = "",
    step: Annotated[list[str] | None, typer.Option("--step", help="SECONDS=SHARE_MILLI from the start on.")] = None,
    sticky: Annotated[bool, typer.Option("--sticky", help="Share of the principals instead of the calls.")] = False,
    calls_min: Annotated[int, typer.Option("--calls-min", help="Calls that are taken to have been made.")] = 30,
    window_s: Annotated[int, typer.Option("--window-s", help="Seconds that are looked back.")] = 600,
    errors: Annotated[int, typer.Option("--errors-milli-max", help="Thousandths that may fail.")] = 100,
    errors_over: Annotated[
        int, typer.Option("--errors-milli-over-stable", help="Thousandths above the others' failures; -1: any.")
    ] = -1,
    first_byte: Annotated[int, typer.Option("--first-byte-p95-ms-max", help="p95 to the first byte; 0: any.")] = 0,
    total: Annotated[int, typer.Option("--total-p95-ms-max", help="p95 of the whole call; 0: any.")] = 0,
    first_byte_percent: Annotated[
        int, typer.Option("--first-byte-percent-max", help="p95 in percent of the others'; 0: any.")
    ] = 0,
    total_percent: Annotated[int, typer.Option("--total-percent-max", help="The same for the whole call.")] = 0,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Start a canary. It is taken back by itself when a condition is broken."""
    canary = {
        "model": model,
        "source": source,
        "share_milli": share,
        "steps": [_step(each) for each in step or ()],
        "sticky": sticky,
        "calls_min": calls_min,
        "window_s": window_s,
        "errors_milli_max": errors,
        "errors_milli_over_stable": None if errors_over < 0 else errors_over,
        "first_byte_p95_ms_max": first_byte or None,
        "total_p95_ms_max": total or None,
        "first_byte_percent_max": first_byte_percent or None,
        "total_percent_max": total_percent or None,
    }
    client = client_of(home, url, ca)
    item = client.call("GET", _path(tenant, name))
    if item["canary"] is not None:
        if item["canary_state"]["state"] == "running":
            raise BadRequest(f"{name} has a running canary: promote or abort it first")
        # The same declaration is the same trial: a new one begins only after the old one is gone.
        words = reason_or(reason, f"alias canary start {name}")
        item = _replace(client, tenant, item, {"canary": None}, words)["item"]
    answer = _replace(client, tenant, item, {"canary": canary}, reason_or(reason, f"alias canary start {name}"))
    _done(answer, as_json)


@canary_app.command("promote")
def promote(
    name: Name,
    tenant: Tenant = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a running canary the alias's only target."""
    client = client_of(home, url, ca)
    item = client.call("GET", _path(tenant, name))
    canary = _canary_of(item)
    if item["canary_state"]["state"] != "running":
        raise BadRequest(f"the canary of {name} has failed: {item['canary_state']['why']}; start it again to try it")
    target = {key: canary[key] for key in ("model", "source", "prefer_version") if key in canary}
    change = {"targets": [target], "canary": None}
    _done(_replace(client, tenant, item, change, reason_or(reason, f"alias canary promote {name}")), as_json)


@canary_app.command("abort")
def abort(
    name: Name,
    tenant: Tenant = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Remove an alias's canary, running or failed."""
    client = client_of(home, url, ca)
    item = client.call("GET", _path(tenant, name))
    _canary_of(item)
    words = reason_or(reason, f"alias canary abort {name}")
    _done(_replace(client, tenant, item, {"canary": None}, words), as_json)


@shadow_app.command("start")
def shadow_start(
    name: Name,
    model: Model,
    share: Annotated[int, typer.Option("--share-milli", min=1, max=1000, help="Thousandths of the calls.")],
    tenant: Tenant = "",
    source: Source = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Send a share of the calls to a candidate too; nobody sees its answers."""
    client = client_of(home, url, ca)
    change = {"shadow": {"model": model, "source": source, "share_milli": share}}
    _change(client, tenant, name, change, reason_or(reason, f"alias shadow start {name}"), as_json)


@shadow_app.command("stop")
def shadow_stop(
    name: Name,
    tenant: Tenant = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Stop sending calls to the candidate."""
    client = client_of(home, url, ca)
    _change(client, tenant, name, {"shadow": None}, reason_or(reason, f"alias shadow stop {name}"), as_json)


def _path(tenant: str, name: str = "") -> str:
    whose = f"/tenants/{quote(tenant, safe='')}" if tenant else ""
    return f"{whose}/aliases" + (f"/{quote(name, safe='/')}" if name else "")


def _change(client: AdminClient, tenant: str, name: str, change: dict[str, Any], reason: str, as_json: bool) -> None:
    item = client.call("GET", _path(tenant, name))
    _done(_replace(client, tenant, item, change, reason), as_json)


def _replace(
    client: AdminClient, tenant: str, item: dict[str, Any], change: dict[str, Any], reason: str
) -> dict[str, Any]:
    """Change some fields of an alias as it was read; refused when it has changed since."""
    body = {key: value for key, value in item.items() if key not in _SHOWN} | change
    path, revision = _path(tenant, item["name"]), item["revision"]
    answer: dict[str, Any] = client.call("PUT", path, body, reason=reason, revision=revision)
    return answer


def _canary_of(item: dict[str, Any]) -> dict[str, Any]:
    canary: dict[str, Any] | None = item["canary"]
    if canary is None:
        raise BadRequest(f"{item['name']} has no canary")
    return canary


def _weighted(text: str) -> dict[str, Any]:
    model, equals, weight = text.rpartition("=")
    if not equals:
        return {"model": text}
    if not weight.isdecimal():
        raise BadRequest(f"{text!r}: a weight is a whole number, as in model=3", param="model")
    return {"model": model, "weight": int(weight)}


def _step(text: str) -> dict[str, int]:
    after, _, share = text.partition("=")
    if not after.isdecimal() or not share.isdecimal():
        raise BadRequest(f"{text!r} is no step such as 3600=250", param="step")
    return {"after_s": int(after), "share_milli": int(share)}


def _targets(item: dict[str, Any]) -> list[str]:
    return [
        f"{each['source'] + '::' if each['source'] else ''}{each['model']} x{each['weight']}" for each in _full(item)
    ]


def _full(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"source": "", "weight": 1, **each} for each in item["targets"]]


def _canary(item: dict[str, Any]) -> str:
    canary = item["canary"]
    if canary is None:
        return ""
    state = item["canary_state"]
    return f"{canary['model']} {canary['share_milli'] / 10:g} %, {state['state']}"


def _shadow(item: dict[str, Any]) -> str:
    shadow = item["shadow"]
    return f"{shadow['model']} {shadow['share_milli'] / 10:g} %" if shadow else ""


def _cascade(item: dict[str, Any]) -> str:
    cascade = item["cascade"]
    if not cascade:
        return ""
    steps = [step["model"] + (f" at {step['source']}" if step.get("source") else "") for step in cascade["steps"]]
    return f"{' -> '.join(steps)}, checks {', '.join(cascade['checks'])}"


def _objectives(item: dict[str, Any]) -> str:
    return ", ".join(name if value is True else f"{name} {value}" for name, value in (item.get("slo") or {}).items())


def _done(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(answer)
    else:
        _show(answer["item"])


def _show(item: dict[str, Any]) -> None:
    state = item.get("canary_state") or {}
    facts = [
        ("targets", ", ".join(_targets(item))),
        ("mode", item["mode"]),
        ("canary", _canary(item)),
        ("  why", state.get("why", "")),
        ("shadow", _shadow(item)),
        ("cascade", _cascade(item)),
        ("slo", _objectives(item)),
        ("weights", ", ".join(f"{name} {value}" for name, value in (item.get("weights") or {}).items())),
        ("deprecated", item["deprecated"]),
        ("sunset", item["sunset"]),
        ("successor", item["successor"]),
    ]
    put(item["name"], *[f"  {name:<10} {words}" for name, words in facts if words])
