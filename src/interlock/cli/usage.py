"""`interlock usage`: what was used, by whom, and what it cost."""

from __future__ import annotations

import datetime
import sys
from typing import Annotated, Any

import typer

from interlock.cli.common import AsJson, Ca, Home, Url, client_of, listed
from interlock.cli.output import put, put_json
from interlock.errors import BadRequest
from interlock.metering.report import write_csv
from interlock.types.slo import attained_permille

_FIGURES = ("calls", "refused", "failed", "tokens in", "cached", "tokens out", "USD", "Wh", "g CO2e")


def usage(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Name of the tenant; all when left out.")] = "",
    from_: Annotated[str, typer.Option("--from", help="First day; the first of this month when left out.")] = "",
    to: Annotated[str, typer.Option("--to", help="Day after the last; up to now when left out.")] = "",
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns, with commas or given again: tenant, day, month, team, cost_center, principal, source, model,"
            " alias, class, workload; team,model when left out."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Sum up calls, tokens, cost, energy and carbon. Days are those of each tenant's time zone."""
    if as_csv and as_json:
        raise BadRequest("--csv or --json, not both")
    today = datetime.datetime.now(datetime.UTC).date()
    first = from_ or today.replace(day=1).isoformat()
    after = to or (today + datetime.timedelta(days=2)).isoformat()
    path = f"/tenants/{tenant}/usage" if tenant else "/usage"
    query: dict[str, object] = {"from": first, "to": after, "by": listed(by) or "team,model"}
    report = client_of(home, url, ca).call("GET", path, query=query)
    if as_json:
        put_json(report)
    elif as_csv:
        write_csv(report, sys.stdout)
    else:
        _table(report)


def _table(report: dict[str, Any]) -> None:
    rows = report["rows"]
    if not rows:
        put(f"Nothing was called from {report['from']} to {report['to']}.")
        return
    all_of = report["total"]
    told, stepped = all_of.get("quality") is not None, bool(all_of.get("steps"))
    asked = bool(all_of.get("slo_calls"))
    more = [
        *(("steps",) if stepped else ()),
        *(("objectives met", "of") if asked else ()),
        *(("quality", "within", "of calls", "from") if told else ()),
    ]

    def figures(row: dict[str, Any]) -> list[str]:
        steps = [f"{row['steps']:,}"] if stepped else []
        return [*_figures(row), *steps, *(_objectives(row) if asked else ()), *_quality(row, told=told)]

    head = [*report["by"], *_FIGURES, *more]
    lines = [[*(row["by"][name] or "-" for name in report["by"]), *figures(row)] for row in rows]
    total = [*("total" if n == 0 else "" for n in range(len(report["by"]))), *figures(report["total"])]
    widths = [max(len(line[at]) for line in (head, *lines, total)) for at in range(len(head))]
    for line in (head, *lines, total):
        cells = [
            cell.ljust(width) if at < len(report["by"]) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        put("  ".join(cells).rstrip())


def _figures(row: dict[str, Any]) -> list[str]:
    counts = ("calls", "refusals", "failures", "prompt_tokens", "cached_tokens", "completion_tokens")
    energy = f"{row['uj'] / 3.6e9:,.3f}" if row["uj"] else "-"
    carbon = f"{row['sci']['o_ug'] / 1e6:,.3f}" if row["sci"]["o_ug"] else "-"
    return [*(f"{row[name]:,}" for name in counts), row["usd"], energy, carbon]


def _objectives(row: dict[str, Any]) -> list[str]:
    """The share of calls that met what they asked for, of those that asked for anything, and how many these are."""
    calls = row["slo_calls"]
    return [f"{attained_permille(row['slo_met'], calls) / 10:.1f}%" if calls else "-", f"{calls:,}"]


def _quality(row: dict[str, Any], *, told: bool) -> list[str]:
    """What callers said of answers: mean, interval at 95 %, of how many calls, and what it is of; no column
    where nobody said anything."""
    if not told:
        return []
    quality = row.get("quality")
    if quality is None:
        return ["-", "-", "-", "-"]
    mean, low, high = (f"{quality[name] / 1e6:.2f}" for name in ("mean_micro", "low_micro", "high_micro"))
    return [mean, f"{low} - {high}", f"{quality['calls']:,}", quality["source"]]
