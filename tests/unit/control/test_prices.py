"""Whose price holds, and that the compiled list costs what the list itself says."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import threading
from decimal import Decimal

import pytest
from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider, Tier, TieredPrices
from genai_prices.types import Usage as ListUsage
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.control.documents import GpuHourSpec, ModelSpec, PriceSpec, SourceSpec
from interlock.control.prices import declared_price, hour_price, list_price, listed, price_of
from interlock.metering.cost import Rates
from interlock.types.source import Price, PriceTier, SourceKind
from interlock.types.usage import Usage

AT = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC)
USD = 1_000_000_000
KNOWN = ("input_mtok", "cache_read_mtok", "output_mtok", "cache_write_mtok", "requests_kcount")
ALL = [(provider, model) for provider in providers for model in provider.models]


def _cloud(url: str = "https://api.openai.com", **fields: object) -> SourceSpec:
    return SourceSpec(name="cloud", kind=SourceKind.openai, url=url, **fields)  # type: ignore[arg-type]


def _price(spec: SourceSpec, model: str, pin: ModelSpec | None = None) -> Price:
    return price_of(spec, pin, listed(spec, model, AT))


def _info(prices: ModelPrice | list[ConditionalPrice]) -> ModelInfo:
    model = providers[0].models[0]
    return ModelInfo(id="m", match=model.match, prices=prices)


@settings(deadline=None)
@given(
    st.sampled_from(ALL),
    st.integers(0, 2_000_000),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 500_000),
    st.sampled_from([AT, datetime.datetime(2025, 1, 1, 3, tzinfo=datetime.UTC)]),
)
def test_what_is_compiled_costs_what_the_list_says(
    found: tuple[Provider, ModelInfo], prompt: int, cached: int, written: int, output: int, at: datetime.datetime
) -> None:
    """Every model of the list, and any usage that a record can show, against the package's own arithmetic."""
    provider, model = found
    price = list_price(model, at)
    written = prompt * written // 100
    cached = min(prompt * cached // 100, prompt - written)
    if price.origin == "none":
        return
    usage = ListUsage(input_tokens=prompt, cache_read_tokens=cached, cache_write_tokens=written, output_tokens=output)
    known = {k: v for k, v in model.get_prices(at).__dict__.items() if k in KNOWN and v is not None}
    theirs = ModelPrice(**known).calc_price(usage)["total_price"] * USD
    ours = Rates(price).cost(Usage(prompt, cached, output, "engine", written))
    finest = Decimal(prompt + output) / 1_000_000  # a listed rate may be off by half a nano-USD per million tokens
    assert abs(ours.nusd - theirs) <= Decimal("0.5") + finest, (provider.id, model.id)
    assert ours.price == "list" and re.fullmatch(r"genai-prices [\d.]+ [0-9a-f]{12}", ours.version)


def test_tiers_and_prices_per_call_are_compiled() -> None:
    prices = ModelPrice(
        input_mtok=TieredPrices(Decimal(1), [Tier(200_000, Decimal(2))]),
        output_mtok=Decimal(5),
        cache_read_mtok=TieredPrices(Decimal("0.1"), [Tier(100_000, Decimal("0.3"))]),
        requests_kcount=Decimal(5),
        web_searches_kcount=Decimal(10),
        input_audio_mtok=Decimal(30),
    )
    price = list_price(_info(prices), AT)
    assert price.tiers == (
        PriceTier(100_000, USD, 300_000_000, 5 * USD),
        PriceTier(200_000, 2 * USD, 300_000_000, 5 * USD),
    )
    assert price.call_nusd == 5_000_000
    assert price.without == ("input audio tokens", "web searches")


def test_a_price_finer_than_a_nano_dollar_is_rounded_half_to_even() -> None:
    assert list_price(_info(ModelPrice(input_mtok=Decimal("0.0000000025"))), AT).input_nusd_per_mtok == 2
    assert list_price(_info(ModelPrice(input_mtok=Decimal("0.0000000035"))), AT).input_nusd_per_mtok == 4


def test_a_listed_price_of_nothing_that_a_record_shows_is_none() -> None:
    assert list_price(_info(ModelPrice(audio_hours=Decimal(1))), AT) == Price(origin="none")


def test_a_price_that_changes_at_a_date_is_that_of_the_date() -> None:
    from genai_prices.types import StartDateConstraint

    prices = [
        ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1))),
        ConditionalPrice(StartDateConstraint(AT.date()), prices=ModelPrice(input_mtok=Decimal(2))),
    ]
    before, after = (list_price(_info(prices), at) for at in (AT - datetime.timedelta(days=1), AT))
    assert (before.input_nusd_per_mtok, after.input_nusd_per_mtok) == (USD, 2 * USD)
    assert before.version != after.version


