"""Legal holds: while one stands, nothing that it is on leaves the ledger."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, InTenant, Reason, Url, client_of
from interlock.cli.output import put, put_json, table
from interlock.errors import BadRequest

app = Commands(help="Legal holds.", no_args_is_help=True)


@app.command()
def add(
    tenant: InTenant,
    subject: Annotated[str, typer.Argument(help="Name of a principal, or an id; the whole tenant when left out.")] = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Keep whatever was asked by and answered to a person, or anybody in the tenant, until the hold is released."""
    why = _needed(reason)
    body = {"subject": subject}
    hold = client_of(home, url, ca).call("POST", f"/tenants/{quote(tenant, safe='')}/ledger/holds", body, reason=why)
    if as_json:
        put_json(hold)
    else:
        put(f"{hold['id']} stands on {hold['subject'] or f'everything of {tenant}'}.")


@app.command("list")
def list_(
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """List holds, oldest first, released ones too."""
    found = client_of(home, url, ca).call("GET", f"/tenants/{quote(tenant, safe='')}/ledger/holds")
    if as_json:
        put_json(found)
        return
    rows = [
        (each["id"], each["subject"] or "everything", each["added_at"], each["released_at"], each["reason"])
        for each in found["items"]
    ]
    table(rows, ("id", "on", "added", "released", "reason"))


@app.command()
def release(
    hold: Annotated[str, typer.Argument(help="Id of the hold.")],
    tenant: InTenant,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Release a hold: retention and erasure take their course again."""
    path = f"/tenants/{quote(tenant, safe='')}/ledger/holds/{quote(hold, safe='')}/release"
    done: Any = client_of(home, url, ca).call("POST", path, {}, reason=_needed(reason))
    if as_json:
        put_json(done)
    else:
        put(f"{done['id']} is released.")


def _needed(reason: str) -> str:
    """A hold is somebody's decision: no other words stand for theirs."""
    if not reason.strip():
        raise BadRequest("a hold is added and released with a reason: --reason", param="reason")
    return reason
