"""The console: passwords of those who sign in without an identity provider."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, InTenant, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json

app = Commands(help="The console in the browser.", no_args_is_help=True)


@app.command()
def password(
    name: Annotated[str, typer.Argument(help="Name of the principal.")],
    tenant: InTenant,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read it from standard input instead of asking.")] = False,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Let a principal sign in with a password, the first or another one. It is asked for, never an argument."""
    words = reason_or(reason, f"console password {name}")
    if stdin:
        given = sys.stdin.readline().rstrip("\r\n")
    else:
        given = typer.prompt("Password, at least 12 characters", hide_input=True, confirmation_prompt=True, err=True)
    path = f"/tenants/{quote(tenant, safe='')}/principals/{quote(name, safe='')}/password"
    answer = client_of(home, url, ca).call("POST", path, {"password": given}, reason=words)
    if as_json:
        put_json(answer)
    else:
        put(f"{name} may sign in to the console with this password; earlier sessions of theirs have ended.")
