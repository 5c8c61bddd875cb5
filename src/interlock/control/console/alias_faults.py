"""What is wrong with a form of an alias, told at the fields that it was typed into: all of it at once, where it can be
found before anything is stored, and else what was found when it was to be stored."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from interlock.control import validate
from interlock.control.console.form_values import Misfilled, whole_number
from interlock.control.documents import AliasSpec
from interlock.control.parse import show
from interlock.control.web import read_as
from interlock.errors import BadRequest, Conflict, InterlockError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interlock.control.console.visit import Fields
    from interlock.control.plan import Ref

LABELS = {
    "name": "Name",
    "tenant": "For",
    "mode": "Mode",
    "max_tokens": "Most answer tokens",
    "data_class": "Data class",
    "deprecated": "Deprecated from",
    "sunset": "Ends",
    "successor": "Successor",
    "reason": "Reason",
    "candidate": "Candidate",
    "candidate_source": "Source of the candidate",
    "share_percent": "Share of calls",
    "errors_milli_max": "Failures",
    "errors_milli_over_stable": "Failures above the targets'",
    "first_byte_p95_ms_max": "p95 to the first byte, ms",
    "total_p95_ms_max": "p95 of the whole call, ms",
    "first_byte_percent_max": "p95 to the first byte, %",
    "total_percent_max": "p95 of the call, %",
    "window_s": "Looked back",
    "calls_min": "Calls at least",
    "check_json": "Checks",
    "confidence_percent": "Confidence",
    "money_usd": "No further step beyond",
    "time_ms": "No further step after",
}
"""What fields that are there once are called in a sentence."""
_ROWS = {"model": "Model of target", "source": "Source of target", "weight": "Weight of target"}
_STEPS = {"step_model": "Model of step", "step_source": "Source of step"}
_CANDIDATE = {"model": "candidate", "source": "candidate_source", "share_milli": "share_percent"}
_CASCADE = {
    "checks": "check_json",
    "confidence_min_milli": "confidence_percent",
    "money_nusd_max": "money_usd",
    "time_ms_max": "time_ms",
}
_ROW = re.compile(r"(targets|cascade\.steps)\[(\d+)\]\.(model|source|weight)")
_RANGE = re.compile(r"Expected 'int' (>=|<=) (-?\d+)")
_FAULTS_MAX = 50


def told(field: str, words: str) -> str:
    """What is wrong, as a sentence that says of which field."""
    stem, _, row = field.rpartition("_")
    rows = _ROWS | _STEPS
    label = f"{rows[stem]} {int(row) + 1}" if stem in rows and row.isdecimal() else LABELS[field]
    plain = _RANGE.sub(lambda found: f"at {'least' if found[1] == '>=' else 'most'} {found[2]}", words)
    return f"{label}: {plain}{'' if plain.endswith('.') else '.'}"


def number(form: Fields, name: str, faults: dict[str, str]) -> int | None:
    """A field's whole number, None when it is empty or at fault."""
    try:
        return whole_number(form, name)
    except BadRequest:
        faults[name] = told(name, f"a whole number, not {form.get(name, '').strip()[:40]!r}")
        return None


def rows(form: Fields, field: str) -> list[int]:
    """Numbers of the rows that were sent, by the field that each has."""
    return list(itertools.takewhile(lambda n: f"{field}_{n}" in form, itertools.count()))


def sound(fields: dict[str, Any], ref: Ref, form: Fields, faults: dict[str, str]) -> AliasSpec:
    """The declaration. `faults`: what is known to be wrong by then, by field.

    Raises Misfilled with all that is wrong with fields of the form, BadRequest where something else is.
    """
    spec = None
    while spec is None:
        try:
            spec = read_as(fields, AliasSpec)
        except BadRequest as error:
            field = _field(error.param or "", form)
            if field:
                faults.setdefault(field, told(field, _bare(error)))
            if not field or len(faults) > _FAULTS_MAX or not _leave_out(fields, error.param or ""):
                if faults:
                    break
                raise
    for path, words in validate.form(ref, spec) if spec is not None else ():
        field = _field(show(path), form)
        if field and not (faults and path == ("canary",)):  # a bound that is at fault is one that was meant
            faults.setdefault(field, told(field, words))
    if faults:
        raise Misfilled(_in_order(faults, form))
    assert spec is not None  # noqa: S101 - else there are faults
    return spec


def at_field(error: InterlockError, form: Fields) -> InterlockError:
    """What was found when it was to be stored, at the field that it is of, if it is of one."""
    if isinstance(error, Misfilled):
        return error
    if isinstance(error, Conflict) and error.code == "already_exists":
        field = "name"
    else:
        field = _field(error.param or "", form)
    if not field:
        return error
    words = "say why; it is recorded" if field == "reason" else _bare(error)
    return Misfilled({field: told(field, words)}, status=error.status)


def _bare(error: InterlockError) -> str:
    return error.message.removeprefix(f"{error.param}: ")


def _in_order(faults: Mapping[str, str], form: Fields) -> dict[str, str]:
    """As the fields stand in the form."""
    places = {name: place for place, name in enumerate(form)}
    return {name: faults[name] for name in sorted(faults, key=lambda name: places.get(name, len(places)))}


def _field(param: str, form: Fields) -> str:
    """The field of the form that a place in a declaration was typed into; "" where the form has none."""
    row = _ROW.fullmatch(param)
    if row is not None:
        stem = "model" if row[1] == "targets" else "step_model"
        used = [n for n in rows(form, stem) if form[f"{stem}_{n}"].strip()]
        part = row[3] if row[1] == "targets" else f"step_{row[3]}"
        field = f"{part}_{used[int(row[2])]}" if int(row[2]) < len(used) else ""
    elif param == "targets":
        field = "model_0"
    elif param == "cascade.steps":
        empty = [n for n in rows(form, "step_model") if not form[f"step_model_{n}"].strip()]
        field = f"step_model_{empty[0] if empty else 0}"
    elif param == "canary":
        field = "errors_milli_max"
    else:
        section, _, name = param.rpartition(".")
        own = {"": {}, "cascade": _CASCADE, "canary": _CANDIDATE, "shadow": _CANDIDATE}.get(section)
        field = "" if own is None else own.get(name, name)
    there = field in form or (field == "check_json" and "step_model_0" in form)
    return field if there and (field in LABELS or field.rpartition("_")[0] in _ROWS | _STEPS) else ""


def _leave_out(fields: dict[str, Any], param: str) -> bool:
    """Take a value that is at fault out of a declaration, so that the next one is found; False where it cannot be."""
    *way, last = re.findall(r"[^.\[\]]+", param)
    within: Any = fields
    for step in way:
        within = within[int(step)] if isinstance(within, list) else within[step]
    if not isinstance(within, dict) or last not in within:
        return False
    del within[last]
    return True
