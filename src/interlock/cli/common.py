"""Options that many commands share."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

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

F = TypeVar("F", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command that takes each option once, but for switches and options that may be repeated: of two values given
    for another one, either would be dropped in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As it is, but for options given twice: wrong usage."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        seen: set[str] = set()
        for each in given:
            once = getattr(each, "opts", ()) and each.param_type_name == "option"
            if not once or getattr(each, "is_flag", False) or each.multiple or each.name is None:
                continue
            if each.name in seen and not ctx.resilient_parsing:
                ctx.fail(f"{max(each.opts, key=len)} is given twice, and takes one value")
            seen.add(each.name)
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A group of commands, each a `Command`."""

    def command(self, name: str | None = None, **how: Any) -> Callable[[F], F]:
        """See Typer."""
        return super().command(name, cls=Command, **how)


def listed(given: Sequence[str] | None) -> str:
    """One list with commas of an option that takes such lists and may be repeated: `--by team --by model` is
    `--by team,model`."""
    return ",".join(given or ())


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
