"""What a policy may ask of a call's cost and of the time, without every call being a new decision.

`context.cost_nusd`, `context.time_s` and `context.week_minute` may be compared with whole numbers only. So a decision
depends on nothing but which side of each of these numbers a value is on: values between the same two numbers are one to
the decision cache, and a window costs a new decision twice, where it begins and where it ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple

COST, TIME, WEEK = "cost_nusd", "time_s", "week_minute"
ATTRIBUTES = (COST, TIME, WEEK)
WEEK_MINUTES = 7 * 24 * 60
_THURSDAY = 3 * 24 * 60
"""1 January 1970 was one; weeks begin on Monday."""
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))


class Measured(NamedTuple):
    """The values that a decision is made with: each the same for all that lies between the same two thresholds.
    `costs`: by offer, in the order of the offers."""

    time_s: int
    week_minute: int
    costs: tuple[int, ...]


def read_by(cedar: str) -> bool:
    """Whether a text may read any of the attributes; cheap, and sometimes wrongly true."""
    return any(name in cedar for name in ATTRIBUTES)


def problem(form: object) -> str:
    """Why a statement (Cedar's JSON) may not be stored, or ""."""
    found: list[str] = []
    _walk(form, {}, found)
    return found[0] if found else ""


def thresholds(forms: Iterable[object]) -> dict[str, tuple[int, ...]]:
    """The thresholds of these statements (Cedar's JSON)."""
    known: dict[str, set[int]] = {}
    for form in forms:
        _walk(form, known, [])
    return {name: tuple(sorted(numbers)) for name, numbers in known.items()}


def stands_for(value: int, numbers: tuple[int, ...]) -> int:
    """The value that stands for all that compare to these numbers as it does."""
    if not numbers:
        return 0
    place = bisect_left(numbers, value)
    if place == len(numbers):
        return numbers[-1] + 1
    return numbers[place] if numbers[place] == value else numbers[place] - 1


def every(numbers: tuple[int, ...]) -> list[int]:
    """A value for each way of comparing to these numbers."""
    return sorted({stands_for(n + d, numbers) for n in numbers for d in (-1, 0, 1)}) or [0]


def week_minute(time_s: int) -> int:
    """Minutes since Monday 00:00 UTC, from Unix seconds."""
    return (time_s // 60 + _THURSDAY) % WEEK_MINUTES


def _attribute(node: object) -> str:
    """The measured attribute that a node reads, or ""."""
    found = node.get(".") if isinstance(node, dict) else None
    if not isinstance(found, dict) or found.get("left") != {"Var": "context"}:
        return ""
    return str(found["attr"]) if found.get("attr") in ATTRIBUTES else ""


def _number(node: object) -> int | None:
    """The whole number that a node is, or None."""
    if isinstance(node, dict):
        if set(node) == {"Value"} and type(node["Value"]) is int:
            return int(node["Value"])
        if set(node) == {"neg"} and isinstance(node["neg"], dict):
            inner = _number(node["neg"].get("arg"))
            return None if inner is None else -inner
    return None


def _walk(node: object, known: dict[str, set[int]], problems: list[str]) -> None:
    if isinstance(node, list):
        for each in node:
            _walk(each, known, problems)
    if not isinstance(node, dict):
        return
    name = _attribute(node)
    if name:
        problems.append(f"context.{name} may only be compared with a whole number")
        return
    if node == {"Var": "context"}:
        problems.append("the context as a whole may not be used, only its attributes")
        return
    for operator, value in node.items():
        if operator in (".", "has") and isinstance(value, dict) and value.get("left") == {"Var": "context"}:
            continue
        if operator in _COMPARISONS and isinstance(value, dict) and _compared(value, known):
            continue
        _walk(value, known, problems)


def _compared(sides: dict[str, Any], known: dict[str, set[int]]) -> bool:
    for one, other in (("left", "right"), ("right", "left")):
        name, number = _attribute(sides.get(one)), _number(sides.get(other))
        if name and number is not None:
            known.setdefault(name, set()).add(number)
            return True
    return False
