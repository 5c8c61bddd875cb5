"""What the router has learned of a tenant, as it is shown: the state in force, past ones, and quality as figures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.base import data_class_name
from interlock.control.services.router_judges import Asked, Judge, asked, judge
from interlock.control.services.task_words import described
from interlock.settings import Settings
from interlock.storage import learned, router_guidance, router_shared, tenants
from interlock.storage.router_guidance import RouterPrior
from interlock.storage.table import Stored
from interlock.types.identity import Tenant
from interlock.types.learned import SET, SHARED, ArmWeights, Capability, Profile, Weights

HISTORY_MAX = 200
ON = "on"


class Cell(msgspec.Struct, frozen=True):
    """What is expected of an arm's answers, in millionths of [0, 1]: the mean and the bounds that it lies within at
    95 %. `outcomes`: how many it rests on; older ones count for less."""

    mean_micro: int
    low_micro: int
    high_micro: int
    outcomes: float


class Task(msgspec.Struct, frozen=True):
    """A kind of prompt that is told apart. `share_micro`: of all prompts. `words`: how its prompts differ from the
    others; "" where nothing plain tells them apart."""

    number: int
    share_micro: int
    words: str


class Prior(msgspec.Struct, frozen=True):
    """What an administrator said of an arm: it counts as that many outcomes do."""

    arm: str
    quality_micro: int
    outcomes: int
    by: str
    why: str
    at: datetime.datetime


class Arm(msgspec.Struct, frozen=True):
    """A model, or one version of it (`model@version`). `mean`: over all tasks, as often as they occur. `tasks`: by
    number. `origins`: where outcomes came from, and how many; "set by NAME" is the word of an administrator.
    `verbosity_milli`: length of its answers beside the mean of all arms, in thousandths. `tried_for`: why a part of
    what is tried is for it, however far it lies behind: "worse", it became worse, and is to be found out to be as it
    was; "new", nobody knows yet how good it is; "" it has none."""

    arm: str
    mean: Cell
    tasks: list[Cell]
    origins: dict[str, int]
    verbosity_milli: int
    set: Prior | None = None
    tried_for: str = ""


class OfferProfile(msgspec.Struct, frozen=True):
    """What was seen of a model at one source. Means over the last calls; null where nothing is known. `failure_micro`:
    share of the tries that failed. `first_byte_us`: time to the first byte; `token_us`: per token after it."""

    offer: str
    calls: int
    failure_micro: int
    first_byte_us: int | None
    token_us: int | None
    cost_nusd: int | None
    energy_uj: int | None


class State(msgspec.Struct, frozen=True):
    """What was learned of a tenant. `learning`: "on", "observe" or "off", "off" too where the installation learns
    nothing. `in_force`: it decides calls. `version` 0: nothing was learned yet. `explore_share_micro`: with which
    probability another model than the best may be tried at most, `explore_money_micro`: what that may cost more than
    the best on average, as a share of it; `explore_data_class_max`: of calls up to this class. `tasks` is empty while
    too few prompts were seen to tell them apart. `waiting`: what was set that no state has yet. `shares`: outcomes of
    other tenants that share theirs count too, and its own there. `judging`: what of its answers is judged, by whom,
    null without; `judges`: those whose verdicts there are, and how far they are believed."""

    learning: str
    in_force: bool
    version: int
    made_at: datetime.datetime | None
    explore_share_micro: int
    explore_money_micro: int
    explore_data_class_max: str
    outcomes: int
    tasks: list[Task]
    arms: list[Arm]
    profiles: list[OfferProfile]
    waiting: list[Prior]
    shares: bool = False
    judging: Asked | None = None
    judges: list[Judge] = []


class GivenFigure(msgspec.Struct, frozen=True):
    """What others are told of a model: the mean of outcomes in millionths of [0, 1], and how many; older ones count for
    less."""

    arm: str
    outcomes: float
    mean_micro: int


class Sharing(msgspec.Struct, frozen=True):
    """`gives`: all that leaves the tenant. `gets`: as how many outcomes what others have seen counts, by model, in the
    state in force."""

    shares: bool
    gives: list[GivenFigure]
    gets: dict[str, int]


class Past(msgspec.Struct, frozen=True):
    """A state that was in force. `snapshot`: the version of the snapshot that brought it. `arms`: the mean quality of
    each in millionths, over all tasks. `version` 0: everything was forgotten."""

    snapshot: int
    version: int
    made_at: datetime.datetime | None
    explore_share_micro: int
    outcomes: int
    arms: dict[str, int]


class History(msgspec.Struct, frozen=True):
    """`states`: newest first, evenly spread over all `there` are."""

    there: int
    states: list[Past]


def state(conn: Connection[Any], tenant_id: str, settings: Settings) -> State:
    """The state in force, or about to be. A transaction of the tenant's."""
    found = tenants.get(conn, tenant_id)
    learning = learning_of(found.value if found else None, settings)
    said = {p.value.arm: prior(p) for p in router_guidance.all_of(conn, tenant_id)}
    state = shown(learned.current(conn, tenant_id), said, learning)
    if found is None:
        return state
    return msgspec.structs.replace(state, shares=found.value.learning_shares, judging=asked(found.value.judging))


