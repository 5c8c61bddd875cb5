"""Counting what is decided otherwise, and collecting what estimates are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from interlock.control.learning.samples import arm_named
from interlock.control.replay import Decided
from interlock.control.rerouting.deciding import Again
from interlock.control.rerouting.report import Decisions, Group, Share
from interlock.types.record import Intent
from interlock.types.usage import Usage

UNREAD = "not read"
"""The name of the task of calls whose prompts were not read."""
GROUPS_MAX = 200
"""Teams, tasks, models and sources that are listed, those with the most calls; the others are added up."""
OTHERS = "others"


class Answered(NamedTuple):
    """What a call that was made took. `completed`: whole, by `offer` of model `arm`. `uj`: -1: not known. `total_us`
    of the whole answer. `reward`: in millionths, -1: none."""

    completed: bool
    offer: str
    arm: str
    usage: Usage
    uj: int
    total_us: int
    reward: int


class Row(NamedTuple):
    """A call that was made and is decided again."""

    again: Again
    answered: Answered


class Tally:
    """Adds calls up, one by one. `teams`: names by id."""

    def __init__(self, teams: Mapping[str, str]) -> None:
        self._teams = teams
        self._counts: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._models = _Shares()
        self._sources = _Shares()
        self._by_team: dict[str, _Shares] = {}
        self._by_task: dict[str, _Shares] = {}
        self.untried: Counter[str] = Counter()
        """Millionths of calls that would go to a model which had no chance, by model."""
        self.routed = 0
        """Calls that were made, and would be under the change."""
        self.rows: list[Row] = []

    def add(self, record: Decided | None, found: Again | str, answered: Answered | None) -> None:
        """One call. `found`: how it was decided again, or why not. `answered`: None when it was not made."""
        self._counts["calls"] += 1
        if isinstance(found, str) or record is None:
            self._left_out[found if isinstance(found, str) else ""] += 1
            return
        now, then = found.now, found.then
        changed = now.offer != then.offer
        drifted = now.offer != _recorded(record)
        for name, counts in (
            ("again", True),
            ("changed", changed),
            ("model_changed", now.arm != then.arm),
            ("denied", bool(now.offer) and not then.offer),
            ("permitted", not now.offer and bool(then.offer)),
            ("drifted", drifted),
            ("tried_before", now.tried),
            ("tried_after", then.tried),
            ("read", found.read),
        ):
            self._counts[name] += counts
        self._models.add(now.arm, then.arm, changed=changed)
        self._sources.add(now.offer.partition("::")[0], then.offer.partition("::")[0], changed=changed)
        team = self._teams.get(record.team_id, record.team_id)
        task = found.task or UNREAD
        self._by_team.setdefault(team, _Shares()).add(now.arm, then.arm, changed=changed)
        self._by_task.setdefault(task, _Shares()).add(now.arm, then.arm, changed=changed)
        if answered is not None and now.offer and then.offer:
            self.routed += 1
            for arm, chance in then.spread.items():
                if not found.logged.get(arm):
                    self.untried[arm] += chance
            self.rows.append(Row(found, answered))

    def decisions(self, *, whole: bool) -> Decisions:
        """What was counted. `whole`: every call of the period was added."""
        c = self._counts
        return Decisions(
            c["calls"],
            whole,
            c["again"],
            dict(self._left_out.most_common()),
            c["changed"],
            c["model_changed"],
            c["denied"],
            c["permitted"],
            c["drifted"],
            c["tried_before"],
            c["tried_after"],
            c["read"],
            self._models.shares(),
            self._sources.shares(),
            _groups(self._by_team),
            _groups(self._by_task),
        )


class _Shares:
    """Calls of one group, by where they go before and after."""

    def __init__(self) -> None:
        self.calls = 0
        self.changed = 0
        self._before: Counter[str] = Counter()
        self._after: Counter[str] = Counter()

    def add(self, before: str, after: str, *, changed: bool) -> None:
        self.calls += 1
        self.changed += changed
        self._before[before] += 1
        self._after[after] += 1

    def merge(self, other: _Shares) -> None:
        self.calls += other.calls
        self.changed += other.changed
        self._before += other._before
        self._after += other._after

    def shares(self) -> tuple[Share, ...]:
        names = sorted(self._before.keys() | self._after.keys(), key=lambda n: (-self._before[n] - self._after[n], n))
        shown = [Share(name, self._before[name], self._after[name]) for name in names[:GROUPS_MAX]]
        rest = names[GROUPS_MAX:]
        if rest:
            shown.append(Share(OTHERS, sum(self._before[n] for n in rest), sum(self._after[n] for n in rest)))
        return tuple(shown)


def _groups(found: Mapping[str, _Shares]) -> tuple[Group, ...]:
    ordered = sorted(found.items(), key=lambda item: (-item[1].calls, item[0]))
    shown, rest = ordered[:GROUPS_MAX], ordered[GROUPS_MAX:]
    if rest:
        others = _Shares()
        for _, each in rest:
            others.merge(each)
        shown.append((OTHERS, others))
    return tuple(Group(name, each.calls, each.changed, each.shares()) for name, each in shown)


def _recorded(record: Decided) -> str:
    """The offer that was put first; "": none, the call was denied."""
    if not isinstance(record, Intent) or not record.route.candidates:
        return ""
    return record.route.candidates[0].offer


def answered_of(leaf: Mapping[str, Any], measured_uj: int | None, reward: int | None) -> Answered | None:
    """What a call took, from its entry; None when it reached no source. `measured_uj`: told later."""
    where = leaf.get("where")
    if leaf["kind"] != "call" or not where or not where["model"]:
        return None
    tokens, energy = leaf["tokens"], leaf["energy"]
    usage = Usage(tokens["prompt"], tokens["cached"], tokens["completion"], tokens["origin"], tokens["cache_write"])
    uj = measured_uj if measured_uj is not None else energy["uj"] if energy["method"] else -1
    return Answered(
        leaf["result"]["state"] == "completed" and usage.origin != "reserved",
        f"{where['name']}::{where['model']}",
        arm_named(where["model"], where["version"]),
        usage,
        uj,
        leaf["times"]["total_us"],
        reward if reward is not None else -1,
    )
