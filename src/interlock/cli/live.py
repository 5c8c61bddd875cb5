"""`interlock live`: what happens now, in the terminal."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Home, Url, client_of
from interlock.cli.output import put, put_json, table
from interlock.errors import BadRequest
from interlock.types.slo import attained_permille

CLEAR = "\x1b[H\x1b[2J"
INTERVAL_S_MIN, INTERVAL_S_MAX = 1.0, 3600.0
CALLS = 10


def live(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant; all when left out.")] = "",
    by: Annotated[str, typer.Option(help="source, model, team, cost_center, principal or tenant.")] = "source",
    once: Annotated[bool, typer.Option("--once", help="Print it once instead of again and again.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Show what runs now: figures of the last minutes, sources, the newest calls. `--json`: once."""
    if not INTERVAL_S_MIN <= interval <= INTERVAL_S_MAX:
        raise BadRequest(f"--interval is from {INTERVAL_S_MIN:.0f} to {INTERVAL_S_MAX:.0f} seconds", param="interval")
    client = client_of(home, url, ca)
    query: dict[str, object] = {"by": by, **({"tenant": tenant} if tenant else {})}
    while True:
        view = client.call("GET", "/live", query=query)
        if as_json:
            put_json(view)
            return
        alone = once or not sys.stdout.isatty()
        if not alone:
            sys.stdout.write(CLEAR)
        _show(view)
        if alone:
            return
        sys.stdout.flush()
        time.sleep(interval)


def _show(view: dict[str, Any]) -> None:
    whose = f"tenant {view['tenant']}" if view["tenant"] else "all tenants"
    still = f"; it stands still: {view['failing']}" if view["failing"] else ""
    put(f"{view['at'][11:19]} UTC, {whose}, the last {view['since_s']} s{still}")
    put("")
    asked = view["total"].get("objectives") is not None
    rows = [(row["name"] or "(none)", row["tenant"], *_cells(row["figures"], asked=asked)) for row in view["rows"]]
    head = (view["by"], "tenant", "calls", "failed", "refused", "calls/s", "first p50", "p50", "p95", "p99", "tokens/s",
            "USD/h", "W", *(("objectives met",) if asked else ()))  # fmt: skip
    table([*rows, ("total", "", *_cells(view["total"], asked=asked))], head)
    if view["sources"]:
        put("")
        lines = [
            (
                s["name"],
                s["state"],
                s["inflight"],
                s["seats"],
                *(_known(s[n]) for n in ("running", "waiting")),
                s["why"],
            )
            for s in view["sources"]
        ]
        table(lines, ("source", "state", "in flight", "seats", "running", "queue", "why"))
    if view["running"]:
        put("")
        running = [
            (c["request"], c["state"], c["tenant"], c["who"], c["model"] or c["asked"], c["source"], c["why"],
             _known(c["tokens"]), _ms(c["age_ms"] * 1000))
            for c in view["running"][:CALLS]
        ]  # fmt: skip
        table(running, ("running", "state", "tenant", "caller", "model", "source", "why there", "tokens", "for"))
    if view["calls"]:
        put("")
        calls = [
            (c["at"][11:19], c["state"], c["tenant"], c["who"], c["model"], c["source"], c["how"], _ms(c["total_us"]))
            for c in view["calls"][:CALLS]
        ]
        table(calls, ("ended", "state", "tenant", "caller", "model", "source", "why there", "took"))


def _cells(f: dict[str, Any], *, asked: bool) -> list[str]:
    """`asked`: whether any call of the view had objectives."""
    first, latency = f["first"], f["latency"]
    return [
        *(str(f[name]) for name in ("calls", "failures", "refusals")),
        f"{f['calls_per_s']:.1f}",
        _ms(first["p50_us"]),
        *(_ms(latency[f"p{p}_us"]) for p in (50, 95, 99)),
        f"{f['tokens_per_s']:.0f}",
        f"{f['nusd_per_h'] / 1e9:.4f}",
        f"{f['watts']:.1f}" if f["methods"] else "-",
        *((_met(f["objectives"]),) if asked else ()),
    ]


def _met(objectives: dict[str, Any] | None) -> str:
    """The share of calls that met what they asked for, and of how many calls that is."""
    if objectives is None:
        return "-"
    outcome = objectives["outcome"]
    return f"{attained_permille(outcome['met'], outcome['calls']) / 10:.1f}% of {outcome['calls']}"


def _known(value: int) -> str:
    return "-" if value < 0 else str(value)


def _ms(us: int) -> str:
    return f"{us / 1000:.0f} ms" if us else "-"
