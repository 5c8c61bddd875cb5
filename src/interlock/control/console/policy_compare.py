"""What the draft would change: who loses or gains what, which logged calls would be decided otherwise, trials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from interlock.control import comparing, trials, whatif
from interlock.control.console.page import Page
from interlock.control.console.policy_parts import (
    Scope,
    attempt,
    base_of,
    differences,
    page,
    reading,
    reason_of,
    scope_of,
)
from interlock.control.permissions import Action, require
from interlock.errors import BadRequest, InterlockError

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

EXAMPLES_MAX = 10_000
"""Changed decisions that are listed; the counts are of all."""
DAYS = 7
DAYS_MAX = 400


class Group(NamedTuple):
    """Changed decisions of one caller about one model at one source, of which the policies say the same. `alike`: for
    how many callers; `decisions`: changed ones. `classes`, `operations`, `actions`: about which calls."""

    tenant: str
    who: str
    acting_for: str
    model: str
    source: str
    becomes: str
    classes: list[str]
    operations: list[str]
    actions: list[str]
    why: list[str]
    alike: int
    decisions: int


class Grid(NamedTuple):
    """Callers by offers. `rows`: the caller, and for each offer what it loses and gains. `left_callers`, `left_offers`:
    with changes, but not shown."""

    offers: list[tuple[str, str]]
    rows: list[tuple[str, list[tuple[int, int]]]]
    left_callers: int
    left_offers: int


def grouped(examples: Iterable[whatif.CellChange]) -> list[Group]:
    """Changes by caller, offer and outcome, in the order in which they were found."""
    found: dict[tuple[str, ...], list[whatif.CellChange]] = {}
    for e in examples:
        found.setdefault((e.tenant, e.principal, e.acting_for, e.offer, e.becomes), []).append(e)
    out = []
    for (tenant, who, acting_for, offer, becomes), cells in found.items():
        source, _, model = offer.partition("::")
        out.append(
            Group(
                tenant,
                who,
                acting_for,
                model,
                source,
                becomes,
                list(dict.fromkeys(c.data_class for c in cells)),
                list(dict.fromkeys(c.operation for c in cells)),
                list(dict.fromkeys(c.action for c in cells)),
                list(dict.fromkeys(c.why for c in cells)),
                max(c.alike for c in cells),
                sum(c.alike for c in cells),
            )
        )
    return out


def grid_of(groups: Iterable[Group], callers_max: int, offers_max: int) -> Grid:
    """The callers and offers with changes, `callers_max` by `offers_max` at most."""
    cells: dict[tuple[str, tuple[str, str]], list[int]] = {}
    for g in groups:
        who = f"{g.who} for {g.acting_for}" if g.acting_for else g.who
        who += f" and {g.alike - 1} like them" if g.alike > 1 else ""
        cell = cells.setdefault((who, (g.source, g.model)), [0, 0])
        cell[g.becomes == "permitted"] += g.decisions
    callers = list(dict.fromkeys(who for who, _ in cells))
    offers = list(dict.fromkeys(offer for _, offer in cells))
    columns = offers[:offers_max]
    rows = [(who, [(c[0], c[1]) for c in (cells.get((who, o), [0, 0]) for o in columns)]) for who in callers]
    left = len(callers) - callers_max, len(offers) - offers_max
    return Grid(columns, rows[:callers_max], max(0, left[0]), max(0, left[1]))


def show(visit: Visit, _: Sessions) -> Response:
    """Who could do what no longer, or then."""
    return _page(visit, scope_of(visit, Action.policy_history))


def traffic(visit: Visit, _: Sessions) -> Response:
    """Logged calls under the draft. The look is recorded."""
    scope = scope_of(visit, Action.policy_history)

    def do() -> Response:
        with reading(visit, scope, Action.policy_history) as tx:
            base = base_of(tx, scope)
        differs = comparing.differing(base.in_force, base.policies)
        found = comparing.what_if(_asker(visit, scope), scope.tenant_id, base.policies, differs, _period(visit))
        return _page(visit, scope, calls=found.traffic)

    return attempt(do, lambda error: _page(visit, scope, error=error))


def report(visit: Visit, _: Sessions) -> Response:
    """What was recorded of the policies that only report. The look is recorded."""
    scope = scope_of(visit, Action.policy_history)

    def do() -> Response:
        return _page(visit, scope, trial=comparing.report(_asker(visit, scope), scope.tenant_id, _period(visit)))

    return attempt(do, lambda error: _page(visit, scope, error=error))


def _asker(visit: Visit, scope: Scope) -> comparing.Asker:
    require(visit.who().bindings, Action.ledger_read, scope.reach)
    reason = reason_of(visit)
    if not reason.text:
        raise BadRequest("a look at logged calls needs a reason, which is recorded", param="reason")
    return comparing.Asker(visit.api.store, visit.api.tools, visit.who(), reason)


def _period(visit: Visit) -> comparing.Period:
    days = visit.form.get("days", "")
    if not (days.isascii() and days.isdigit()) or not 1 <= int(days[:9]) <= DAYS_MAX:
        raise BadRequest(f"days is a whole number from 1 to {DAYS_MAX}", param="days")
    now = visit.api.tools.clock.wall_ns()
    return comparing.Period(
        max(0, now - int(days) * 86_400 * 1_000_000_000), 0, visit.api.tools.settings.policy_calls_listed_max
    )


def _page(
    visit: Visit,
    scope: Scope,
    *,
    calls: whatif.Traffic | None = None,
    trial: trials.Report | None = None,
    error: InterlockError | None = None,
) -> Response:
    with reading(visit, scope, Action.policy_history) as tx:
        base = base_of(tx, scope)
    api = visit.api
    settings = api.tools.settings
    rows = settings.policy_changes_page_max
    changes = differences(base.in_force, base.policies)
    matrix = comparing.matrix(api.store, api.tools, scope.tenant_id, base.policies, EXAMPLES_MAX) if changes else None
    groups = grouped(matrix.examples) if matrix else []
    given = visit.query.get("page", "1")
    number = max(1, int(given)) if given.isascii() and given.isdigit() and len(given) < 7 else 1
    return page(
        visit,
        "policy_compare.html",
        scope,
        error.status if error else 200,
        base=base,
        changes=changes,
        matrix=matrix,
        groups=groups[(number - 1) * rows : number * rows],
        total=len(groups),
        listed=sum(g.decisions for g in groups),
        number=number,
        pages=-(-len(groups) // rows),
        grid=grid_of(groups, settings.policy_grid_callers_max, settings.policy_grid_offers_max),
        calls=calls,
        trial=trial,
        days=visit.form.get("days", str(DAYS)),
        reason=visit.form.get("reason", "") if error else "",
        calls_max=settings.what_if_calls_max,
        cells_max=settings.what_if_cells_max,
        error=error,
    )


PAGES = (
    Page("GET", "/policies/what-if", show),
    Page("POST", "/policies/what-if", traffic),
    Page("POST", "/policies/report", report),
)
