"""Model sources: list, show, drain, undrain, refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Home, Reason, Url, client_of, reason_or
from interlock.cli.output import put, put_json, table

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient

app = typer.Typer(help="Model sources.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the source.")]


@app.command("list")
def list_(home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """List the sources, what they offer, and the error of those that do not answer."""
    rows = client_of(home, url, ca).pages("/sources")
    if as_json:
        put_json(rows)
        return
    head = ("name", "kind", "url", "engine", "models", "drained", "error")
    table(
        (
            (
                row["name"],
                row["kind"],
                row["url"],
                f"{row['engine']} {row['engine_version']}".strip(),
                [offer["name"] for offer in row["offers"]],
                row["drained"],
                row["discovery_error"],
            )
            for row in rows
        ),
        head,
    )


@app.command()
def show(name: Name, home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """Show one source."""
    item = client_of(home, url, ca).call("GET", f"/sources/{quote(name, safe='')}")
    if as_json:
        put_json(item)
    else:
        _show(item)


@app.command()
def drain(
    name: Name, reason: Reason = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Give a source no new calls; running ones finish."""
    _act(client_of(home, url, ca), name, "drain", reason, as_json)


@app.command()
def undrain(
    name: Name, reason: Reason = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Give a drained source calls again."""
    _act(client_of(home, url, ca), name, "undrain", reason, as_json)


@app.command()
def refresh(
    name: Name, reason: Reason = "", home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False
) -> None:
    """Ask a source for its models now."""
    answer = _act(client_of(home, url, ca), name, "refresh", reason, as_json)
    if answer.get("discovery_error"):
        raise typer.Exit(1)


def _act(client: AdminClient, name: str, verb: str, reason: str, as_json: bool) -> dict[str, Any]:
    path = f"/sources/{quote(name, safe='')}/{verb}"
    words = reason_or(reason, f"source {verb} {name}")
    answer: dict[str, Any] = client.call("POST", path, {}, reason=words)
    if as_json:
        put_json(answer)
    else:
        _show(answer["item"])
    return answer


def _show(item: dict[str, Any]) -> None:
    put(
        f"{item['name']}: {item['kind']} at {item['url']}, {'drained' if item['drained'] else 'in use'}",
        f"  engine    {item['engine'] or '?'} {item['engine_version']}".rstrip(),
        f"  looked at {item['discovered_at'] or 'never'}",
    )
    if item["discovery_error"]:
        put(f"  error     {item['discovery_error']}")
    for words in item["warnings"]:
        put(f"  warning   {words}")
    for offer in item["offers"]:
        length = offer["context_length"] or "unknown"
        put(f"  offers    {offer['name']} (context {length}; {', '.join(offer['abilities'])})")
