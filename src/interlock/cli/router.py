"""`interlock route profiles`, `reset`, `set`, `shared`, `unset`: what the router learned of a tenant."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from interlock.cli.common import AsJson, Ca, Home, InTenant, Reason, Url, client_of, listed, reason_or
from interlock.cli.output import put, put_json, table

Arm = Annotated[str, typer.Argument(metavar="MODEL", help="The model, as `route profiles` names it.")]


TRIED_FOR = {
    "worse": "its answers became worse, and it is to be found out when they are as they were",
    "new": "it is new, and nobody knows yet how good its answers are",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("profiles")(profiles)
    app.command("reset")(reset)
    app.command("set")(set_)
    app.command("shared")(shared)
    app.command("unset")(unset)


def profiles(
    tenant: InTenant,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Show what was said or seen instead, by columns such as model,team,task or model,cost_center,task;"
            " may be repeated."
        ),
    ] = None,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Show what the router has learned of a tenant: quality per model and task, and what was seen of each offer."""
    client = client_of(home, url, ca)
    if by:
        report = client.call("GET", f"{_path(tenant)}/quality", query={"by": listed(by)})
        put_json(report) if as_json else _report(report)
        return
    found = client.call("GET", _path(tenant))
    if as_json:
        put_json(found)
        return
    how = {"on": "on", "observe": "observe: it learns, and priors decide", "off": "off"}[found["learning"]]
    put(f"Learning is {how}.")
    for each in found["waiting"]:
        put(f"{each['arm']}: {each['quality_micro'] / 1e6:.2f} as {each['outcomes']} outcomes, set by {each['by']};"
            " the next state has it.")  # fmt: skip
    if not found["version"]:
        put("Nothing is learned yet.")
        return
    put(
        f"State {found['version']} of {found['made_at'][:19].replace('T', ' ')} UTC, from {found['outcomes']} outcomes."
        f" At most {found['explore_share_micro'] / 1e4:.1f} % of calls try another model than the best."
    )
    _judges(found)
    for task in found["tasks"]:
        words = task["words"] or "nothing plain tells them apart"
        put(f"Task {task['number']}: {task['share_micro'] / 1e4:.0f} % of prompts: {words}")
    put("")
    rows = [
        (
            arm["arm"],
            *_figure(arm["mean"]),
            *(f"{cell['mean_micro'] / 1e6:.2f}" for cell in arm["tasks"]),
            ", ".join(f"{name} {count}" for name, count in arm["origins"].items()),
        )
        for arm in found["arms"]
    ]
    table(rows, ("MODEL", "QUALITY", "WITHIN", "OUTCOMES", *(f"TASK {t['number']}" for t in found["tasks"]), "FROM"))
    for arm in found["arms"]:
        if arm["tried_for"]:
            put(f"{arm['arm']} is tried on purpose: {TRIED_FOR[arm['tried_for']]}.")
    put("")
    table([_profile(each) for each in found["profiles"]],
          ("OFFER", "CALLS", "FAILED", "FIRST BYTE", "PER TOKEN", "USD/CALL", "J/CALL"))  # fmt: skip


