"""Aliases as forms: what people type, and the declarations that it stands for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from interlock.control.console import cascade_forms, objective_forms
from interlock.control.console.form_values import Misfilled, whole_number
from interlock.control.documents import AliasSpec, lean
from interlock.control.web import read_as
from interlock.errors import BadRequest, InterlockError

if TYPE_CHECKING:
    from interlock.control.console.visit import Fields

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


def declared(form: Fields, before: dict[str, Any]) -> AliasSpec:
    """What the form says over what is declared besides. Raises BadRequest with the field at fault."""
    out = {**before, "targets": _targets(form), "mode": form.get("mode", "balanced")}
    out |= {name: form.get(name, "").strip() for name in _TIMES}
    out["max_tokens"] = whole_number(form, "max_tokens") or 0
    out["data_class"] = form.get("data_class", "public")
    return spec(out)


def canary(form: Fields) -> dict[str, Any]:
    """A canary as the form describes it. Raises BadRequest."""
    out: dict[str, Any] = {**_candidate(form), "sticky": bool(form.get("sticky"))}
    for name, _ in _BOUNDS:
        out[name] = whole_number(form, name)
    return {name: value for name, value in out.items() if value is not None or name == "errors_milli_max"}


def shadow(form: Fields) -> dict[str, Any]:
    """A shadow as the form describes it. Raises BadRequest."""
    return _candidate(form)


def spec(fields: dict[str, Any]) -> AliasSpec:
    """The declaration. Raises BadRequest with the field at fault."""
    return read_as(fields, AliasSpec)


def typed(alias: AliasSpec) -> dict[str, Any]:
    """A declaration as the fields of the form that changes it."""
    rows = [
        {"model": t.model, "source": t.source, "weight": str(t.weight), "prefer": t.prefer_version}
        for t in alias.targets
    ]
    return {
        "rows": rows + _empty(max(SPARE_ROWS, 3 - len(rows))),
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
        rows = [
            {
                "model": form.get(f"model_{n}", ""),
                "source": form.get(f"source_{n}", ""),
                "weight": form.get(f"weight_{n}", ""),
                "prefer": f"prefer_{n}" in form,
            }
            for n in _rows(form)
        ]
        out["rows"] = rows
    return out


def blank() -> AliasSpec:
    """An alias that nobody has described yet."""
    return AliasSpec(name="")


def replaced(alias: AliasSpec, **fields: Any) -> AliasSpec:
    """The declaration with other fields. Raises BadRequest."""
    return spec({**lean(alias), **fields})


def _targets(form: Fields) -> list[dict[str, Any]]:
    out = []
    for n in _rows(form):
        model = form.get(f"model_{n}", "").strip()
        if model:
            weight = whole_number(form, f"weight_{n}")
            target = {"model": model, "source": form.get(f"source_{n}", "").strip()}
            out.append({**target, "weight": 1 if weight is None else weight, "prefer_version": f"prefer_{n}" in form})
    return out


def _rows(form: Fields) -> list[int]:
    """Numbers of the rows that were sent."""
    return list(itertools.takewhile(lambda n: f"model_{n}" in form, itertools.count()))


def _candidate(form: Fields) -> dict[str, Any]:
    text = form.get("share_percent", "").strip().replace(",", ".")
    try:
        milli = round(float(text) * 10)
    except (ValueError, OverflowError):
        raise BadRequest("the share of calls is a number of percent, such as 5 or 0.5", param="share_percent") from None
    if not 1 <= milli <= 1000:
        raise BadRequest("the share of calls is 0.1 to 100 percent", param="share_percent")
    out: dict[str, Any] = {"model": form.get("candidate", "").strip(), "share_milli": milli}
    if not out["model"]:
        raise BadRequest("name the candidate's model", param="candidate")
    if source := form.get("candidate_source", "").strip():
        out["source"] = source
    if form.get("candidate_prefer"):
        out["prefer_version"] = True
    return out


def _empty(count: int) -> list[dict[str, Any]]:
    return [{"model": "", "source": "", "weight": "", "prefer": False} for _ in range(count)]
