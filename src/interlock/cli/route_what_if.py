"""`interlock route what-if`: what a change would make of the routing of logged calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Home, InTenant, Url, client_of
from interlock.cli.config import read_files
from interlock.cli.output import put, put_json
from interlock.cli.policy_life import Since, Until, instant
from interlock.errors import BadRequest, ConfigError

_PARTS = ("quality", "cost", "latency", "energy")
MILLI = 1000


def what_if(
    tenant: InTenant,
    files: Annotated[
        list[str] | None, typer.Option("--file", "-f", help="Configuration file, as `apply` takes it.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="[MODE:]quality=..,cost=..,latency=..,energy=..: in place of the mode's own.")
    ] = "",
    mode: Annotated[str, typer.Option(help="Decide every call in this mode: eco, balanced or quality.")] = "",
    learning: Annotated[str, typer.Option(help="What the tenant says of learning: on, observe or off.")] = "",
    explore_share: Annotated[float | None, typer.Option(help="Share of calls in which others are tried.")] = None,
    explore_money: Annotated[float | None, typer.Option(help="What trying may cost, beside the best.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="SOURCE or SOURCE::MODEL that is not there.")] = None,
    since: Since = "",
    until: Until = "",
    plot: Annotated[str, typer.Option(help="Write cost against quality to this file, as SVG.", metavar="FILE")] = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Decide logged calls again under a change: what would go elsewhere, and what cost, latency, energy and quality
    would be. Nothing is changed."""
    given = read_files(files) if files else []
    if learning:
        document = {"tenants": [{"name": tenant, "learning": learning}]}
        given = [*given, {"name": "--learning", "text": json.dumps(document)}]
    body: dict[str, Any] = {
        "files": given,
        "mode": mode,
        "weights": _weights(weights) if weights else None,
        "explore_share_milli": _milli(explore_share, "--explore-share"),
        "explore_money_milli": _milli(explore_money, "--explore-money"),
        "without": without or [],
        "since_ns": instant(since),
        "until_ns": instant(until),
    }
    answer = client_of(home, url, ca).call("POST", f"/tenants/{quote(tenant, safe='')}/route/what-if", body)
    _show(answer, plot, as_json)


def _show(answer: dict[str, Any], plot: str, as_json: bool) -> None:
    import msgspec

    from interlock.control.rerouting.plot import svg
    from interlock.control.rerouting.report import Rerouted
    from interlock.control.rerouting.words import lines

    found = msgspec.convert(answer, Rerouted)
    if as_json:
        put_json(answer)
    else:
        put(*lines(found))
    if plot:
        try:
            Path(plot).write_text(svg(found), encoding="utf-8")
        except (BadRequest, OSError) as e:  # what was found is printed already
            why = e.message if isinstance(e, BadRequest) else f"{plot} cannot be written: {e.strerror}"
            sys.stderr.write(f"interlock: {why}\n")
            raise typer.Exit(1) from None


def _weights(text: str) -> dict[str, Any]:
    """Weights as they are written. Raises ConfigError."""
    mode, colon, parts = text.rpartition(":")
    out: dict[str, Any] = {"mode": mode} if colon else {}
    for part in parts.split(","):
        name, _, value = part.partition("=")
        try:
            if name.strip() not in _PARTS:
                raise ValueError
            out[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"--weights {text!r}: write [MODE:]quality=0.5,cost=0.25,latency=0.15,energy=0.1", param="weights"
            ) from None
    return out


def _milli(share: float | None, option: str) -> int | None:
    if share is None:
        return None
    if not 0 <= share < float("inf"):
        raise ConfigError(f"{option} is a share, from 0 on", param=option)
    return round(MILLI * share)
