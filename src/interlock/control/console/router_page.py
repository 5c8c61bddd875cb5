"""Router: what was learned of a tenant's traffic, what it makes of calls, and what administrators make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from interlock.control import router_actions
from interlock.control.apply import Reason
from interlock.control.console import router_seen
from interlock.control.console.page import Page
from interlock.control.console.places import visible
from interlock.control.identity import tenant_of
from interlock.control.permissions import Action, require
from interlock.control.plan import Ref
from interlock.control.services import router, router_reports, tenants
from interlock.control.services.router import Arm, Cell, State
from interlock.control.services.router_reports import Shares
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.storage import learner_status
from interlock.storage import tenants as stored_tenants

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

PLACE = "/console/router"
TIMES = (("24", "24 hours", 1), ("168", "7 days", 6), ("720", "30 days", 24))
"""What the charts can be of: hours, their name, and hours of a step."""
LEARNING = (
    ("on", "on: it learns, and calls go by it"),
    ("observe", "observe: it learns, and calls go by priors"),
    ("off", "off: nothing is learned, and what was is forgotten"),
)
STATES = 60
ARMS_DRAWN = 6
"""Models that a chart tells apart; the rest are one line."""
MICRO = 1_000_000


class Mark(NamedTuple):
    """A cell of the table with its bar, in thousandths of its width. `best`: no model does its task better."""

    cell: Cell
    x: int
    width: int
    at: int
    best: bool


class ArmRow(NamedTuple):
    """A line of the table: over all tasks, then per task."""

    arm: Arm
    whole: Mark
    tasks: list[Mark]


def show(visit: Visit, _: Sessions) -> Response:
    """Everything that is known, of one tenant."""
    return _show(visit, "", None)


def forget(visit: Visit, _: Sessions) -> Response:
    """Have one model forgotten, or everything."""
    arm = visit.form.get("arm", "")

    def act(tenant_id: str) -> str:
        done = router_actions.reset(visit.api.store, visit.api.tools, visit.who(), tenant_id, arm, _reason(visit))
        return f"What was learned of {arm or 'all models'} is forgotten: {done.outcomes} outcomes."

    return _act(visit, "forget", act)


def say(visit: Visit, _: Sessions) -> Response:
    """Say what to expect of a model."""
    arm = visit.form.get("arm", "")

    def act(tenant_id: str) -> str:
        prior = (arm, _micro(visit.form.get("quality", "")), _whole(visit.form.get("outcomes", "")))
        router_actions.put(visit.api.store, visit.api.tools, visit.who(), tenant_id, prior, _reason(visit))
        return f"Said of {arm}; the next state has it."

    return _act(visit, "say", act)


def unsay(visit: Visit, _: Sessions) -> Response:
    """Unsay it."""
    arm = visit.form.get("arm", "")

    def act(tenant_id: str) -> str:
        router_actions.delete(visit.api.store, visit.api.tools, visit.who(), tenant_id, arm, _reason(visit))
        return f"Nothing is set of {arm} any more."

    return _act(visit, "unsay", act)


def learning(visit: Visit, _: Sessions) -> Response:
    """Switch learning on, to observing, or off."""
    how = visit.form.get("learning", "")
    if how not in dict(LEARNING):
        return _show(visit, "learning", BadRequest("learning is on, observe or off", param="learning"))
    return _switch(visit, "learning", {"learning": how}, f"Learning of {_tenant(visit, _names(visit))} is {how}.")


def sharing(visit: Visit, _: Sessions) -> Response:
    """Begin or end to share with other tenants."""
    wanted = visit.form.get("shares", "") == "yes"
    words = "is shared" if wanted else "is not shared any more"
    return _switch(visit, "sharing", {"learning_shares": wanted}, f"What is learned of models {words}.")


def _switch(visit: Visit, form: str, fields: dict[str, Any], said: str) -> Response:
    """Change fields of the tenant, and say so; else show the page with what is wrong."""
    tenant = _tenant(visit, _names(visit))
    try:
        with visit.api.store.platform() as conn:
            found = stored_tenants.by_name(conn, tenant)
        if found is None:
            raise NotFound(f"there is no tenant {tenant!r}", param="tenant")
        spec = msgspec.structs.replace(tenants.spec_of(found.value), **fields)
        ref = Ref("tenant", tenant, tenant)
        visit.api.configurator.put(visit.who(), ref, spec, _reason(visit), revision=found.revision, new=False)
    except InterlockError as error:
        return _show(visit, form, error)
    return visit.go(_path(tenant), said=said)


def _act(visit: Visit, form: str, act: Callable[[str], str]) -> Response:
    """Do something for who may, and say so; else show the page with what is wrong."""
    tenant = _tenant(visit, _names(visit))
    tenant_id = tenant_of(visit.api.store, visit.who(), tenant)
    try:
        require(visit.who().bindings, Action.router_write, tenant_id)
        said = act(tenant_id)
    except InterlockError as error:
        return _show(visit, form, error)
    return visit.go(_path(tenant), said=said)


def _show(visit: Visit, form: str, error: InterlockError | None) -> Response:
    api, names = visit.api, _names(visit)
    if not names:
        return visit.page("router.html", tenant="", tenants=[])
    tenant = _tenant(visit, names)
    tenant_id = tenant_of(api.store, visit.who(), tenant)
    require(visit.who().bindings, Action.router_read, tenant_id)
    hours, step = _time(visit)
    now = api.tools.now()
    until_ns = api.tools.clock.wall_ns()
    since_ns = until_ns - hours * router_reports.HOUR_NS
    with api.store.tenant(tenant_id) as conn:
        state = router.state(conn, tenant_id, api.tools.settings)
        shares = router_reports.shares(conn, tenant_id, since_ns, until_ns, step * router_reports.HOUR_NS)
        seen = router_seen.seen(visit, conn, tenant_id)
        shared = router.shared(conn, tenant_id)
    with api.store.platform() as conn:
        past = router.history(conn, tenant_id, STATES)
        learner = learner_status.read(conn)
    may_write = visit.may(Action.router_write, tenant_id)
    order = [arm.arm for arm in state.arms]
    return visit.page(
        "router.html",
        error.status if error else 200,
        tenant=tenant,
        tenants=names,
        now=now,
        state=state,
        installation_learns=api.tools.settings.learning != "off",
        learner_seen=learner.seen_at if learner else None,
        rows=rows(state),
        seen=seen,
        shared=shared,
        may_share=visit.may(Action.router_share, tenant_id),
        shares=shares,
        tried_milli=1000 * shares.tried / shares.calls if shares.calls else 0,
        share_chart=share_chart(shares, order),
        quality_chart=quality_chart(shares),
        drift_chart=drift_chart(past, order),
        past=past,
        hours=str(hours),
        times=TIMES,
        time_words=next(words for value, words, _ in TIMES if value == str(hours)),
        learnings=LEARNING,
        may_write=may_write,
        may_switch=visit.may(Action.tenant_update, tenant_id),
        choices=_choices(state, router_actions.arms_of(api.store, tenant_id)) if may_write else [],
        long_run_milli=api.tools.settings.explore_share_milli,
        cold_calls=api.tools.settings.explore_cold_calls,
        outcomes_max=api.tools.settings.learning_set_outcomes_max,
        form=form,
        error=error,
    )


def rows(state: State) -> list[ArmRow]:
    """The table of models and tasks. Pure."""
    known = [arm for arm in state.arms if arm.mean.outcomes or arm.set is not None]
    best = [max((arm.tasks[task.number].mean_micro for arm in known), default=-1) for task in state.tasks]
    top = max((arm.mean.mean_micro for arm in known), default=-1)
    return [
        ArmRow(
            arm,
            _mark(arm.mean, top if arm in known else -1),
            [_mark(cell, best[number] if arm in known else -1) for number, cell in enumerate(arm.tasks)],
        )
        for arm in state.arms
    ]


def _mark(cell: Cell, best_micro: int) -> Mark:
    """`best_micro` -1: nothing is known of the model, so that it is not the best."""
    low, high = cell.low_micro // 1000, cell.high_micro // 1000
    return Mark(cell, low, max(high - low, 8), cell.mean_micro // 1000, cell.mean_micro == best_micro)


def share_chart(shares: Shares, order: list[str]) -> dict[str, Any]:
    """Percent of calls that each model answered, step by step; the last line is those that tried another. Pure."""
    counts: dict[str, int] = {}
    for step in shares.steps:
        for arm, calls in step.arms.items():
            counts[arm] = counts.get(arm, 0) + calls
    drawn = sorted(sorted(counts, key=lambda arm: -counts[arm])[:ARMS_DRAWN], key=lambda arm: _place(arm, order))
    steps = [step for step in shares.steps if step.arms]
    totals = [sum(step.arms.values()) for step in steps]
    lines = [
        {"label": arm, "values": [_percent(step.arms.get(arm, 0), of) for step, of in zip(steps, totals, strict=True)]}
        for arm in drawn
    ]
    if len(counts) > len(drawn):
        rest = [sum(n for arm, n in step.arms.items() if arm not in drawn) for step in steps]
        lines.append({"label": "others", "values": [_percent(n, of) for n, of in zip(rest, totals, strict=True)]})
    tried = [_percent(step.tried, of) for step, of in zip(steps, totals, strict=True)]
    lines.append({"label": "tried another", "values": tried})
    return {
        "at": [step.at.timestamp() for step in steps],
        "unit": "%",
        "span": _span(shares),
        "lines": lines if steps else [],
    }


def quality_chart(shares: Shares) -> dict[str, Any]:
    """Mean of what was said of answers, step by step. Pure."""
    steps = [step for step in shares.steps if step.quality_micro is not None]
    values = [round((step.quality_micro or 0) / MICRO, 3) for step in steps]
    return {
        "at": [step.at.timestamp() for step in steps],
        "unit": "",
        "span": _span(shares),
        "lines": [{"label": "said of answers", "values": values}] if steps else [],
    }


def drift_chart(past: router.History, order: list[str]) -> dict[str, Any]:
    """What was expected of each model, state by state. Pure."""
    states = [each for each in reversed(past.states) if each.made_at is not None]
    arms = sorted({arm for each in states for arm in each.arms}, key=lambda arm: _place(arm, order))[:ARMS_DRAWN]
    lines = [
        {"label": arm, "values": [round(s.arms[arm] / MICRO, 3) if arm in s.arms else None for s in states]}
        for arm in arms
    ]
    at = [each.made_at.timestamp() for each in states if each.made_at is not None]
    return {"at": at, "unit": "", "span": [], "lines": lines if len(states) > 1 else []}


def _span(shares: Shares) -> list[float]:
    """What the time axis shows, Unix seconds."""
    return [shares.since.timestamp(), shares.until.timestamp()]


def _place(arm: str, order: list[str]) -> tuple[int, str]:
    return order.index(arm) if arm in order else len(order), arm


def _percent(part: int, of: int) -> float:
    return round(100 * part / of, 1)


def _choices(state: State, there: list[str]) -> list[str]:
    return sorted({*there, *(arm.arm for arm in state.arms)})


def _names(visit: Visit) -> list[str]:
    """Tenants whose router the visitor may see; the platform's own tenant calls nothing."""
    with visit.api.store.platform() as conn:
        own = stored_tenants.get(conn, stored_tenants.PLATFORM_TENANT)
    platform = own.value.name if own else ""
    return [name for name in visible(visit, Action.router_read) if name != platform]


