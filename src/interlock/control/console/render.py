"""HTML: templates with autoescaping, and the words for numbers with units."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from interlock import __version__
from interlock.control.console.assets import Assets
from interlock.metering.words import price_words
from interlock.types.model_names import parameters_words
from interlock.types.slo import attained_permille

TEMPLATES = Path(__file__).parent / "templates"


def environment(assets: Assets) -> Environment:
    """Every name that a template uses must be given, and every value is escaped."""
    out = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    out.globals.update(asset=assets.url, app_version=__version__)
    out.filters.update(count=count, ago=ago, moment=moment, duration=duration, usd=usd, joules=joules)
    out.filters.update(rate=rate, percent=percent, about=about, grams=grams, price=price)
    out.filters.update(parameters=parameters_words)
    out.filters.update(amount=amount, figure=figure, change=change, attained=attained)
    return out


def count(value: float) -> str:
    """A number with thin spaces between thousands: 12 345."""
    return f"{value:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """A length of time in its two largest units at most: 850 ms, 4.2 s, 3 min, 5 h 12 min, 3 d 4 h."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{round(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def usd(nusd: int) -> str:
    """Money: two decimals from a cent on, else as many as it has: $12.40, $0.000317."""
    if nusd % 10_000_000 == 0 or nusd >= 1_000_000_000:
        return f"${nusd / 1e9:,.2f}"
    return f"${nusd / 1e9:.9f}".rstrip("0")


def joules(uj: int) -> str:
    """Energy: 850 mJ, 12.3 J, 4.56 kJ, 1.20 kWh."""
    if uj < 1_000_000:
        return f"{uj / 1e3:.0f} mJ"
    if uj < 1_000_000_000:
        return f"{uj / 1e6:.1f} J"
    return f"{uj / 1e9:.2f} kJ" if uj < 3_600_000_000_000 else f"{uj / 3.6e12:.2f} kWh"


def about(nusd: int) -> str:
    """Money that changes from second to second, to three digits: $0, $0.00417, $12.40."""
    value = nusd / 1e9
    if not nusd:
        return "$0"
    if value >= 1:
        return f"${value:,.2f}"
    return f"${value:.{min(9, 2 - math.floor(math.log10(value)))}f}"


def rate(value: float) -> str:
    """So many a second, or watts: 0, 0.25, 4.2, 137."""
    if value <= 0:
        return "0"
    if value < 1:
        return f"{value:.2f}" if value >= 0.005 else "<0.01"
    return f"{value:.1f}" if value < 100 else count(round(value))


def percent(permille: float) -> str:
    """A share, from its thousandths: 0 %, 0.4 %, 37 %."""
    return f"{permille / 10:.1f} %" if 0 < permille < 100 else f"{round(permille / 10)} %"


def attained(met: int, calls: int) -> str:
    """The share of calls that met their objectives, rounded down: 99.9 %, and 100 % of all of them only."""
    return f"{attained_permille(met, calls) / 10:g}\u00a0%"


def price(value: Any) -> str:
    """A compiled price (`Price`, or as a dict): whose it is, and US dollars per million tokens."""
    return price_words(msgspec.to_builtins(value))


def grams(ug: int) -> str:
    """Mass of CO2 equivalent: 850 µg, 12.3 mg, 4.56 g, 1.20 kg."""
    for bound, scale, digits, unit in ((1_000, 1, 0, "µg"), (1_000_000, 1e3, 1, "mg"), (1_000_000_000, 1e6, 2, "g")):
        if ug < bound:
            return f"{ug / scale:.{digits}f} {unit}"
    return f"{ug / 1e9:,.2f} kg"


def amount(value: int, measure: str) -> str:
    """An amount of what a budget counts, with its unit."""
    if measure == "nusd":
        return usd(value)
    return joules(value) if measure == "uj" else f"{count(value)} {measure}"


def figure(value: int, name: str, of: int = 0) -> str:
    """A number of the usage page: cost in nano-USD, energy in microjoules, carbon in micrograms, calls, tokens;
    objectives: how many of the calls `of` that had any met them."""
    if name == "objectives":
        return attained(value, of)
    words = {"cost": usd, "energy": joules, "carbon": grams}.get(name, count)
    return words(value)


def change(percent: float | None) -> str:
    """How a number differs from the one before, in words: "12 % more", "as before"."""
    if percent is None:
        return "nothing before"
    whole = round(abs(percent))
    if whole == 0:
        return "as before"
    return f"{count(whole)} % {'more' if percent > 0 else 'less'}"


def ago(then: datetime.datetime | None, now: datetime.datetime) -> str:
    """How long ago something was: "4.2 s ago", "never"."""
    if then is None:
        return "never"
    return f"{duration(max(0.0, (now - then).total_seconds()))} ago"


def moment(value: Any) -> str:
    """A point in time for people: 2026-03-01 14:05:09 UTC."""
    if not isinstance(value, datetime.datetime):
        return "never"
    return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
