"""The cascade of an alias as a form: what people type, and the declaration that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.control.amounts import NUSD_PER_USD, decimal_text, whole
from interlock.control.console.alias_faults import number, rows, told
from interlock.control.validate import CASCADE_STEPS_MAX
from interlock.types.budget import AMOUNT_MAX

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields
    from interlock.control.documents import CascadeSpec

CHECKS = (
    ("json", "JSON: the answer is one, and as the request's schema says"),
    ("finish", "finish: it came to its end, not cut and not filtered"),
    ("tool_call", "tool calls: as they were asked for, with JSON objects"),
    ("confidence", "confidence: the mean probability of its tokens"),
)
"""Checks in the order in which a form has them, and what each asks of an answer."""
SPARE_ROWS = 2
"""Empty rows below the steps, to add some."""
_PERCENT = ("percentage", "percentage from 0.1 to 100 with at most one")
_DOLLARS = ("amount in dollars", "amount with at most nine")


def declared(form: Fields, faults: dict[str, str]) -> dict[str, Any]:
    """A cascade as the form describes it; what is wrong with single fields is put with `faults`."""
    out: dict[str, Any] = {"steps": [], "checks": [name for name, _ in CHECKS if f"check_{name}" in form]}
    for n in _steps(form):
        model, source = (form.get(f"step_{part}_{n}", "").strip() for part in ("model", "source"))
        if model:
            out["steps"].append({"model": model, "source": source})
        elif source:
            faults[f"step_model_{n}"] = told(f"step_model_{n}", f"step {n + 1} names a source and no model")
    bounds = {
        "confidence_min_milli": _amount(form, "confidence_percent", 10, 1000, *_PERCENT, faults),
        "money_nusd_max": _amount(form, "money_usd", NUSD_PER_USD, AMOUNT_MAX, *_DOLLARS, faults),
        "time_ms_max": number(form, "time_ms", faults),
    }
    return out | {name: value for name, value in bounds.items() if value is not None}


def typed(cascade: CascadeSpec | None) -> dict[str, Any]:
    """A declaration as the fields of its form; without one the form begins with the check that most answers have."""
    given = [{"model": step.model, "source": step.source} for step in cascade.steps] if cascade is not None else []
    checks = cascade.checks if cascade is not None else ("finish",)
    confidence = cascade.confidence_min_milli if cascade is not None else None
    money = cascade.money_nusd_max if cascade is not None else None
    time_ms = cascade.time_ms_max if cascade is not None else None
    return {
        "steps": given + _empty(min(max(SPARE_ROWS, 3 - len(given)), CASCADE_STEPS_MAX - len(given))),
        "confidence_percent": "" if confidence is None else decimal_text(confidence, 1),
        "money_usd": "" if money is None else decimal_text(money, 9),
        "time_ms": "" if time_ms is None else str(time_ms),
        **{f"check_{name}": "1" if name in checks else "" for name, _ in CHECKS},
    }


def retyped(form: Fields) -> dict[str, Any]:
    """What was typed, to be shown again; {} where the form was another one."""
    if "step_model_0" not in form:
        return {}
    steps = [{part: form.get(f"step_{part}_{n}", "") for part in ("model", "source")} for n in _steps(form)]
    return {"steps": steps, **{f"check_{name}": form.get(f"check_{name}", "") for name, _ in CHECKS}}


def _steps(form: Fields) -> list[int]:
    """Numbers of the rows that were sent."""
    return rows(form, "step_model")[:CASCADE_STEPS_MAX]


def _amount(form: Fields, name: str, scale: int, most: int, what: str, fits: str, faults: dict[str, str]) -> int | None:
    """A field's decimal times `scale`, None when it is empty or at fault."""
    text = form.get(name, "").strip().replace(",", ".")
    try:
        amount = whole(text, scale, most, what, fits) if text else None
    except ValueError as error:
        faults[name] = told(name, str(error))
        return None
    if amount == 0:
        faults[name] = told(name, "more than 0")
    return amount or None


def _empty(count: int) -> list[dict[str, str]]:
    return [{"model": "", "source": ""} for _ in range(count)]
