"""Prices and coefficients of energy in words, as the command line and the console show them. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

ORIGINS = {
    "source": "declared",
    "hour": "from the declared hour",
    "list": "from the price list",
    "none": "nobody named one",
}
"""Whose a price is, in words."""


def price_words(price: dict[str, Any]) -> str:
    """A compiled price in one line: whose it is, dollars per million tokens, and what is not in it."""
    origin = price.get("origin", "none")
    if origin == "none":
        return ORIGINS[origin]
    words = f"{ORIGINS[origin]}: {_rates(price)}"
    for tier in price.get("tiers", ()):
        words += f"; above {tier['above_tokens']} prompt tokens {_rates(tier)}"
    if price.get("call_nusd"):
        words += f"; {_usd(price['call_nusd'])} USD per call"
    if price.get("hour_nusd"):
        words += f"; {_usd(price['hour_nusd'])} USD per hour"
    if price.get("without"):
        words += f"; without {', '.join(price['without'])}"
    return f"{words} ({price['version']})"


def energy_words(power: dict[str, Any]) -> str:
    """Coefficients in one line: method, microjoules with their ranges, and the carbon of a kilowatt-hour."""
    parts = []
    for name, words in (
        ("input_uj_per_token", "input token"),
        ("output_uj_per_token", "output token"),
        ("call_uj", "call"),
    ):
        value = power.get(name, 0)
        if value:
            parts.append(f"{value} uJ per {words} ({power.get(f'low_{name}', 0)} to {power.get(f'high_{name}', 0)})")
    found = f"{power.get('method', '')}: {', '.join(parts) or 'none'}" if power.get("method") else "unknown"
    if power.get("ug_per_kwh"):
        found += f"; {power['ug_per_kwh'] / 1e6:g} g CO2e per kWh ({power['grid']})"
    return found


def _rates(rates: dict[str, Any]) -> str:
    names = {"input": "input", "cached_input": "cached", "cache_write": "written to cache", "output": "output"}
    values = {words: rates.get(f"{name}_nusd_per_mtok") for name, words in names.items()}
    shown = [f"{words} {_usd(value or 0)}" for words, value in values.items() if words != "written to cache" or value]
    return ", ".join(shown) + " USD per million tokens"


def _usd(nano: int) -> str:
    return f"{Decimal(nano) / 1_000_000_000:f}"
