"""What was recorded of policies that only report: which calls they would have decided otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from interlock.control.replay import Decided
from interlock.control.whatif import told_as
from interlock.types.identity import Principal


class Reported(msgspec.Struct, frozen=True):
    """A call that the draft would have decided otherwise. `would`: "denied", "permitted" or "other". `allowed`: the
    offers it would have left. Of callers that are not declared only the ids are told."""

    request: str
    at_ns: int
    principal: str
    acting_for: str
    model: str
    would: str
    allowed: tuple[str, ...]
    why: tuple[str, ...]


class Report(msgspec.Struct, frozen=True):
    """What the set of policies with this digest would have made of the calls that it was evaluated for. `digest` "":
    nothing reports now, and the counts are nought. `whole` is false when the period has more calls, older ones."""

    digest: str
    calls: int
    whole: bool
    same: int
    denied: int
    permitted: int
    other: int
    by: dict[str, int]
    examples: tuple[Reported, ...]


class Tally:
    """Adds calls up, one by one, for the trial of a tenant ("": of the platform) with this digest."""

    def __init__(self, tenant_id: str, digest: str, examples_max: int, principals: Mapping[str, Principal]) -> None:
        self.tenant_id = tenant_id
        self._digest = digest
        self._principals = principals
        self._examples_max = examples_max
        self._counts: Counter[str] = Counter()
        self._by: Counter[str] = Counter()
        self._examples: list[Reported] = []

    def add(self, request: str, record: Decided | None) -> None:
        """One call; None when what was recorded of it is gone."""
        for trial in record.trials if record is not None else ():
            if not self._digest or trial.tenant_id != self.tenant_id or trial.digest != self._digest or record is None:
                continue
            self._counts["calls"] += 1
            self._counts[trial.would] += 1
            if trial.would == "same":
                continue
            who, for_whom, named = told_as(record, self._principals)
            self._by[f"{who} for {for_whom}" if for_whom else who] += 1
            if len(self._examples) < self._examples_max:
                asked = record.features.asked if record.features is not None else ""
                why = tuple(dict.fromkeys(reason.words for reason in trial.reasons)) if named else ()
                told = Reported(
                    request,
                    record.wall_ns,
                    who,
                    for_whom,
                    asked,
                    trial.would,
                    trial.allowed,
                    why,
                )
                self._examples.append(told)

    def result(self, *, whole: bool) -> Report:
        """What was found. `whole`: every call of the period was added."""
        c = self._counts
        return Report(
            self._digest,
            c["calls"],
            whole,
            c["same"],
            c["denied"],
            c["permitted"],
            c["other"],
            dict(self._by.most_common()),
            tuple(self._examples),
        )
