"""Signals of how good answers are, from what records hold anyway: shares with their base, by source and model. Pure.

A signal whose base is empty is absent: nobody told a finish reason, nothing was streamed, no shadow answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from interlock.control.live.window import Call
from interlock.types.snapshot import Canary

ROWS_MAX = 30
"""Pairs of source and model, those with most calls."""
VERDICTS_MAX = 20
NOT_UNDERSTOOD = frozenset((
    "upstream_malformed", "upstream_too_large", "upstream_event_too_large", "untranslatable", "unknown_field",
))  # fmt: skip
"""Codes of answers that are not what they should be, and of requests that a source has no words for."""


class Signal(msgspec.Struct, frozen=True):
    """`count` of `of` calls. `name`: of `KINDS`."""

    name: str
    count: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.count / self.of


class QualityRow(msgspec.Struct, frozen=True):
    """The signals of the calls that one source answered with one model."""

    source: str
    model: str
    calls: int
    signals: list[Signal]

    def get(self, name: str) -> Signal | None:
        """One signal; None where it is absent."""
        return next((each for each in self.signals if each.name == name), None)


class Verdict(msgspec.Struct, frozen=True):
    """What became of an alias's canary. `state`: "running" or "failed"; then `why` says what failed."""

    alias: str
    tenant: str
    state: str
    why: str


class Score(msgspec.Struct, frozen=True):
    """What outcomes have shown of a model at a class of tasks: the mean of rewards in [0, 1] with its bounds at 95 %,
    in thousandths, of how many outcomes, and from where these came."""

    model: str
    task_class: str
    mean_milli: int
    low_milli: int
    high_milli: int
    count: int
    origins: dict[str, int] = {}


class Scores(Protocol):
    """Who knows scores. Called once a second at most while somebody watches, with no lock of a database held."""

    def __call__(self, tenant_id: str, /) -> Sequence[Score]:
        """Of one tenant; "": of all of them."""


class Kind(NamedTuple):
    """A signal. `base`: whether a call counts for it at all; `hit`: whether it counts as one. `bad`: more is worse."""

    name: str
    title: str
    hint: str
    base: Callable[[Call], bool]
    hit: Callable[[Call], bool]
    bad: bool = True


def _told(call: Call) -> bool:
    return bool(call.finish)


KINDS = (
    Kind(
        "length", "Cut at length",
        "Answers that ended at their token limit, of those whose source told why they ended. Raise max_tokens, or the"
        " alias's cap.",
        _told, lambda c: "length" in c.finish,
    ),
    Kind(
        "filtered", "Filtered",
        "Answers that a source's content filter ended or withheld, of those whose source told why they ended.",
        lambda c: _told(c) or c.code == "content_filter",
        lambda c: "content_filter" in c.finish or c.code == "content_filter",
    ),
    Kind(
        "declined", "Declined",
        "Answers in which the model declined, by their words, of those that were compared with a shadow.",
        lambda c: c.declined is not None, lambda c: bool(c.declined),
    ),
    Kind(
        "agreed", "As the caller's",
        "Answers of a shadow that were the same as the caller's, of those that were compared.",
        lambda c: c.agreed is not None, lambda c: bool(c.agreed), bad=False,
    ),
    Kind(
        "malformed", "Not understood",
        "Calls that failed because an answer was not what it should be, or because a source has no words for what was"
        " asked.",
        lambda c: bool(c.source), lambda c: c.code in NOT_UNDERSTOOD,
    ),
    Kind(
        "broken", "Broken off",
        "Streams that broke after their first words, of those that had any: callers have half an answer.",
        lambda c: c.streamed, lambda c: c.state in ("failed", "interrupted"),
    ),
    Kind(
        "left", "Left",
        "Streams whose caller went away before their end.",
        lambda c: c.streamed, lambda c: c.state == "disconnected",
    ),
    Kind(
        "retried", "Tried again",
        "Calls that took more than one try, counted where they ended.",
        lambda c: c.attempts > 0, lambda c: c.attempts > 1,
    ),
    Kind(
        "untold", "Usage not told",
        "Completed calls whose source did not say what they used: they are charged at their reservation.",
        lambda c: c.state == "completed", lambda c: c.reserved,
    ),
)  # fmt: skip


def quality(calls: Iterable[Call]) -> list[QualityRow]:
    """Of calls that a source had, those with most calls first."""
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if call.source and not call.refused:
            groups.setdefault((call.source, call.model), []).append(call)
    largest = sorted(groups, key=lambda key: (-len(groups[key]), key))[:ROWS_MAX]
    return [QualityRow(*key, len(groups[key]), signals(groups[key])) for key in largest]


def signals(calls: Sequence[Call]) -> list[Signal]:
    """Every signal that these calls have a base for."""
    out = []
    for kind in KINDS:
        base = [call for call in calls if kind.base(call)]
        if base:
            out.append(Signal(kind.name, sum(map(kind.hit, base)), len(base)))
    return out


def verdicts(canaries: Mapping[tuple[str, str], Canary], tenant_id: str) -> list[tuple[str, str, Canary]]:
    """(tenant id, alias, canary) that a scope shows: of one tenant its own, of all (""), every one; failed ones first.
    `canaries`: by tenant id and alias."""
    found = [(t, name, canary) for (t, name), canary in canaries.items() if tenant_id in ("", t)]
    found.sort(key=lambda each: (each[2].state != "failed", each[0], each[1]))
    return found[:VERDICTS_MAX]
