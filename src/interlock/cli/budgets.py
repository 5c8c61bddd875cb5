"""`interlock budget`: make budgets, and see how far they are used."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.client import Refused
from interlock.cli.common import AsJson, Ca, Commands, Home, InTenant, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json, table

app = Commands(help="Budgets of a tenant.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the budget.")]


@app.command("list")
def list_(
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Show each budget, and how far its current period is used."""
    found = client_of(home, url, ca).call("GET", f"/tenants/{quote(tenant, safe='')}/budget-use")
    if as_json:
        put_json(found)
        return
    if not found:
        put("There are no budgets.")
        return
    rows = [
        (
            each["name"],
            each["on"],
            each["window"],
            "hard" if each["hard"] else "soft",
            each["text"],
            f"{each['percent']:g} %",
            (each["end"] or "never")[:16].replace("T", " "),
            ", ".join(f"{alert['percent']} %" for alert in each["alerts"]) or "-",
        )
        for each in found
    ]
    table(rows, ("BUDGET", "ON", "WINDOW", "KIND", "USED", "PERCENT", "BEGINS ANEW", "ALERTS"))


@app.command("set")
def set_(
    name: Name,
    tenant: InTenant,
    calls: Annotated[int | None, typer.Option(min=0, help="Calls.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens, of prompts and answers together.")] = None,
    usd: Annotated[str, typer.Option(help="US dollars, such as 12.50.")] = "",
    joules: Annotated[str, typer.Option(help="Energy in joules; 3,600,000 are a kilowatt-hour.")] = "",
    team: Annotated[str, typer.Option(help="The team that it is on.")] = "",
    principal: Annotated[str, typer.Option(help="The user, service or agent that it is on.")] = "",
    key: Annotated[str, typer.Option(help="The key that it is on, by name.")] = "",
    model: Annotated[str, typer.Option(help="The model that it is on.")] = "",
    shadow: Annotated[str, typer.Option(help="The alias whose shadow calls it is on.")] = "",
    judge: Annotated[str, typer.Option(help="The judge of answers that it is on, with challengers.")] = "",
    window: Annotated[
        str, typer.Option(help="hour, day, week, month, quarter, year, total, or a length such as 90m, 6h or 30d.")
    ] = "month",
    soft: Annotated[bool, typer.Option("--soft", help="Count and alert, refuse nothing.")] = False,
    alert: Annotated[
        list[int] | None, typer.Option(help="Percentage of which passing is told; may be repeated. 80 and 100.")
    ] = None,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a budget, or replace it. Without a team, principal, key, model, shadow or judge it is on the tenant."""
    body: dict[str, Any] = {"name": name, "window": window, "hard": not soft}
    given = {"calls": calls, "tokens": tokens, "usd": usd, "joules": joules}
    body |= {field: value for field, value in given.items() if value is not None and value != ""}
    subjects = {"team": team, "principal": principal, "key": key, "model": model, "shadow": shadow, "judge": judge}
    body |= {field: value for field, value in subjects.items() if value}
    if alert is not None:
        body["alerts"] = alert
    path = f"/tenants/{quote(tenant, safe='')}/budgets"
    words = reason_or(reason, f"budget set {name}")
    client = client_of(home, url, ca)
    try:
        answer = client.call("PUT", f"{path}/{quote(name, safe='')}", body, reason=words)
    except Refused as e:
        if e.status != 404:
            raise
        answer = client.call("POST", path, body, reason=words)
    if as_json:
        put_json(answer)
    else:
        put(f"Budget {name} of {tenant} is set.")


@app.command()
def delete(
    name: Name,
    tenant: InTenant,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Remove a budget. What was charged to it stays in the ledger."""
    path = f"/tenants/{quote(tenant, safe='')}/budgets/{quote(name, safe='')}"
    answer = client_of(home, url, ca).call("DELETE", path, why=reason_or(reason, f"budget delete {name}"))
    if as_json:
        put_json(answer)
    else:
        put(f"Budget {name} of {tenant} is removed.")
