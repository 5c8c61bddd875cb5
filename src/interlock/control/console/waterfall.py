"""What happened when in one call, from its records: stages and attempts as bars of one scale. Pure.

Recorded are: when the request had arrived, when each attempt was sent (and how long the call had waited for seats by
then), when an attempt failed, when the answer's first byte came, and when the call ended. What is between two of these
is one stage: connecting is a part of waiting for the first byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from interlock.types.record import Attempt, AttemptEnd, Intent, Interrupted, Outcome, StepEnd

WIDTH = 1000
"""Units of a bar's scale: the whole call is so wide."""
LEAST = 4
"""Width of the shortest bar, so that it can be seen."""
NS_PER_US = 1000


class Bar(NamedTuple):
    """One stage. `kind`: "own" (ours), "seat" (waiting for one), "source" (until the first byte), "answer", "failed".
    Times in microseconds from the arrival of the request; `x`, `width` in units of `WIDTH`. `where`: the offer that was
    tried. `result`: how it ended, where it is an attempt's end."""

    name: str
    kind: str
    start_us: int
    us: int
    x: int
    width: int
    where: str = ""
    result: str = ""
    off_prem: bool = False


class Stage(NamedTuple):
    """A bar before it has its place on the scale."""

    name: str
    kind: str
    start_us: int
    end_us: int
    where: str = ""
    result: str = ""
    off_prem: bool = False


def bars(records: Sequence[object]) -> list[Bar]:
    """The bars of a call, first to last; none for one that was refused, or whose end is not recorded."""
    intent = next((each for each in records if isinstance(each, Intent)), None)
    outcome = next((each for each in records if isinstance(each, Outcome)), None)
    if intent is None or outcome is None or any(isinstance(each, Interrupted) for each in records):
        return []
    return _scaled(_stages(records, intent.mono_ns, outcome))


def bars_of_leaf(leaf: dict[str, Any]) -> list[Bar]:
    """The bars of a call of which only its entry is left: until the first byte, and from then on."""
    times = leaf.get("times", {})
    total, first = int(times.get("total_us", 0)), int(times.get("first_us", 0))
    if not total:
        return []
    result = str(leaf.get("result", {}).get("state", ""))
    if not 0 < first < total:
        return _scaled([Stage("The whole call", "source", 0, total, result=result)])
    before = Stage("Until the first byte", "source", 0, first)
    return _scaled([before, Stage("Answer", "answer", first, total, result=result)])


def _stages(records: Sequence[object], began_ns: int, outcome: Outcome) -> list[Stage]:
    attempts = [each for each in records if isinstance(each, Attempt)]
    ends = {each.number: each for each in records if isinstance(each, AttemptEnd)}
    steps = {each.attempt: each for each in records if isinstance(each, StepEnd)}
    end_us = (outcome.mono_ns - began_ns) // NS_PER_US
    out: list[Stage] = []
    at_us = waited_ms = 0
    for number, attempt in enumerate(attempts):
        sent_us = (attempt.mono_ns - began_ns) // NS_PER_US
        seat_us = min(max(0, attempt.waited_ms - waited_ms) * 1000, sent_us - at_us)
        waited_ms = attempt.waited_ms
        name = "Next candidate" if number else "Checked and decided"
        if sent_us - seat_us > at_us:
            out.append(Stage(name, "own", at_us, sent_us - seat_us))
        if seat_us:
            out.append(Stage("Waited for a seat", "seat", sent_us - seat_us, sent_us))
        ended = ends.get(attempt.number)
        where = f"{attempt.source}::{attempt.model}"
        step = steps.get(attempt.number)
        over = ended or step
        until_us = end_us if over is None else (over.mono_ns - began_ns) // NS_PER_US
        if step is not None:
            out.append(_step(attempt, step, (sent_us, until_us), where))
            at_us = until_us
            continue
        out += _attempt(attempt, ended, outcome, (sent_us, until_us), where)
        at_us = until_us
    if end_us > at_us:
        out.append(Stage("Ended" if attempts else "Checked and decided", "own", at_us, end_us, result=outcome.state))
    return out


def _step(attempt: Attempt, step: StepEnd, span: tuple[int, int], where: str) -> Stage:
    """A step of a cascade, with what was found of its answer."""
    result = step.code or ", ".join(step.checks) or "not checked"
    kind = "failed" if step.code else "source"
    return Stage(f"Attempt {attempt.number + 1}, step {step.step + 1}", kind, *span, where, result, attempt.off_prem)


def _attempt(
    attempt: Attempt, ended: AttemptEnd | None, outcome: Outcome, span: tuple[int, int], where: str
) -> list[Stage]:
    """An attempt that failed is one stage; the last one is two where the first byte came before the end."""
    sent_us, until_us = span
    name = f"Attempt {attempt.number + 1}"
    if ended is not None:
        status = f", status {ended.status}" if ended.status else ""
        return [Stage(name, "failed", sent_us, until_us, where, f"{ended.code}{status}", attempt.off_prem)]
    result = outcome.state + (f": {outcome.code}" if outcome.code else "")
    first_us = outcome.first_byte_us
    if not sent_us < first_us < until_us:
        kind = "source" if outcome.state == "completed" else "failed"
        return [Stage(name, kind, sent_us, until_us, where, result, attempt.off_prem)]
    first = Stage(f"{name}, until the first byte", "source", sent_us, first_us, where, "", attempt.off_prem)
    return [first, Stage(f"{name}, the answer", "answer", first_us, until_us, where, result, attempt.off_prem)]


def _scaled(stages: list[Stage]) -> list[Bar]:
    whole = max((stage.end_us for stage in stages), default=0) or 1
    out = []
    for stage in stages:
        us = max(0, stage.end_us - stage.start_us)
        width = max(LEAST, round(WIDTH * us / whole))
        x = min(round(WIDTH * stage.start_us / whole), WIDTH - width)
        out.append(Bar(stage.name, stage.kind, stage.start_us, us, x, width, stage.where, stage.result, stage.off_prem))
    return out
