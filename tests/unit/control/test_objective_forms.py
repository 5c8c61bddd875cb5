"""Objectives and weights as a form: what it takes is what a declaration may say, and shows it again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.console.alias_forms import spec
from interlock.control.console.form_values import Misfilled
from interlock.control.console.objective_forms import FIELDS, declared, shares, typed
from interlock.control.console.visit import Fields
from interlock.control.plan import Ref
from interlock.control.validate import form as faults
from interlock.errors import BadRequest

TEXTS = st.one_of(
    st.sampled_from(["", " ", "0", "1", "7", "0.02", "0,5", "-1", "1e3", "1.5", "NaN", "86400000", "86400001",
                     "1000000", "1000001", "0.0000000001", "9" * 40, "\u0663", "soon"]),
    st.integers(-5, 10**9).map(str),
)  # fmt: skip


def shown(form: Fields) -> dict[str, Any]:
    """The form of what a form declares."""
    again = typed(spec({"name": "a", "targets": [{"model": "m"}], **declared(form)}))
    return {name: again[name] for name in FIELDS}


@given(st.dictionaries(st.sampled_from(FIELDS), TEXTS))
def test_what_the_form_takes_is_sound_and_shown_again(given_fields: dict[str, str]) -> None:
    form = Fields(list(given_fields.items()))
    try:
        made = declared(form)
    except Misfilled as error:
        assert set(error.faults) <= set(FIELDS) and error.param == next(iter(error.faults))
        return
    alias = spec({"name": "a", "targets": [{"model": "m"}], **made})
    assert list(faults(Ref("alias", "acme", "a"), alias)) == [], "the admin API takes what the form takes"
    again = shown(form)
    assert declared(Fields(list(again.items()))) == {**made, "weights": None if alias.weights is None else {
        name: weight for name, weight, _ in shares(alias)
    }}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("slo_ttft_ms", "0"), ("slo_ttft_ms", "1.5"), ("slo_ttft_ms", "86400001"), ("slo_latency_ms", "-1"),
        ("slo_latency_ms", "\u0663"), ("slo_cost_usd", "-0.01"), ("slo_cost_usd", "0.0000000001"),
        ("slo_cost_usd", "NaN"), ("own_quality", "1000001"), ("own_energy", "0"), ("slo_strict", "1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_of_its_field(field: str, text: str) -> None:
    with pytest.raises(Misfilled) as told:
        declared(Fields([(field, text)]))
    assert list(told.value.faults) == [field] and isinstance(told.value, BadRequest)


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_fields() -> None:
    fields = {"own_cost": "x", "slo_cost_usd": "x", "slo_ttft_ms": "x", "slo_strict": "1", "own_quality": "0"}
    with pytest.raises(Misfilled) as told:
        declared(Fields(list(fields.items())))
    assert list(told.value.faults) == ["slo_ttft_ms", "slo_cost_usd", "own_cost"]
    assert "3 fields" in told.value.message


def test_nothing_is_no_objective_and_no_weights() -> None:
    assert declared(Fields([(name, " ") for name in FIELDS if name != "slo_strict"])) == {"slo": None, "weights": None}


def test_nothing_to_pay_is_an_objective() -> None:
    assert declared(Fields([("slo_cost_usd", "0")]))["slo"] == {"cost_usd": "0"}
    assert shown(Fields([("slo_cost_usd", "0")]))["slo_cost_usd"] == "0"


def test_weights_are_shares_of_each_other() -> None:
    alias = spec({"name": "a", "weights": {"quality": 6, "latency": 2}})
    assert shares(alias) == [("quality", 6, 75.0), ("latency", 2, 25.0)]
    assert shares(spec({"name": "a"})) == []
