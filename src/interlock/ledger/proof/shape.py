"""The shape that entries usually have, by which many are read and held against their bytes at once.

INVARIANT: what `read` returns was written as canonical JSON. Fields are declared in sorted order and values are text,
integers, truth values, and objects and lists of these, so msgspec writes an entry of this shape in one way: the
canonical one. The bytes that it writes are compared with those that were read. An unknown field, a field that is
missing, a second one of the same name, a blank, another escape, a float, another order: they are not the same bytes, or
do not decode. Such a line is no error here: it has another shape and is read one by one (`entry.scan`). So the
shape may be behind what entries hold; it costs speed only.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


def _shape(name: str, needed: dict[str, Any], *, optional: dict[str, Any]) -> Any:
    """A struct type whose fields are declared in sorted order."""
    fields: list[Any] = [
        (field, needed[field]) if field in needed else (field, optional[field] | UnsetType, UNSET)
        for field in sorted(needed | optional)
    ]
    return msgspec.defstruct(name, fields, kw_only=True, gc=False)


def _object(name: str, *, texts: str = "", numbers: str = "", **more: Any) -> Any:
    """Text and numbers, each of which may be absent."""
    fields = dict.fromkeys(texts.split(), str) | dict.fromkeys(numbers.split(), int) | more
    return _shape(name, {}, optional=fields)


_CONTENT: Any = _object("Content", texts="digest id list role sha256", numbers="bytes count")
_BUDGET: Any = _object("Budget", texts="budget measure", numbers="charged start")
_TOKENS: Any = _object("Tokens", texts="origin", numbers="cache_write cached completion prompt")
_COST: Any = _object("CostTold", texts="price version", numbers="nusd")
_ENERGY: Any = _object("EnergyTold", texts="method", numbers="high_uj low_uj ug_per_kwh uj")
_STEP: Any = _object(
    "Step",
    texts="code model source version",
    numbers="attempt step",
    checks=list[str],
    cost=_COST,
    energy=_ENERGY,
    given=bool,
    passed=bool,
    tokens=_TOKENS,
)
_TRIAL: Any = _object("Trial", texts="digest of would")
_ROW: Any = _object("Row", texts="digest object", numbers="at id")

Entry: Any = _shape(
    "Entry",
    {"at": int, "epoch": str, "kind": str, "n": int, "tree": str, "v": int},
    optional={
        "budgets": list[_BUDGET],
        "by": str,
        "challenger_of": str,
        "cascade": _object("CascadeTold", texts="stop", numbers="steps", tried=list[_STEP]),
        "clock": int,
        "compared": _object(
            "Compared",
            numbers="chars first_chars similarity_milli",
            equal=bool,
            finish_equal=bool,
            first_json=bool,
            first_refused=bool,
            json=bool,
            json_equal=bool,
            refused=bool,
        ),
        "contents": list[_CONTENT],
        "cost": _COST,
        "decided": _object("Decided", texts="root", numbers="router seed snapshot", tried=bool),
        "energy": _ENERGY,
        "erased": bool,
        "feedback": _object(
            "FeedbackTold", texts="id reason thumb", numbers="score_micro status", comment=bool, corrected=bool
        ),
        "judge_against": str,
        "judge_of": str,
        "keys": list[str],
        "receipt": str,
        "request": str,
        "result": _object(
            "Result",
            texts="code state",
            numbers="bytes chunks status",
            finish=list[str],
            judged=_object("JudgedTold", texts="preferred", numbers="prompt score_micro", control=bool),
            tail_lost=bool,
        ),
        "rows": list[_ROW],
        "shadow_of": str,
        "slo": _object(
            "SloTold",
            texts="cost latency outcome ttft",
            numbers="cost_nusd latency_ms ttft_ms",
            predicted=_object("Predicted", texts="verdict", numbers="cost_nusd latency_us ttft_us"),
            strict=bool,
        ),
        "subject": str,
        "times": _object("Times", numbers="first_us total_us"),
        "tokens": _TOKENS,
        "trials": list[_TRIAL],
        "what": _object(
            "What",
            texts="alias arm class dialect mode model object operation recording workload",
            numbers="data_class",
            stream=bool,
        ),
        "where": _object(
            "Where",
            texts="engine engine_version model name served source version",
            numbers="attempts",
            off_prem=bool,
            overflow=bool,
        ),
        "who": _object("Who", texts="auth credential delegation delegator key kind principal subject team"),
        "work": _object("WorkTold", texts="batch document", numbers="chunk chunks"),
    },
)
"""An entry. A field that is absent is UNSET; as objects of Python: `msgspec.to_builtins`."""

_decode = msgspec.json.Decoder(Entry).decode_lines
_encode = msgspec.json.Encoder().encode_lines


def read(lines: bytes) -> list[Any] | None:
    """Entries, one a line, each line with its newline. None unless all have this shape and are canonical."""
    try:
        entries = _decode(lines)
        return entries if _encode(entries) == lines else None
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
