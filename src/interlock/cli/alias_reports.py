"""Aliases: who uses one, and how a candidate does beside it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Home, Url, client_of
from interlock.cli.output import put, put_json, table

Name = Annotated[str, typer.Argument(help="Name of the alias.")]
Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant whose calls are looked at.")]
Days = Annotated[int, typer.Option("--days", min=1, max=366, help="Days to look back.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("users")(users)
    app.command("compare")(compare)


def users(
    name: Name, tenant: Tenant, days: Days = 30, home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Tell who still uses an alias."""
    rows = _asked("users", name, tenant, days, home, url, ca)
    if as_json:
        put_json(rows)
        return
    table(
        ((row["team"], row["principal"], row["credential"], str(row["calls"]), row["last"]) for row in rows),
        ("team", "principal", "credential", "calls", "last"),
    )


def compare(
    name: Name, tenant: Tenant, days: Days = 7, home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Compare the ways through an alias: targets, canary, shadow."""
    report = _asked("compare", name, tenant, days, home, url, ca)
    if as_json:
        put_json(report)
        return
    if not report["complete"]:
        put("There were more calls: these are the newest.")
    table(map(_arm, report["arms"]), ("arm", "model", "calls", "failed", "first byte", "total", "tokens", "USD", "J"))
    for each in report["agreement"]:
        put(*_agreement(each))


def _asked(what: str, name: str, tenant: str, days: int, home: str, url: str, ca: str) -> Any:
    path = f"/tenants/{quote(tenant, safe='')}/alias-use/{what}"
    return client_of(home, url, ca).call("GET", path, query={"alias": name, "days": days})


def _arm(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["arm"] or "targets",
        row["model"],
        str(row["calls"]),
        _share(row["failed"]),
        _spread(row["first_byte"]),
        _spread(row["total"]),
        f"{row['prompt_tokens']:g} + {row['completion_tokens']:g}",
        f"{row['nusd'] / 1e9:.6f}",
        f"{row['uj'] / 1e6:.3f}",
    )


def _agreement(each: dict[str, Any]) -> list[str]:
    low, high = each["similarity_low_milli"] / 10, each["similarity_high_milli"] / 10
    facts = (
        ("same answer", _share(each["equal"])),
        ("similarity", f"{each['similarity_mean_milli'] / 10:g} % ({low:g} to {high:g})"),
        ("same finish", _share(each["finish_equal"])),
        ("JSON too", _share(each["json"])),
        ("same JSON", _share(each["json_equal"])),
        ("refused", f"{_share(each['refused'])}; what callers got {_share(each['refused_first'])}"),
        ("characters", f"{each['chars']:g}; what callers got {each['first_chars']:g}"),
    )
    head = f"{each['model']} as shadow, {each['compared']} answers compared with what callers got:"
    return [head, *(f"  {name:<11} {words}" for name, words in facts)]


def _share(share: dict[str, Any]) -> str:
    if not share["of"]:
        return "none"
    low, high = share["low_milli"] / 10, share["high_milli"] / 10
    return f"{share['milli'] / 10:g} % ({low:g} to {high:g}) of {share['of']}"


def _spread(spread: dict[str, Any]) -> str:
    return f"{spread['p50_ms']:.0f} / {spread['p95_ms']:.0f} ms" if spread["of"] else ""
