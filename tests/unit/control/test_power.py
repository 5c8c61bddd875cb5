"""Where coefficients of energy and carbon come from."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pytest

from interlock.control import power
from interlock.control.documents import CarbonSpec, LabelsSpec, ModelSpec, PowerSpec, SourceSpec
from interlock.control.power import Factor, estimated, power_of, read_factors, zone_factor
from interlock.control.prices import listed
from interlock.errors import ConfigError
from interlock.metering.energy import Estimate
from interlock.types.source import Power, SourceKind
from interlock.types.usage import UJ_PER_KWH, Usage

AT = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
FILE = {"eu-de": Factor(363_000_000, "grid operator, 2025")}


def _source(url: str = "http://10.0.0.5", kind: SourceKind = SourceKind.vllm, **fields: object) -> SourceSpec:
    return SourceSpec(name="s", kind=kind, url=url, **fields)  # type: ignore[arg-type]


def _power(spec: SourceSpec, model: str = "m", pin: ModelSpec | None = None) -> Power:
    return power_of(spec, model, pin, listed(spec, model, AT), FILE)


def _openai(**fields: object) -> SourceSpec:
    return _source("https://api.openai.com", SourceKind.openai, **fields)


def test_declared_coefficients_have_a_range() -> None:
    found = _power(_source(power=PowerSpec(input_uj_per_token=100, output_uj_per_token=1000)))
    assert found.method == "declared"
    assert (found.low_output_uj_per_token, found.output_uj_per_token, found.high_output_uj_per_token) == (
        500, 1000, 2000,
    )  # fmt: skip
    narrow = PowerSpec(output_uj_per_token=1000, uj_per_call=100, low_percent=90, high_percent=120)
    found = _power(_source(power=narrow))
    assert (found.low_output_uj_per_token, found.high_output_uj_per_token) == (900, 1200)
    assert (found.low_call_uj, found.call_uj, found.high_call_uj) == (90, 100, 120)


def test_a_models_own_coefficients_win() -> None:
    pin = ModelSpec(name="m", power=PowerSpec(output_uj_per_token=7))
    assert _power(_source(power=PowerSpec(output_uj_per_token=9)), "m", pin).output_uj_per_token == 7


def test_nothing_is_estimated_of_ones_own_engines() -> None:
    assert _power(_source(), "gpt-4o") == Power()
    assert _power(_source(kind=SourceKind.openai), "gpt-4o") == Power(), "whatever the model is called"


def test_a_cloud_model_has_the_estimate_of_the_package() -> None:
    """The coefficients give what the package itself gives for a call of any length, in its range."""
    from ecologits.tracers.utils import llm_impacts

    found = _power(_openai(), "gpt-4o")
    assert found.method.startswith("ecologits ")
    for tokens in (1, 250, 4000):
        theirs = llm_impacts("openai", "gpt-4o", tokens, math.inf).energy
        assert theirs is not None
        ours = Estimate(found).energy(Usage(1000, 0, tokens))
        assert ours.low_uj == pytest.approx(theirs.value.min * UJ_PER_KWH, rel=1e-5)
        assert ours.high_uj == pytest.approx(theirs.value.max * UJ_PER_KWH, rel=1e-5)
        assert ours.low_uj < ours.uj < ours.high_uj


def test_what_is_declared_wins_over_the_estimate() -> None:
    assert _power(_openai(power=PowerSpec(output_uj_per_token=5)), "gpt-4o").method == "declared"


def test_without_the_package_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "available", lambda: False)
    estimated.cache_clear()
    try:
        assert _power(_openai(), "gpt-4o") == Power()
        assert zone_factor("DEU") == Factor()
    finally:
        estimated.cache_clear()


def test_carbon_is_declared_or_of_the_region_or_of_the_zone() -> None:
    declared = _power(_source(carbon=CarbonSpec(g_per_kwh="56.5", basis="own contract"), labels=LabelsSpec("eu-de")))
    assert (declared.ug_per_kwh, declared.grid) == (56_500_000, "own contract")
    by_file = _power(_source(labels=LabelsSpec(region="eu-de")))
    assert (by_file.ug_per_kwh, by_file.grid) == (363_000_000, "grid operator, 2025")
    zone = _power(_source(carbon=CarbonSpec(zone="FRA")))
    assert 0 < zone.ug_per_kwh < 200_000_000 and zone.grid.startswith("FRA, ecologits ")
    assert _power(_source(labels=LabelsSpec(region="FRA"))) == zone
    assert _power(_source(labels=LabelsSpec(region="rack 4"))).ug_per_kwh == 0
    assert _power(_openai(), "gpt-4o").grid.startswith("USA, ecologits "), "where the package says that it runs"
    azure = _source("https://x.openai.azure.com", SourceKind.openai)
    assert _power(azure, "gpt-4o").method and not _power(azure, "gpt-4o").grid, "in many places: only a label can say"


def test_factors_of_regions_are_read_with_their_source(tmp_path: Path) -> None:
    file = tmp_path / "carbon.toml"
    file.write_text('[eu-de]\ng_per_kwh = 363.5\nbasis = "grid operator, 2025"\n')
    assert read_factors(str(file)) == {"eu-de": Factor(363_500_000, "grid operator, 2025")}
    assert read_factors("") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\ng_per_kwh = 1\n", "a: a region needs g_per_kwh and basis"),
        ('[a]\ng_per_kwh = -1\nbasis = "x"\n', "a: -1 is no amount"),
        ("a = 1\n", "a: a region needs"),
        ("nonsense", "cannot be read as TOML"),
        ('[a]\ng_per_kwh = 1\nbasis = "x"\nunit = "g"\n', "a: a region needs"),
    ],
)
def test_a_faulty_file_of_factors_is_told(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "carbon.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_factors(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_factors(str(tmp_path / "absent"))
