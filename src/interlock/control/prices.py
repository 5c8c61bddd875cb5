"""What a model costs at a source: whose price holds, as integer rates with the version they are known by.

The price list is the data that the package `genai-prices` brings along. Only its data is used: what it can do to fetch
newer ones is never started, and its own arithmetic (100 us a call) is not on any call's way.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import msgspec

from interlock.control.amounts import NUSD_PER_USD, nano_usd
from interlock.control.documents import GpuHourSpec, ModelSpec, PriceSpec, SourceSpec
from interlock.metering.cost import RATE_MAX, hourly
from interlock.types.source import CLOUD_KINDS, Price, PriceTier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider, TieredPrices

_INPUT, _CACHED, _OUTPUT, _WRITE, _CALLS = (
    "input_mtok", "cache_read_mtok", "output_mtok", "cache_write_mtok", "requests_kcount",
)  # fmt: skip
"""Keys of the list for what a record shows. All others are told as not included."""
HASH_CHARS = 12


class Listed(msgspec.Struct, frozen=True):
    """A model in the price list: whose list (an id of `genai-prices`), what it is called there, and its price."""

    provider: str
    model: str
    price: Price


def price_of(spec: SourceSpec, pin: ModelSpec | None, known: Listed | None) -> Price:
    """The price of a model at a source: declared for the model, else for the source, else for an hour of it, else
    listed (`known`), else none."""
    declared = pin.price if pin is not None and pin.price is not None else spec.price
    if declared is not None:
        return declared_price(declared)
    if spec.gpu_hour is not None:
        return hour_price(spec.gpu_hour)
    return known.price if known is not None else Price(origin="none")


def declared_price(spec: PriceSpec) -> Price:
    """The integer price of a declared one. Raises ValueError for what is no amount."""
    inputs = nano_usd(spec.input_usd_per_mtok)
    cached, write = spec.cached_input_usd_per_mtok, spec.cache_write_usd_per_mtok
    price = Price(
        input_nusd_per_mtok=inputs,
        cached_input_nusd_per_mtok=inputs if cached is None else nano_usd(cached),
        output_nusd_per_mtok=nano_usd(spec.output_usd_per_mtok),
        cache_write_nusd_per_mtok=-1 if write is None else nano_usd(write),
        call_nusd=nano_usd(spec.usd_per_call),
        origin="source",
    )
    return versioned(price, "declared")


def hour_price(spec: GpuHourSpec) -> Price:
    """Rates of a source whose hours are paid for: each token costs the time that it takes up of a source that is full.

    Tokens read from a prefix cache take up none. Raises ValueError for what is no amount.
    """
    hour_nusd = nano_usd(spec.usd) * spec.gpus
    price = Price(
        input_nusd_per_mtok=hourly(hour_nusd, spec.input_tokens_per_s),
        output_nusd_per_mtok=hourly(hour_nusd, spec.output_tokens_per_s),
        origin="hour",
        hour_nusd=hour_nusd,
    )
    return versioned(price, "hour")


def listed(spec: SourceSpec, model: str, at: datetime.datetime) -> Listed | None:
    """The model in the price list, by the source's declared list or else by its address; None when it is not there.

    The address decides whose list holds, never the model's name alone: a model of a cloud that somebody serves
    themselves does not cost what the cloud takes.
    """
    if spec.kind not in CLOUD_KINDS:
        return None
    provider = _by_id(spec.price_list) if spec.price_list else _by_url(spec.url)
    if provider is None:
        return None
    info = provider.find_model(model, all_providers=_providers())
    if info is None:
        return None
    return Listed(provider.id, info.id, list_price(info, at))


def knows_list(name: str) -> bool:
    """Whether the price list has a provider of this id."""
    return _by_id(name) is not None


def list_price(info: ModelInfo, at: datetime.datetime) -> Price:
    """A listed price as of `at`, in integers; of origin "none" when it is of nothing that a record shows.

    A price that is finer than a nano-USD per million tokens is rounded to it, halfway to the even one.
    """
    prices = {key: value for key, value in info.get_prices(at).__dict__.items() if value is not None}
    if _INPUT not in prices and _OUTPUT not in prices:
        return Price(origin="none")
    starts = sorted({tier.start for value in prices.values() for tier in getattr(value, "tiers", ())})
    base = _at(prices, -1)
    calls = prices.get(_CALLS, Decimal(0))
    price = Price(
        base.input_nusd_per_mtok,
        base.cached_input_nusd_per_mtok,
        base.output_nusd_per_mtok,
        base.cache_write_nusd_per_mtok,
        _nusd(getattr(calls, "base", calls) / 1000),
        tuple(_at(prices, start) for start in starts),
        origin="list",
        without=tuple(_words(key) for key in sorted(prices) if key not in (_INPUT, _CACHED, _OUTPUT, _WRITE, _CALLS)),
    )
    return versioned(price, f"genai-prices {importlib.metadata.version('genai-prices')}")


def versioned(price: Price, label: str) -> Price:
    """The price with its version: the label, and a hash over everything else it says."""
    text = msgspec.json.encode(msgspec.to_builtins(price), order="sorted")
    return msgspec.structs.replace(price, version=f"{label} {hashlib.sha256(text).hexdigest()[:HASH_CHARS]}")


def _at(prices: Mapping[str, Decimal | TieredPrices], start: int) -> PriceTier:
    """The rates for prompts just above `start` tokens."""

    def rate(key: str, default: int) -> int:
        value = prices.get(key)
        if value is None:
            return default
        if isinstance(value, Decimal):
            return _nusd(value)
        found = value.base
        for tier in value.tiers:  # smallest start first
            if tier.start <= start:
                found = tier.price
        return _nusd(found)

    inputs = rate(_INPUT, 0)
    return PriceTier(max(start, 0), inputs, rate(_CACHED, inputs), rate(_OUTPUT, 0), rate(_WRITE, -1))


def _nusd(usd: Decimal) -> int:
    return min(int((usd * NUSD_PER_USD).to_integral_value(ROUND_HALF_EVEN)), RATE_MAX)


def _words(key: str) -> str:
    """A key of the list as words: `web_searches_kcount` is "web searches"."""
    words, _, unit = key.rpartition("_")
    words = words.replace("_", " ")
    return f"{words} tokens" if unit == "mtok" else words


def _providers() -> list[Provider]:
    from genai_prices.data import providers  # 0.4 s and 20 MB: only where there is a cloud

    return providers


@functools.cache
def _by_url(url: str) -> Provider | None:
    return next((p for p in _providers() if re.match(p.api_pattern, url)), None)


def _by_id(name: str) -> Provider | None:
    return next((p for p in _providers() if p.id == name), None)