def _tenant(visit: Visit, names: list[str]) -> str:
    wanted = visit.query.get("tenant", "") or visit.form.get("tenant", "")
    if not names or (wanted and wanted not in names):
        raise NotFound("There is no such tenant, or none that you may see.")
    return wanted or names[0]


def _time(visit: Visit) -> tuple[int, int]:
    wanted = visit.query.get("hours", "") or visit.form.get("hours", "") or TIMES[0][0]
    for value, _, step in TIMES:
        if value == wanted:
            return int(value), step
    raise BadRequest(f"hours is one of {', '.join(value for value, *_ in TIMES)}", param="hours")


def _micro(text: str) -> int:
    try:
        value = float(text.strip())
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadRequest("quality: a number from 0 to 1, such as 0.8", param="quality")
    return round(value * MICRO)


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise BadRequest("outcomes: a whole number", param="outcomes")
    return int(text)


def _reason(visit: Visit) -> Reason:
    return Reason(visit.form.get("reason", "").strip())


def _path(tenant: str) -> str:
    return f"{PLACE}?{urlencode({'tenant': tenant})}"


PAGES = (
    Page("GET", "/router", show),
    Page("POST", "/router/forget", forget),
    Page("POST", "/router/say", say),
    Page("POST", "/router/unsay", unsay),
    Page("POST", "/router/learning", learning),
    Page("POST", "/router/sharing", sharing),
)
