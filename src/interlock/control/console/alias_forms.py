"""Aliases as forms: what people type, and the declarations that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.control.console import cascade_forms, objective_forms
from interlock.control.console.alias_faults import number, rows, sound, told
from interlock.control.console.form_values import Misfilled
from interlock.control.documents import AliasSpec, lean
from interlock.control.web import read_as
from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields
    from interlock.control.plan import Ref

MODES = (("eco", "eco: little energy and money"), ("balanced", "balanced"), ("quality", "quality: the best model"))
DATA_CLASSES = ("public", "internal", "confidential", "restricted")
SPARE_ROWS = 2
"""Empty rows below an alias's targets, to add some."""
_TIMES = ("deprecated", "sunset", "successor")
_BOUNDS = (
    ("calls_min", 30),
    ("window_s", 600),
    ("errors_milli_max", 100),
    ("errors_milli_over_stable", None),
    ("first_byte_p95_ms_max", None),
    ("total_p95_ms_max", None),
    ("first_byte_percent_max", None),
    ("total_percent_max", None),
)


def declared(form: Fields, before: dict[str, Any], ref: Ref, faults: dict[str, str] | None = None) -> AliasSpec:
    """What the form says over what is declared besides. `faults`: what is known to be wrong by then. Raises Misfilled
    with every field at fault."""
    faults = {} if faults is None else faults
    out = {**before, "targets": _targets(form, faults), "mode": form.get("mode", "balanced")}
    out |= {name: form.get(name, "").strip() for name in _TIMES}
    out["max_tokens"] = number(form, "max_tokens", faults) or 0
    out["data_class"] = form.get("data_class", "public")
    return sound(out, ref, form, faults)


def with_canary(form: Fields, alias: AliasSpec, ref: Ref) -> AliasSpec:
    """The declaration with a canary as the form describes it. Raises Misfilled with every field at fault."""
    faults: dict[str, str] = {}
    out: dict[str, Any] = {**_candidate(form, faults), "sticky": bool(form.get("sticky"))}
    for name, _ in _BOUNDS:
        out[name] = number(form, name, faults)
    canary = {name: value for name, value in out.items() if value is not None or name == "errors_milli_max"}
    return sound({**lean(alias), "canary": canary}, ref, form, faults)


def with_shadow(form: Fields, alias: AliasSpec, ref: Ref) -> AliasSpec:
    """The declaration with a shadow as the form describes it. Raises Misfilled with every field at fault."""
    faults: dict[str, str] = {}
    return sound({**lean(alias), "shadow": _candidate(form, faults)}, ref, form, faults)


def with_cascade(form: Fields, alias: AliasSpec, ref: Ref) -> AliasSpec:
    """The declaration with a cascade as the form describes it. Raises Misfilled with every field at fault."""
    faults: dict[str, str] = {}
    return sound({**lean(alias), "cascade": cascade_forms.declared(form, faults)}, ref, form, faults)


def spec(fields: dict[str, Any]) -> AliasSpec:
    """The declaration. Raises BadRequest with the field at fault."""
    return read_as(fields, AliasSpec)


def typed(alias: AliasSpec) -> dict[str, Any]:
    """A declaration as the fields of the form that changes it."""
    given = [
        {"model": t.model, "source": t.source, "weight": str(t.weight), "prefer": t.prefer_version}
        for t in alias.targets
    ]
    return {
        "rows": given + _empty(max(SPARE_ROWS, 3 - len(given))),
        "mode": alias.mode,
        "max_tokens": str(alias.max_tokens or ""),
        "data_class": alias.data_class,
        "reason": "",
        "share_percent": "5",
        "candidate": "",
        "candidate_source": "",
        "candidate_prefer": "",
        "sticky": "",
        **cascade_forms.typed(alias.cascade),
        **objective_forms.typed(alias),
        **{name: getattr(alias, name) for name in _TIMES},
        **{name: "" if value is None else str(value) for name, value in _BOUNDS},
    }


def retyped(form: Fields, alias: AliasSpec, error: InterlockError) -> dict[str, Any]:
    """What was typed into one of the page's forms, to be shown again; the others as they are declared."""
    faults = error.faults if isinstance(error, Misfilled) else {}
    out = {**typed(alias), **form, **cascade_forms.retyped(form), **objective_forms.retyped(form, faults)}
    if "model_0" in form:
        out["rows"] = [
            {
                "model": form.get(f"model_{n}", ""),
                "source": form.get(f"source_{n}", ""),
                "weight": form.get(f"weight_{n}", ""),
                "prefer": f"prefer_{n}" in form,
            }
            for n in rows(form, "model")
        ]
    return out


def blank() -> AliasSpec:
    """An alias that nobody has described yet."""
    return AliasSpec(name="")


def replaced(alias: AliasSpec, **fields: Any) -> AliasSpec:
    """The declaration with other fields. Raises BadRequest."""
    return spec({**lean(alias), **fields})


def _targets(form: Fields, faults: dict[str, str]) -> list[dict[str, Any]]:
    out = []
    for n in rows(form, "model"):
        model, source = (form.get(f"{part}_{n}", "").strip() for part in ("model", "source"))
        weight = number(form, f"weight_{n}", faults)
        if model:
            target = {"model": model, "source": source, "weight": 1 if weight is None else weight}
            out.append({**target, "prefer_version": f"prefer_{n}" in form})
        elif source or form.get(f"weight_{n}", "").strip():
            faults[f"model_{n}"] = told(f"model_{n}", "there is a source or a weight, and no model")
    return out


def _candidate(form: Fields, faults: dict[str, str]) -> dict[str, Any]:
    model, text = (form.get(name, "").strip() for name in ("candidate", "share_percent"))
    if not model:
        faults["candidate"] = told("candidate", "name its model")
    try:
        milli = round(float(text.replace(",", ".")) * 10)
    except (ValueError, OverflowError):
        milli = 1
        faults["share_percent"] = told("share_percent", "a number of percent, such as 5 or 0.5")
    if not 1 <= milli <= 1000:
        faults["share_percent"] = told("share_percent", "0.1 to 100 percent")
    out: dict[str, Any] = {"model": model, "share_milli": milli}
    if source := form.get("candidate_source", "").strip():
        out["source"] = source
    if form.get("candidate_prefer"):
        out["prefer_version"] = True
    return out


def _empty(count: int) -> list[dict[str, Any]]:
    return [{"model": "", "source": "", "weight": "", "prefer": False} for _ in range(count)]
