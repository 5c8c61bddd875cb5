"""Objectives and weights of an alias as a form: what people type, and the declaration that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interlock.control.amounts import nano_usd
from interlock.control.console.form_values import Misfilled
from interlock.types.slo import SLO_MS_MAX, WEIGHT_MAX

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields
    from interlock.control.documents import AliasSpec

TIMES = {"ttft_ms": "The time to the first byte", "latency_ms": "The time to the end"}
WEIGHTS = ("quality", "cost", "latency", "energy")
_STRICT = "slo_strict"
FIELDS = (*(f"slo_{name}" for name in (*TIMES, "cost_usd")), _STRICT, *(f"own_{name}" for name in WEIGHTS))
"""The fields of the form."""


def declared(form: Fields) -> dict[str, Any]:
    """`slo` and `weights` as the form describes them, None where its fields are empty.

    Raises Misfilled with everything that is wrong, as the admin API would find it one by one.
    """
    faults: dict[str, str] = {}
    slo: dict[str, Any] = {}
    for name, words in TIMES.items():
        number = _number(form, f"slo_{name}", 1, SLO_MS_MAX, f"{words} is a whole number of milliseconds", faults)
        if number is not None:
            slo[name] = number
    if cost := form.get("slo_cost_usd", "").strip().replace(",", "."):
        slo["cost_usd"] = cost
        try:
            nano_usd(cost)
        except ValueError as error:
            faults["slo_cost_usd"] = f"The cost: {error}."
    if form.get(_STRICT):
        if not slo and not faults:
            faults[_STRICT] = "Strict is about objectives: ask for a first byte, an end or a cost, or leave it out."
        slo["strict"] = True
    weights = _weights(form, faults)
    if faults:
        raise Misfilled(faults)
    return {"slo": slo or None, "weights": weights or None}


def typed(alias: AliasSpec) -> dict[str, Any]:
    """A declaration as the fields of its form."""
    slo, weights = alias.slo, alias.weights
    asked = {f"slo_{name}": None if slo is None else getattr(slo, name) for name in (*TIMES, "cost_usd")}
    own = {f"own_{name}": None if weights is None else getattr(weights, name) or None for name in WEIGHTS}
    return {
        **{name: "" if value is None else str(value) for name, value in (asked | own).items()},
        _STRICT: "1" if slo is not None and slo.strict else "",
        "faults": {},
        "unfolded": False,
    }


def retyped(form: Fields, faults: Mapping[str, str]) -> dict[str, Any]:
    """What was typed, to be shown again with what is wrong with it; {} where the form was another one."""
    if "slo_ttft_ms" not in form:
        return {}
    given = any(form.get(name, "").strip() for name in FIELDS)
    return {_STRICT: form.get(_STRICT, ""), "faults": faults, "unfolded": given}


def shares(alias: AliasSpec) -> list[tuple[str, int, float]]:
    """Of an alias's weights those above 0: name, weight, and percent of all; nothing where it has none."""
    own = {} if alias.weights is None else {name: getattr(alias.weights, name) for name in WEIGHTS}
    return [(name, weight, 100 * weight / sum(own.values())) for name, weight in own.items() if weight]


def _weights(form: Fields, faults: dict[str, str]) -> dict[str, int]:
    out = {}
    for name in WEIGHTS:
        number = _number(form, f"own_{name}", 0, WEIGHT_MAX, f"The weight of {name} is a whole number", faults)
        if number is not None:
            out[name] = number
    if out and not any(out.values()) and not any(f"own_{name}" in faults for name in WEIGHTS):
        faults[f"own_{next(iter(out))}"] = "At least one weight is above 0; with all of them empty the mode's hold."
    return out


def _number(form: Fields, field: str, least: int, most: int, words: str, faults: dict[str, str]) -> int | None:
    """A field's whole number, None when it is empty or at fault; `words` begin what is then said."""
    text = form.get(field, "").strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    faults[field] = f"{words} from {least} to {most}, not {text!r}."
    return None