def shared(conn: Connection[Any], tenant_id: str) -> Sharing:
    """What a tenant gives to others, and gets of them. A transaction of the tenant's."""
    found = tenants.get(conn, tenant_id)
    weights = learned.current(conn, tenant_id)
    gets = {arm.arm: arm.origins[SHARED] for arm in weights.arms if SHARED in arm.origins} if weights else {}
    gives = [GivenFigure(arm, n / 1000, mean) for arm, n, mean in router_shared.of_tenant(conn, tenant_id)]
    return Sharing(found is not None and found.value.learning_shares, gives, gets)


def learning_of(tenant: Tenant | None, settings: Settings) -> str:
    """Whether a tenant is learned of: its own word, unless the installation learns nothing."""
    return "off" if tenant is None or settings.learning == "off" else tenant.learning


def shown(weights: Weights | None, said: Mapping[str, Prior], learning: str) -> State:
    """A state for people. Pure."""
    if weights is None:
        return State(learning, False, 0, None, 0, 0, data_class_name(0), 0, [], [], [], list(said.values()))
    number = len(weights.task_shares_micro) if weights.words else 0
    words = described(weights.surfaces, number)
    tasks = [Task(n, weights.task_shares_micro[n], words[n]) for n in range(number)]
    arms = sorted((_arm(each, weights, said.get(each.arm), learning) for each in weights.arms), key=_best_first)
    counted = {each.arm: each.origins.get(SET, 0) for each in weights.arms}
    return State(
        learning,
        learning == ON,
        weights.version,
        _at(weights.made_s),
        weights.share_micro,
        weights.money_micro,
        data_class_name(weights.data_class_max),
        _outcomes(weights),
        tasks,
        arms,
        [_profile(each) for each in weights.profiles],
        [each for each in said.values() if counted.get(each.arm) != each.outcomes],
        judges=[judge(each) for each in weights.judges],
    )


def history(conn: Connection[Any], tenant_id: str, limit: int) -> History:
    """Past states. The platform's transaction, as snapshots are nobody's; whoever calls this has asked for
    permission."""
    states, there = learned.history(conn, tenant_id, min(limit, HISTORY_MAX))
    return History(there, [_past(each) for each in states])


def overall(arm: ArmWeights, shares_micro: Sequence[int]) -> Cell:
    """An arm's figure over all tasks, as often as they occur. The bounds are those of the tasks, weighted likewise:
    rather too far apart than too near, as tasks are not wrong all in the same way."""
    total = sum(shares_micro)
    weights = list(shares_micro) if total else [1] * len(arm.capabilities)
    whole = sum(weights) or 1

    def mean(values: Sequence[int]) -> int:
        return round(sum(value * weight for value, weight in zip(values, weights, strict=True)) / whole)

    cells = arm.capabilities
    return Cell(
        mean([c.mean_micro for c in cells]),
        mean([c.low_micro for c in cells]),
        mean([c.high_micro for c in cells]),
        round(sum(c.outcomes_milli for c in cells) / 1000, 1),
    )


def means(weights: Weights | None) -> dict[str, int]:
    """Quality of each arm over all tasks in millionths, for a column of another page."""
    if weights is None:
        return {}
    return {arm.arm: overall(arm, weights.task_shares_micro).mean_micro for arm in weights.arms}


def by_model(weights: Weights | None) -> dict[str, int]:
    """As `means`, by the model's name: of several versions the one with the most outcomes tells."""
    found: dict[str, tuple[float, int]] = {}
    for arm in weights.arms if weights is not None else ():
        cell = overall(arm, weights.task_shares_micro) if weights is not None else None
        name = arm.arm.partition("@")[0]
        if cell is not None and (name not in found or cell.outcomes > found[name][0]):
            found[name] = (cell.outcomes, cell.mean_micro)
    return {name: mean for name, (_, mean) in found.items()}


def _arm(arm: ArmWeights, weights: Weights, said: Prior | None, learning: str) -> Arm:
    origins = {name: count for name, count in arm.origins.items() if name != SET}
    tried_for = "" if not arm.due or learning != ON else "new" if arm.due_new else "worse"
    if arm.origins.get(SET):
        by = f"set by {said.by}" if said is not None else "set, and unset since"
        origins[by] = arm.origins[SET]
    return Arm(
        arm.arm,
        overall(arm, weights.task_shares_micro),
        [_cell(c) for c in arm.capabilities] if weights.words else [],
        origins,
        arm.verbosity_milli,
        said,
        tried_for,
    )


def _best_first(arm: Arm) -> tuple[int, str]:
    return -arm.mean.mean_micro, arm.arm


def _cell(of: Capability) -> Cell:
    return Cell(of.mean_micro, of.low_micro, of.high_micro, round(of.outcomes_milli / 1000, 1))


def _profile(of: Profile) -> OfferProfile:
    known = (None if value < 0 else value for value in (of.first_byte_us, of.token_us, of.cost_nusd, of.energy_uj))
    return OfferProfile(of.offer, of.calls, of.failure_micro, *known)


def prior(stored: Stored[RouterPrior]) -> Prior:
    """What was said of an arm, for people."""
    said = stored.value
    return Prior(said.arm, said.quality_micro, said.outcomes, said.author, said.why, stored.updated_at)


def _past(of: learned.Published) -> Past:
    weights = of.weights
    if weights is None:
        return Past(of.snapshot, 0, None, 0, 0, {})
    return Past(
        of.snapshot, weights.version, _at(weights.made_s), weights.share_micro, _outcomes(weights), means(weights)
    )


def _outcomes(weights: Weights) -> int:
    return sum(count for arm in weights.arms for name, count in arm.origins.items() if name not in (SET, SHARED))


def _at(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