def test_what_is_declared_wins_first_for_the_model_then_for_the_source() -> None:
    pin = ModelSpec(name="gpt-4o", price=PriceSpec(output_usd_per_mtok=7))
    spec = _cloud(price=PriceSpec(output_usd_per_mtok=8))
    assert _price(spec, "gpt-4o", pin).output_nusd_per_mtok == 7 * USD
    assert _price(spec, "gpt-4o").output_nusd_per_mtok == 8 * USD
    assert _price(spec, "gpt-4o").origin == "source"


def test_then_the_hour_then_the_list_then_nothing() -> None:
    hour = GpuHourSpec(usd=3.6, gpus=2, input_tokens_per_s=10_000, output_tokens_per_s=1000)
    by_hour = _price(_cloud(gpu_hour=hour), "gpt-4o")
    assert by_hour.origin == "hour"
    by_list = _price(_cloud(), "gpt-4o")
    assert by_list.origin == "list" and by_list.output_nusd_per_mtok > by_list.input_nusd_per_mtok > 0
    assert _price(_cloud(), "no-such-model") == Price(origin="none")


def test_the_address_decides_whose_list_holds_not_the_models_name() -> None:
    assert _price(_cloud("http://10.0.0.5:8000"), "gpt-4o") == Price(origin="none")
    assert _price(_cloud("http://10.0.0.5:8000", price_list="openai"), "gpt-4o").origin == "list"
    assert _price(SourceSpec(name="s", kind=SourceKind.vllm, url="https://api.openai.com"), "gpt-4o").origin == "none"


def test_an_hour_is_shared_by_the_tokens_that_fill_it() -> None:
    price = hour_price(GpuHourSpec(usd=3.6, gpus=2, input_tokens_per_s=10_000, output_tokens_per_s=1000))
    # 7.20 USD an hour; full of answers it does 3.6 million tokens: 2 USD per million
    assert (price.output_nusd_per_mtok, price.input_nusd_per_mtok) == (2 * USD, 200_000_000)
    assert (price.cached_input_nusd_per_mtok, price.hour_nusd, price.origin) == (0, 7_200_000_000, "hour")


def test_a_declared_price_charges_what_it_does_not_name_as_input() -> None:
    price = declared_price(PriceSpec(input_usd_per_mtok="0.15", output_usd_per_mtok=1))
    assert (price.cached_input_nusd_per_mtok, price.cache_write_nusd_per_mtok) == (150_000_000, -1)
    assert declared_price(PriceSpec(usd_per_call="0.001")).call_nusd == 1_000_000


def test_a_version_tells_rates_apart_and_nothing_else() -> None:
    one = declared_price(PriceSpec(input_usd_per_mtok=1))
    assert one.version == declared_price(PriceSpec(input_usd_per_mtok="1.0")).version
    assert one.version != declared_price(PriceSpec(input_usd_per_mtok=2)).version
    assert re.fullmatch(r"declared [0-9a-f]{12}", one.version)


def test_the_list_starts_no_thread_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: nothing phones home."""
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = set(threading.enumerate())
    assert _price(_cloud(), "gpt-4o-mini").origin == "list"
    assert set(threading.enumerate()) == before
    from genai_prices import data_snapshot

    assert data_snapshot._custom_snapshot is None, "nobody has put newer prices in place"


@pytest.mark.parametrize("module", ["interlock.gateway.worker", "interlock.gateway.node", "interlock.control.main"])
def test_neither_list_nor_estimates_are_loaded_where_no_cloud_is(module: str) -> None:
    code = f"import sys, {module}; print([m for m in sys.modules if m.startswith(('genai_prices', 'ecologits'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
