"""Amounts as they are declared, decimals exactly as they are written, and as whole numbers. Pure."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from interlock.control.documents import BudgetSpec
from interlock.metering.cost import RATE_MAX
from interlock.metering.energy import UG_PER_KWH_MAX
from interlock.types.budget import AMOUNT_MAX

NUSD_PER_USD = 1_000_000_000
SCALES = {"calls": 0, "tokens": 0, "nusd": 9, "uj": 6}
"""Decimal places of what a budget's amount is declared in, by its measure."""
FIELDS = {"calls": "calls", "tokens": "tokens", "nusd": "usd", "uj": "joules"}
"""The field of a declared budget that names its amount, by its measure."""


def budget_amount(spec: BudgetSpec) -> tuple[str, int]:
    """What a budget counts, and how much of it: (measure, amount in its units). Raises ValueError."""
    if spec.usd is not None:
        most = AMOUNT_MAX // NUSD_PER_USD
        return "nusd", whole(
            spec.usd,
            NUSD_PER_USD,
            most * NUSD_PER_USD,
            "amount in dollars",
            f"amount from 0 to {most} with at most nine",
        )
    if spec.joules is not None:
        most = AMOUNT_MAX // 1_000_000
        return "uj", whole(
            spec.joules, 1_000_000, most * 1_000_000, "amount in joules", f"amount from 0 to {most} with at most six"
        )
    measure, amount = ("calls", spec.calls) if spec.calls is not None else ("tokens", spec.tokens)
    if amount is None or amount > AMOUNT_MAX:
        raise ValueError(f"{amount!r} is no amount from 0 to {AMOUNT_MAX}")
    return measure, amount


def budget_fields(measure: str, amount: int) -> dict[str, str | int]:
    """The field of a declared budget that names this amount."""
    scale = SCALES[measure]
    return {FIELDS[measure]: decimal_text(amount, scale) if scale else amount}


def kept_amount(measure: str, text: str) -> int:
    """What was typed in the unit that budgets of this measure are declared in, as it is kept. Raises ValueError."""
    places = SCALES[measure]
    return whole(text, 10**places, AMOUNT_MAX, f"number of {FIELDS[measure]}", f"amount with at most {places}")


def decimal_text(amount: int, scale: int) -> str:
    """The shortest decimal of an amount in units of 10^-scale."""
    text = f"{Decimal(amount).scaleb(-scale):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def nano_usd(dollars: str | float | int) -> int:
    """Whole nano-dollars of an amount in dollars. A float counts as the shortest decimal that prints the same.

    Raises ValueError when it is negative, no number, finer than a nano-dollar, or above a million dollars.
    """
    return whole(dollars, NUSD_PER_USD, RATE_MAX, "amount in dollars", "amount from 0 to a million with at most nine")


def micrograms(grams: str | float | int) -> int:
    """Whole micrograms of an amount in grams, read like an amount in dollars; at most ten kilograms.

    Raises ValueError.
    """
    return whole(grams, 1_000_000, UG_PER_KWH_MAX, "amount in grams", "amount from 0 to 10000 with at most six")


def whole(value: str | float | int, scale: int, most: int, what: str, form: str) -> int:
    """`value` times `scale` as a whole number, at most `most`. Raises ValueError in terms of `what` and `form`."""
    try:
        scaled = Decimal(str(value)) * scale
        whole = int(scaled)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"{value!r} is no {what}") from None
    if scaled < 0 or whole != scaled or whole > most:
        raise ValueError(f"{value!r} is no {form} decimal places")
    return whole