def reset(
    tenant: InTenant,
    model: Annotated[str, typer.Option(help="Forget this model only, as `route profiles` names it.")] = "",
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Forget what the router has learned of a tenant, or of one model there."""
    words = reason_or(reason, f"route reset {model}".strip())
    done = client_of(home, url, ca).call("POST", f"{_path(tenant)}/reset", {"arm": model}, reason=words)
    if as_json:
        put_json(done)
    else:
        put(f"What was learned of {model or 'all models'} is forgotten: {done['outcomes']} outcomes.")


def shared(
    tenant: InTenant,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Show what a tenant tells other tenants of models, and where what they tell counts; `learning_shares` says it."""
    found = client_of(home, url, ca).call("GET", f"{_path(tenant)}/shared")
    if as_json:
        put_json(found)
        return
    put(f"Tenant {tenant} {'shares' if found['shares'] else 'does not share'} how good answers of models were.")
    if found["gives"]:
        table([(g["arm"], f"{g['mean_micro'] / 1e6:.2f}", f"{g['outcomes']:.1f}") for g in found["gives"]],
              ("GIVEN OF MODEL", "MEAN", "OUTCOMES"))  # fmt: skip
    else:
        put("Nothing leaves it.")
    for arm, outcomes in found["gets"].items():
        put(f"What others have seen of {arm} counts as {outcomes} outcomes here.")


def set_(
    model: Arm,
    tenant: InTenant,
    quality: Annotated[float, typer.Option(min=0, max=1, help="What to expect of its answers, from 0 to 1.")],
    outcomes: Annotated[int, typer.Option(min=1, help="As how many outcomes this counts.")] = 100,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Say what to expect of a model; it counts beside what was seen, and does not fade."""
    body = {"quality": quality, "outcomes": outcomes}
    words = reason_or(reason, f"route set {model}")
    made = client_of(home, url, ca).call("PUT", _arm(tenant, model), body, reason=words)
    if as_json:
        put_json(made)
    else:
        put(f"Model {model} of {tenant} is expected at {quality:.2f}, as {outcomes} outcomes would have it.")


def unset(
    model: Arm,
    tenant: InTenant,
    reason: Reason = "",
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    as_json: AsJson = False,
) -> None:
    """Unsay what was said of a model: what was learned counts alone again."""
    answer = client_of(home, url, ca).call("DELETE", _arm(tenant, model), why=reason_or(reason, f"route unset {model}"))
    if as_json:
        put_json(answer)
    else:
        put(f"Nothing is set of model {model} of {tenant} any more.")


def _judges(found: dict[str, Any]) -> None:
    """Who judges answers, and how far each judge is believed."""
    asked = found["judging"]
    if asked is not None:
        scored, compared = asked["share_milli"] / 10, asked["challenger_milli"] / 10
        put(
            f"{asked['model']} scores {scored:.1f} % of answers; {compared:.1f} % of calls with a choice go to another"
            " model too, and both answers are compared."
        )
    for each in found["judges"]:
        counts = "its verdicts count" if each["trusted"] else "its verdicts count for nothing"
        put(f"Judge {each['judge']}: {counts}: {each['words']} ({_agreement(each)}).")


def _agreement(of: dict[str, Any]) -> str:
    """How a judge's scores go with others' words."""
    by = ", ".join(f"{name} {count}" for name, count in of["sources"].items())
    parts = [f"{of['pairs']} compared" + (f": {by}" if by else "")]
    if of["agreement_milli"] is not None:
        parts.append(f"correlation {of['agreement_milli'] / 1e3:.2f}, at least {of['least_milli'] / 1e3:.2f} at 95 %")
    if of["waiting"]:
        parts.append(f"{of['waiting']} verdicts wait for controls")
    return "; ".join(parts)


def _report(found: dict[str, Any]) -> None:
    """Quality by some columns: what it is of, then each figure with its interval, its count and its sources."""
    put(_basis(found))
    for number, words in found["tasks"].items():
        put(f"Task {number}: {words or 'nothing plain tells them apart'}")
    if not found["rows"]:
        put("There is nothing of this yet.")
        return
    put("")
    rows = [
        (*(row["by"][name] or "-" for name in found["by"]), *_figure(row | {"outcomes": row["count"]}), _sources(row))
        for row in found["rows"]
    ]
    heads = [name.replace("_", " ").upper() for name in found["by"]]
    counted = "OUTCOMES" if found["basis"] == "state" else "ANSWERS"
    table(rows, (*heads, "QUALITY", "WITHIN", counted, "FROM"))


def _basis(found: dict[str, Any]) -> str:
    window = found["window"]
    if window is not None:
        times = [str(window[name])[:16].replace("T", " ") for name in ("since", "until")]
        when = f", of calls from {times[0]} to {times[1]} UTC" if window["since"] else ""
        return (
            f"Seen in the last {window['outcomes']} outcomes, of at most {window['outcomes_max']} that are held{when}."
        )
    if found["basis"] == "state":
        return "Expected by the state in force."
    if found["basis"] == "feedback":
        return f"Said of calls from {found['from']} up to, and not on, {found['to']}."
    return "Nothing was seen yet."


def _sources(row: dict[str, Any]) -> str:
    """Where outcomes came from; with the mean of each, where it is kept apart."""
    means = {name: f"{each['mean_micro'] / 1e6:.2f} of " for name, each in row["origins"].items()}
    return ", ".join(f"{name} {means.get(name, '')}{count}" for name, count in row["sources"].items())


def _path(tenant: str) -> str:
    return f"/tenants/{quote(tenant, safe='')}/router"


def _arm(tenant: str, model: str) -> str:
    return f"{_path(tenant)}/arms/{quote(model, safe='/')}"


def _figure(cell: dict[str, Any]) -> tuple[str, str, str]:
    low, high = cell["low_micro"] / 1e6, cell["high_micro"] / 1e6
    return f"{cell['mean_micro'] / 1e6:.2f}", f"{low:.2f} - {high:.2f}", f"{cell['outcomes']:.0f}"


def _profile(each: dict[str, Any]) -> tuple[str, ...]:
    def known(value: int | None, scale: float, form: str) -> str:
        return "-" if value is None else format(value / scale, form)

    return (
        each["offer"],
        f"{each['calls']}",
        f"{each['failure_micro'] / 1e4:.1f} %",
        known(each["first_byte_us"], 1e3, ".0f") + (" ms" if each["first_byte_us"] is not None else ""),
        known(each["token_us"], 1e3, ".1f") + (" ms" if each["token_us"] is not None else ""),
        known(each["cost_nusd"], 1e9, ".6f"),
        known(each["energy_uj"], 1e6, ".1f"),
    )
