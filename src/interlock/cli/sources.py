"""Model sources: list, show, drain, undrain, refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Commands, Home, Reason, Url, client_of, reason_or
from interlock.cli.engine_run import run
from interlock.cli.output import put, put_json, table
from interlock.metering.words import energy_words, price_words

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient

app = Commands(help="Model sources.", no_args_is_help=True)
app.command("run")(run)
Name = Annotated[str, typer.Argument(help="Name of the source.")]


@app.command("list")
def list_(home: Home = "", url: Url = "", ca: Ca = "", as_json: AsJson = False) -> None:
    """List the sources, what they offer, and the error of those that do not answer."""
    rows = client_of(home, url, ca).pages("/sources")
    if as_json:
        put_json(rows)
        return
    head = ("name", "kind", "url", "engine", "state", "models", "drained", "error")
    table(
        (
            (
                row["name"],
                row["kind"],
                row["url"],
                f"{row['engine']} {row['engine_version']}".strip(),
                row.get("managed", {}).get("state"),
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
    put(*told(item))


def told(item: dict[str, Any]) -> list[str]:
    """A source as lines for a person: what it is, for whom, under which bounds, and what was found there."""
    state = "drained" if item["drained"] else "in use"
    lines = [f"{item['name']}: {item['kind']} at {item['url']}, {state}"]
    looked = f"looked at {item['discovered_at']}" if item["discovered_at"] else "never looked at"
    engine = f"{item['engine'] or '?'} {item['engine_version']}".rstrip()
    facts = [
        ("engine", f"{engine}, {looked}"),
        ("managed", _managed(item.get("managed"))),
        ("error", item["discovery_error"]),
        ("for", _for_whom(item)),
        ("labels", _labels(item["labels"])),
        ("limits", _limits(item["limits"])),
        *(("warning", words) for words in item["warnings"]),
    ]
    for offer in item["offers"]:
        facts.append(("offers", _offer(offer)))
        facts.append(("  price", price_words(offer.get("price", {}))))
        facts.append(("  energy", energy_words(offer.get("power", {}))))
    return lines + [f"  {name:<9} {words}" for name, words in facts if words]


def _managed(given: dict[str, Any] | None) -> str:
    if not given:
        return ""
    words = f"{given['state']}: {given['words']}; on {given['host']}, heard of at {given['seen_at']}"
    if given["restarts"]:
        words += f"; {given['restarts']} restarts"
    return f"{words}; log {given['log']}"


def _for_whom(item: dict[str, Any]) -> str:
    if item["tenant"]:
        return f"tenant {item['tenant']}, which owns it"
    if "*" in item["granted_to"]:
        return "every tenant"
    return ", ".join(item["granted_to"]) or "nobody: it is granted to no tenant"


def _labels(given: dict[str, Any]) -> str:
    words = [
        f"region {given['region']}" if given.get("region") else "no region",
        "on-prem" if given.get("on_prem", True) else "outside the trust boundary",
        f"data up to {given['data_class_max']}" if "data_class_max" in given else "data of any class",
    ]
    return ", ".join(words + [f"{name}={value}" for name, value in given.get("extra", {}).items()])


def _limits(given: dict[str, Any]) -> str:
    from interlock.types.source import SourceLimits

    limits = SourceLimits(**given)
    words = f"saturated above {limits.waiting_max} waiting requests, until {limits.waiting_resume} wait"
    if limits.concurrency is None:
        return words
    return f"{words}; at most {limits.concurrency} of a node's calls at a time"


def _offer(offer: dict[str, Any]) -> str:
    from interlock.types.model_names import parameters_words

    parent = f"adapter of {offer['parent']}; " if offer["parent"] else ""
    version = f"version {offer['version']}; " if offer["version"] else ""
    length = offer["context_length"] or "unknown"
    size = parameters_words(offer.get("parameters_m", 0))
    kin = f"{' '.join(filter(None, (offer.get('family', ''), size)))}; " if size or offer.get("family") else ""
    return f"{offer['name']} ({parent}{version}{kin}context {length}; {', '.join(offer['abilities'])})"
