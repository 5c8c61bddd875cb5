"""A source in words, with prices and energy coefficients."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from interlock.cli.sources import told
from interlock.control.documents import GpuHourSpec
from interlock.control.prices import hour_price
from interlock.control.services.sources import offered
from interlock.metering.words import energy_words, price_words
from interlock.types.source import Model, Power, Price, PriceTier
from tests.unit.control.test_prices import _cloud

USD = 1_000_000_000

OFFER = {"name": "m", "parent": "", "version": "", "context_length": 0, "abilities": ["chat", "tools"]}
BARE: dict[str, Any] = {
    "name": "gpu-1",
    "kind": "vllm",
    "url": "http://gpu-1:8000",
    "tenant": "",
    "granted_to": [],
    "labels": {},
    "limits": {},
    "price": None,
    "drained": False,
    "engine": "",
    "engine_version": "",
    "discovered_at": None,
    "discovery_error": "it refused the connection",
    "warnings": [],
    "offers": [],
}


def test_what_was_not_given_is_told_as_what_it_means() -> None:
    assert told(BARE) == [
        "gpu-1: vllm at http://gpu-1:8000, in use",
        "  engine    ?, never looked at",
        "  error     it refused the connection",
        "  for       nobody: it is granted to no tenant",
        "  labels    no region, on-prem, data of any class",
        "  limits    saturated above 8 waiting requests, until 2 wait",
    ]


def test_what_was_given_and_found() -> None:
    lines = told(
        BARE
        | {
            "granted_to": ["acme", "globex"],
            "labels": {"region": "eu", "on_prem": False, "data_class_max": "internal", "extra": {"zone": "b"}},
            "limits": {"concurrency": 32, "waiting_max": 16, "waiting_resume": 4},
            "drained": True,
            "engine": "vllm",
            "engine_version": "0.32.0",
            "discovered_at": "2026-01-01T00:00:00Z",
            "discovery_error": "",
            "warnings": ["The engine has no tool parser."],
            "offers": [OFFER, OFFER | {"name": "sql", "parent": "m", "version": "v2", "context_length": 1024}],
        }
    )
    assert lines == [
        "gpu-1: vllm at http://gpu-1:8000, drained",
        "  engine    vllm 0.32.0, looked at 2026-01-01T00:00:00Z",
        "  for       acme, globex",
        "  labels    region eu, outside the trust boundary, data up to internal, zone=b",
        "  limits    saturated above 16 waiting requests, until 4 wait; at most 32 of a node's calls at a time",
        "  warning   The engine has no tool parser.",
        "  offers    m (context unknown; chat, tools)",
        "    price   nobody named one",
        "    energy  unknown",
        "  offers    sql (adapter of m; version v2; context 1024; chat, tools)",
        "    price   nobody named one",
        "    energy  unknown",
    ]


def test_who_may_be_given_it() -> None:
    assert "  for       every tenant" in told(BARE | {"granted_to": ["*"]})
    assert "  for       tenant acme, which owns it" in told(BARE | {"tenant": "acme"})


def test_a_price_says_whose_it_is_and_what_is_not_in_it() -> None:
    assert price_words(msgspec.to_builtins(Price(origin="none"))) == "nobody named one"
    assert price_words({}) == "nobody named one"
    tier = PriceTier(200_000, 4 * USD, 400_000_000, 12 * USD)
    price = Price(2 * USD, 200_000_000, 8 * USD, 2_500_000_000, 5_000_000, (tier,), "list", "v 1", 0, ("web searches",))
    assert price_words(msgspec.to_builtins(price)) == (
        "from the price list: input 2, cached 0.2, written to cache 2.5, output 8 USD per million tokens; above 200000 "
        "prompt tokens input 4, cached 0.4, output 12 USD per million tokens; 0.005 USD per call; without web searches "
        "(v 1)"
    )
    hour = hour_price(GpuHourSpec(usd="3.6", input_tokens_per_s=10_000, output_tokens_per_s=1000))
    assert price_words(msgspec.to_builtins(hour)).startswith(
        "from the declared hour: input 0.1, cached 0, output 1 USD per million tokens; 3.6 USD per hour (hour "
    )


def test_energy_says_by_which_method_and_in_which_range() -> None:
    power = Power(10, 20, 0, 5, 10, 0, 20, 40, 0, "declared", 380_500_000, "grid operator, 2025")
    assert energy_words(msgspec.to_builtins(power)) == (
        "declared: 10 uJ per input token (5 to 20), 20 uJ per output token (10 to 40); 380.5 g CO2e per kWh "
        "(grid operator, 2025)"
    )
    assert energy_words({}) == "unknown"


def test_a_listed_model_is_shown_with_version_and_estimate() -> None:
    at = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
    models, _ = offered(_cloud(), (Model(name="gpt-4o"),), listed=True, at=at)
    shown = msgspec.to_builtins(models[0])
    assert price_words(shown["price"]).startswith("from the price list: input ")
    assert "genai-prices" in price_words(shown["price"])
    assert energy_words(shown["power"]).startswith("ecologits ")
