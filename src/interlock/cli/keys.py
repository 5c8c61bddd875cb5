"""API keys: create, rotate, revoke, list."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, InTenant, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json, table

app = Commands(help="API keys.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the key, or its id.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    tenant: InTenant,
    principal: Annotated[str, typer.Option("--principal", "-p", help="Whose key it is.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="infer (default), assert-user, admin; may be repeated.")
    ] = None,
    data_class: Annotated[str, typer.Option(help="Default data class of its calls.")] = "internal",
    expires_in_days: Annotated[int, typer.Option(min=0, help="0: never.")] = 0,
    workload: Annotated[
        str, typer.Option(help="How urgent its calls may be: interactive, batch or background.")
    ] = "interactive",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once."""
    body: dict[str, Any] = {
        "name": name,
        "principal": principal,
        "scopes": scope or ["infer"],
        "data_class": data_class,
        "expires_in_days": expires_in_days,
        "workload": workload,
    }
    path = f"/tenants/{quote(tenant, safe='')}/keys"
    answer = client_of(home, url, ca).call("POST", path, body, reason=reason_or(reason, f"key create {name}"))
    _shown_once(answer, as_json)


@app.command()
def rotate(
    name: Name,
    tenant: InTenant,
    overlap_s: Annotated[int, typer.Option(min=0, help="Seconds for which the old key works on.")] = 86_400,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Make a new key with the same rights; the old one works on for the overlap and no longer."""
    path = f"/tenants/{quote(tenant, safe='')}/keys/{quote(name, safe='')}/rotate"
    words = reason_or(reason, f"key rotate {name}")
    answer = client_of(home, url, ca).call("POST", path, {"overlap_s": overlap_s}, reason=words)
    _shown_once(answer, as_json)


@app.command()
def revoke(
    name: Name,
    tenant: InTenant,
    cut: Annotated[bool, typer.Option("--cut", help="Cut running calls off as well.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Refuse a key on every gateway, within a second."""
    path = f"/tenants/{quote(tenant, safe='')}/keys/{quote(name, safe='')}/revoke"
    answer = client_of(home, url, ca).call("POST", path, {"cut": cut}, reason=reason_or(reason, f"key revoke {name}"))
    if as_json:
        put_json(answer)
    else:
        put(*(f"revoked {item['name']} ({item['id']}, {item['prefix']}...)" for item in answer["items"]))


@app.command("list")
def list_(tenant: InTenant, home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """List the keys of a tenant."""
    rows = client_of(home, url, ca).pages(f"/tenants/{quote(tenant, safe='')}/keys")
    if as_json:
        put_json(rows)
        return
    columns = ("name", "id", "prefix", "principal", "scopes", "data_class", "state", "expires_at")
    table(([row[c] for c in columns] for row in rows), columns)


def _shown_once(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(answer)
        return
    item = answer["item"]
    put(f"{item['name']} ({item['id']}), until {item['expires_at'] or 'it is revoked'}; it is shown this once:")
    put(str(answer["key"]))
