"""What a model's tokens take in energy at a source, and what a kilowatt-hour there means in carbon: coefficients.

Declared ones win. For cloud models there are estimates of the package `ecologits` (the extra `energy`), from the data
that it brings along; without the package nothing is claimed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from interlock.control.amounts import micrograms
from interlock.control.documents import ModelSpec, PowerSpec, SourceSpec
from interlock.control.prices import Listed
from interlock.errors import ConfigError
from interlock.metering.energy import COEFFICIENT_MAX, DECLARED, UG_PER_KWH_MAX
from interlock.types.source import Power
from interlock.types.usage import UJ_PER_KWH

PROVIDERS = {
    "openai": "openai",
    "azure": "openai",
    "anthropic": "anthropic",
    "mistral": "mistralai",
    "cohere": "cohere",
    "google": "google_genai",
}
"""Ids of `genai-prices` -> ids of `ecologits`."""
MANY_TOKENS = 1_000_000
"""The estimate is linear in tokens: it is taken at none and at this many."""
SPREAD = frozenset(("azure",))
"""Clouds that are in many places: where a source of theirs is, only its labels can say."""


class Factor(msgspec.Struct, frozen=True):
    """Micrograms of CO2 equivalent per kilowatt-hour (0: unknown), and where the figure comes from."""

    ug_per_kwh: int = 0
    basis: str = ""


def power_of(
    spec: SourceSpec, model: str, pin: ModelSpec | None, known: Listed | None, factors: Mapping[str, Factor]
) -> Power:
    """Coefficients of a model at a source. `known`: what the price list takes it for, when its cloud was recognised.
    `factors`: of the grids of regions."""
    declared = pin.power if pin is not None and pin.power is not None else spec.power
    cloud = PROVIDERS.get(known.provider, "") if known is not None else ""
    found = _declared(declared) if declared is not None else None
    if found is None and known is not None and cloud:
        found = estimated(cloud, model) or estimated(cloud, known.model)
    factor = _factor(spec, "" if known is not None and known.provider in SPREAD else cloud, factors)
    return msgspec.structs.replace(found or Power(), ug_per_kwh=factor.ug_per_kwh, grid=factor.basis)


def available() -> bool:
    """Whether `ecologits` is installed."""
    return importlib.util.find_spec("ecologits") is not None


@functools.cache
def estimated(provider: str, model: str) -> Power | None:
    """The estimate of `ecologits` for a model of its table, or None. Its range is that of what is not published about
    the model; it ascribes nothing to prompt tokens."""
    if not available():
        return None
    from ecologits.impacts.llm import compute_llm_impacts
    from ecologits.model_repository import ParametersMoE, models
    from ecologits.tracers.utils import PROVIDER_CONFIG_MAP

    found = models.find_model(provider=provider, model_name=model)
    if found is None:
        return None
    parameters: Any = found.architecture.parameters
    moe = isinstance(parameters, ParametersMoE)
    place = PROVIDER_CONFIG_MAP[provider]

    def range_uj(tokens: int) -> tuple[float, float]:
        impacts = compute_llm_impacts(
            model_active_parameter_count=parameters.active if moe else parameters,
            model_total_parameter_count=parameters.total if moe else parameters,
            output_token_count=tokens,
            request_latency=math.inf,
            if_electricity_mix_adpe=0,
            if_electricity_mix_pe=0,
            if_electricity_mix_gwp=0,
            if_electricity_mix_wue=0,
            datacenter_pue=place.datacenter_pue,
            datacenter_wue=place.datacenter_wue,
            tps=found.deployment.tps if found.deployment else None,
            ttft=found.deployment.ttft if found.deployment else None,
        )
        kwh: Any = impacts.energy.value
        low, high = (kwh, kwh) if isinstance(kwh, int | float) else (kwh.min, kwh.max)
        return low * UJ_PER_KWH, high * UJ_PER_KWH

    low, high = range_uj(0)
    low_many, high_many = range_uj(MANY_TOKENS)
    low_each, high_each = (low_many - low) / MANY_TOKENS, (high_many - high) / MANY_TOKENS
    return Power(
        output_uj_per_token=_whole((low_each + high_each) / 2),
        call_uj=_whole((low + high) / 2),
        low_output_uj_per_token=_whole(low_each),
        low_call_uj=_whole(low),
        high_output_uj_per_token=_whole(high_each),
        high_call_uj=_whole(high),
        method=f"ecologits {importlib.metadata.version('ecologits')}",
    )


def zone_factor(zone: str) -> Factor:
    """The factor of an electricity zone (ISO 3166-1 alpha-3, or WOR) in the table of `ecologits`; unknown without."""
    if not zone or not available():
        return Factor()
    from ecologits.electricity_mix_repository import electricity_mixes

    mix = electricity_mixes.find_electricity_mix(zone)
    if mix is None:
        return Factor()
    version = importlib.metadata.version("ecologits")
    return Factor(min(round(mix.gwp * 1e9), UG_PER_KWH_MAX), f"{zone}, ecologits {version}")


def read_factors(path: str) -> dict[str, Factor]:
    """The factors of regions in a TOML file: `[region]` with `g_per_kwh` and `basis`; none when `path` is empty.

    Raises ConfigError with file, region and reason.
    """
    if not path:
        return {}
    file = Path(path).expanduser()
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{file}: cannot be read as TOML: {e}", param="carbon_factors_file") from None
    out = {}
    for region, table in tables.items():
        try:
            if not isinstance(table, dict) or table.keys() != {"g_per_kwh", "basis"} or not table["basis"]:
                raise ValueError("a region needs g_per_kwh and basis, where the figure comes from")
            out[region] = Factor(micrograms(table["g_per_kwh"]), str(table["basis"]))
        except ValueError as e:
            raise ConfigError(f"{file}: {region}: {e}", param="carbon_factors_file") from None
    return out


def _factor(spec: SourceSpec, cloud: str, factors: Mapping[str, Factor]) -> Factor:
    """Declared for the source, else of its region by the file, else of its zone by the table."""
    declared, region = spec.carbon, spec.labels.region
    if declared is not None and declared.g_per_kwh is not None:
        return Factor(micrograms(declared.g_per_kwh), declared.basis or DECLARED)
    if declared is not None:
        return zone_factor(declared.zone)
    if region in factors:
        return factors[region]
    if cloud and not region:
        return zone_factor(_cloud_zone(cloud))
    return zone_factor(region)


def _cloud_zone(provider: str) -> str:
    if not available():
        return ""
    from ecologits.tracers.utils import PROVIDER_CONFIG_MAP

    return str(PROVIDER_CONFIG_MAP[provider].datacenter_location)


def _declared(spec: PowerSpec) -> Power:
    low, high = spec.low_percent, spec.high_percent

    def part(value: int, percent: int) -> int:
        return min(value * percent // 100, COEFFICIENT_MAX)

    return Power(
        spec.input_uj_per_token,
        spec.output_uj_per_token,
        spec.uj_per_call,
        part(spec.input_uj_per_token, low),
        part(spec.output_uj_per_token, low),
        part(spec.uj_per_call, low),
        part(spec.input_uj_per_token, high),
        part(spec.output_uj_per_token, high),
        part(spec.uj_per_call, high),
        DECLARED,
    )


def _whole(value: float) -> int:
    return min(round(value), COEFFICIENT_MAX)
