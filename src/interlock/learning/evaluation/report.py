"""An evaluation as plain values for JSON, and as lines for people."""

from __future__ import annotations

from math import isfinite
from typing import Any

from interlock.learning.evaluation.drift import LATER, MOVED, Drift, Moved
from interlock.learning.evaluation.gateway import CALLS_PER_STATE, GatewayDrift
from interlock.learning.evaluation.metrics import Interval
from interlock.learning.evaluation.run import COMPARED_WITH, Report, Row

_DIGITS = 4
_HEAD = {"aiq": "AIQ", "cost_at_95": "cost at 95 %", "apgr": "APGR", "cpt50": "CPT 50 %", "cpt80": "CPT 80 %"}
_MODELS_SHOWN = 4
"""Models per task in the text: the best ones. JSON has all."""


def as_dict(report: Report) -> dict[str, Any]:
    """Everything, with null for what is undefined or never reached. The measures on top are those of `fitted`."""
    rows = {row.method: _row(row) for row in report.rows}
    return {
        "data": report.data.name,
        "prompts": len(report.data.texts),
        "models": report.data.models,
        "cost": "USD" if report.data.priced else "share of calls to the stronger model",
        "splits": {"seeds": list(report.data.plan.seeds), "learned": report.learned, "tested": report.tested},
        **rows["fitted"]["measures"],
        "methods": rows,
        "compared_with": COMPARED_WITH,
        "online": {
            name: {
                "requests": s.requests,
                **{k: _interval(v) for k, v in s._asdict().items() if isinstance(v, Interval)},
            }
            for name, s in report.starts.items()
        },
        "newcomers": None
        if report.newcomers is None
        else {k: _plain(v) for k, v in report.newcomers._asdict().items()},
        "tasks": [
            {
                "share": round(task.share, _DIGITS),
                "capabilities": {
                    model: {k: round(v, _DIGITS) for k, v in cell._asdict().items()}
                    for model, cell in zip(report.data.models, task.capabilities, strict=True)
                },
            }
            for task in report.tasks
        ],
        **({"drift": _drift(report.drift, report.gateway or [])} if report.drift is not None else {}),
    }


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """(head, rows): every method with mean and standard deviation over the splits, and its AIQ against the baseline."""
    measures = list(report.rows[0].measures)
    head = ["", *(_HEAD[m] for m in measures), f"AIQ against {COMPARED_WITH}"]
    return head, [
        [f"{row.method}{' *' if row.kind == 'learned' else ''}", *map(_mean, row.measures.values()), _ahead(row)]
        for row in report.rows
    ]


def words(report: Report) -> list[str]:
    """What stands above the table: the data and how they are divided."""
    plan = report.data.plan
    priced = "USD" if report.data.priced else "share of calls to the stronger model"
    seeds = f"seeds {plan.seeds[0]} to {plan.seeds[-1]}" if len(plan.seeds) > 1 else f"seed {plan.seeds[0]}"
    return [
        f"{report.data.name}: {len(report.data.texts)} prompts, {len(report.data.models)} models, cost in {priced}.",
        f"Learned from {report.learned}, tested on {report.tested}; {seeds}; mean (standard deviation over splits).",
    ]


def online_words(report: Report) -> list[str]:
    """What learning online cost."""
    return [
        f"{name}: {s.requests} requests, one outcome each. Worth lost against the best single models in hindsight: "
        f"{s.lost_early.mean:.3f} a request at first, {s.lost.mean:.3f} over all. Others tried in "
        f"{s.explored.mean:.1%} of requests, for {s.extra.mean:.1%} of what was spent."
        for name, s in report.starts.items()
    ]


def newcomer_words(report: Report) -> list[str]:
    """How near what is expected of a model comes before it has done anything."""
    told = report.newcomers
    if told is None:
        return []
    return [
        f"What is expected of a new model is off what it does by {told.alone:.3f}, by the others' mean; "
        f"{told.by_price:.3f}, by those of its price; {told.by_kin:.3f}, by price, size and family: "
        "means over the models, each left out."
    ]


def drift_words(report: Report) -> list[str]:
    """How quickly changes were noticed."""
    if report.drift is None:
        return []
    out = [f"Changes after {report.drift.warm} online requests; until {MOVED:.0%} of a share has moved:"]
    out += map(_moved, report.drift.moved)
    for one in report.gateway or []:
        out.append(f"As a gateway decides, a state every {CALLS_PER_STATE} calls, outcomes of {one.told:.0%} of them:")
        out += map(_moved, one.moved)
    return out


def _moved(m: Moved) -> str:
    spread = f" ({m.spread:.0f})" if isfinite(m.spread) else ""
    when = f"{m.requests:.0f}{spread} requests, in {m.reached} of {m.splits} splits" if m.reached else "never"
    return f"{m.change}: {when}; its share from {m.before:.1%} to {m.after:.1%}."


def _drift(told: Drift, gateway: list[GatewayDrift]) -> dict[str, Any]:
    return {
        "after": told.warm,
        "watched": LATER,
        "changes": _changes(told.moved),
        "gateway": {
            "calls_per_state": CALLS_PER_STATE,
            "outcomes": [{"of_calls": one.told, "changes": _changes(one.moved)} for one in gateway],
        },
    }


def _changes(moved: list[Moved]) -> list[dict[str, Any]]:
    return [{k: _plain(v) for k, v in m._asdict().items()} for m in moved]


def _plain(value: Any) -> Any:
    return (round(value, _DIGITS) if isfinite(value) else None) if isinstance(value, float) else value


def task_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """(head, rows): learned tasks of the last split, largest first, with the models that do best in each."""
    rows = []
    for task in sorted(report.tasks, key=lambda t: -t.share):
        best = sorted(zip(report.data.models, task.capabilities, strict=True), key=lambda c: -c[1].mean)
        shown = [f"{m} {c.mean:.2f} ({c.low:.2f} to {c.high:.2f})" for m, c in best[:_MODELS_SHOWN]]
        rows.append([f"{task.share:.1%}", "; ".join(shown)])
    return ["prompts", "best models, with 95 % intervals"], rows


def _row(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "measures": {name: _interval(value) for name, value in row.measures.items()},
        "aiq_ahead": _interval(row.ahead),
    }


def _interval(value: Interval) -> dict[str, float | None]:
    return {name: round(v, _DIGITS) if isfinite(v) else None for name, v in value._asdict().items()}


def _mean(value: Interval) -> str:
    if not isfinite(value.mean):
        return "never"
    return f"{value.mean:.3f} ({value.spread:.3f})" if isfinite(value.spread) else f"{value.mean:.3f}"


def _ahead(row: Row) -> str:
    if row.method == COMPARED_WITH:
        return ""
    low_high = f" ({row.ahead.low:+.3f} to {row.ahead.high:+.3f})" if isfinite(row.ahead.low) else ""
    return f"{row.ahead.mean:+.3f}{low_high}"
