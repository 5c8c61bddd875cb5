"""Options that many commands share."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient
    from interlock.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Home = Annotated[str, typer.Option("--home", help="Home folder; INTERLOCK_HOME or ~/.interlock otherwise.")]
Url = Annotated[str, typer.Option("--url", help="Admin API; INTERLOCK_CONTROL_URL or this home's otherwise.")]
Ca = Annotated[
    str, typer.Option("--ca", help="CA bundle (PEM) of an admin API with https; setting control_ca_file otherwise.")
]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why: it is kept with the change.")]
InTenant = Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant.")]


def settings_of(home: str) -> Settings:
    """The settings of a home folder. Raises ConfigError."""
    from interlock.settings import load

    return load(home=home or None)


def client_of(home: str, url: str, ca: str) -> AdminClient:
    """The admin API. Raises ConfigError when there is no key for it, or the CA bundle cannot be used."""
    from interlock.cli.client import connect

    return connect(settings_of(home), url, ca)


def reason_or(reason: str, what: str) -> str:
    """The reason that was given, else what was done and by whom on which machine."""
    if reason:
        return reason
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "somebody"
    return f"{what} by {who} on {socket.gethostname()}"
