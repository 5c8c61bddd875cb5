"""Checks of a declared configuration beyond its types."""

from __future__ import annotations

from decimal import Decimal

import pytest

from interlock.control.documents import AliasSpec, AliasTargetSpec, PolicySpec, SloSpec
from interlock.control.parse import parse
from interlock.control.plan import ConfigErrors, comparable, flatten, plan, result, sections
from interlock.control.validate import check, micrograms, nano_usd, sunset_s, sunset_text
from interlock.errors import ConfigError
from tests.unit.control.samples import FULL


def _check(text: str, stored: str = "") -> None:
    before = flatten(parse([("stored", stored)])[0])
    document, places = parse([("x.yaml", text)])
    declared = flatten(document, places)
    steps = plan(before, declared, prune=document.prune, within=sections(document))
    deletes = any(c.operation == "delete" for c in steps.changes)
    check(declared, result(before, declared, steps), places, _no_cedar, deletes=deletes)


def _no_cedar(spec: PolicySpec, _tenant: str) -> None:
    if "bad" in spec.cedar:
        raise ConfigError("unexpected token")


def test_the_full_document_is_sound() -> None:
    _check(FULL)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "quality_milli: 900",
            f"family: {'f' * 65}",
            "models[0].family: a family is a printable name of at most 64",
        ),
        (
            "quality_milli: 900",
            'family: "a\\tb"',
            "models[0].family: a family is a printable name of at most 64",
        ),
        ("name: globex", "name: platform", "x.yaml:36: tenants[1].name: 'platform' is reserved"),
        ("name: globex", "name: 'a b'", "x.yaml:36: tenants[1].name: 'a b' is no name"),
        ("Europe/Berlin", "Europe/Nowhere", "x.yaml:4: tenants[0].time_zone: 'Europe/Nowhere' is no IANA time zone"),
        (
            "[research, legal]",
            "[research, sales]",
            "x.yaml:9: tenants[0].principals[0].teams[1]: there is no",
        ),
        ("may_act_for: [alice]", "may_act_for: [bob]", "there is no principal 'bob' in tenant acme"),
        ("kind: agent, ", "", "only an agent acts for others"),
        ("principal: alice, data_class", "principal: eve, data_class", "there is no principal 'eve'"),
        ("scopes: [admin]", "scopes: []", "a key needs at least one scope"),
        ("expires_in_days: 90", "expires_in_days: 90000", "at most 3650 days"),
        ('cedar: permit(principal in Team::"legal", action, resource);', "", "either cedar text or a template"),
        ("permit(principal", "bad(principal", "tenants[0].policies[1].cedar: unexpected token"),
        ("sunset: 2027-01-31", "sunset: soon", "'soon' is no ISO 8601"),
        ("name: fast", "name: auto", "'auto' is reserved"),
        ("name: fast", "name: a::b", "is no alias name"),
        ("source: local, weight: 9", "source: remote", "there is no source 'remote'"),
        ("https://id.acme.example/jwks", "http://id.acme.example/jwks", "must be https"),
        ("audience: interlock", "audience: ''", "an audience is needed"),
        ("audience: interlock", "audience: x\n    algorithms: [HS256]", "choose from ES256"),
        ("{researchers: research}", "{researchers: nobody}", "group_teams.researchers: there is no team 'nobody'"),
        ("http://127.0.0.1:9000", "127.0.0.1:9000", "sources[0].url: needs the form http"),
        ("http://127.0.0.1:9000", "http://u:p@127.0.0.1:9000", "holds a user or password"),
        ("waiting_resume: 1", "waiting_resume: 5", "must not be above waiting_max"),
        ("waiting_resume: 1", "waiting_resume: 1, context_tokens: 9", "limits.context_tokens: only Ollama servers"),
        (
            "limits: {concurrency: 8",
            "timeouts: {keep_loaded_ms: 0}\n  limits: {concurrency: 8",
            "timeouts.keep_loaded_ms: only Ollama servers",
        ),
        ("{env: CLOUD_KEY}", "{env: CLOUD_KEY, file: /x}", "names either env or file"),
        ("https://api.example.com", "http://api.example.com", "not sent off-prem in the clear"),
        ("tenant: acme", "tenant: acme\n  granted_to: [globex]", "leave out one of the two"),
        ("0.15", "-1", "sources[1].price.input_usd_per_mtok"),
        ("0.15", "0.00000000015", "nine decimal places"),
        ("{ca_file: /etc/ca.pem}", "{cert_file: /x}", "needs both cert_file and key_file"),
        ("usd: 2.5", "usd: -1", "sources[2].gpu_hour.usd: -1 is no amount"),
        ("usd: 2.5, gpus: 2", "usd: 900000, gpus: 2", "sources[2].gpu_hour: an hour of a source costs at most"),
        ("gpu_hour:", "price: {}\n  gpu_hour:", "a price per token, which would always win"),
        ("carbon: {g_per_kwh: 380.5,", "carbon: {zone: DEU,", "sources[2].carbon.basis: a zone brings its own"),
        ("carbon: {g_per_kwh: 380.5,", "carbon: {", "sources[2].carbon: names either g_per_kwh or zone"),
        ("g_per_kwh: 380.5", "g_per_kwh: 1e9", "sources[2].carbon.g_per_kwh: 1000000000.0 is no amount"),
        ("gpu_hour:", "price_list: openai\n  gpu_hour:", "only sources of kind openai or anthropic have list prices"),
        ("devices: [0, GPU-5c1d]", "devices: [0, 0]", "sources[2].meter: names the gateway node"),
        ("devices: [0, GPU-5c1d]", "devices: []", "sources[2].meter: names the gateway node"),
        ("class: drafting", 'class: "a\\u0007"', "tenants[0].aliases[0].class: at most 64 printable"),
    ],
)
def test_faults_are_told_with_line_and_path(old: str, new: str, message: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigErrors) as caught:
        _check(FULL.replace(old, new, 1))
    assert any(message in e for e in caught.value.errors), caught.value.errors
    assert all(e.startswith("x.yaml:") for e in caught.value.errors)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("output_tokens_per_s: 1200", "output_tokens_per_s: 0", "gpu_hour.output_tokens_per_s"),
        ("low_percent: 80", "low_percent: 110", "power.low_percent"),
        ("output_uj_per_token: 2000000", "output_uj_per_token: 1000000001", "power.output_uj_per_token"),
    ],
)
def test_numbers_out_of_range_are_told_with_line_and_path(old: str, new: str, path: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigError, match=rf"x.yaml:\d+: sources\[2\].{path}: Expected"):
        _check(FULL.replace(old, new, 1))


CASCADE = """
tenants:
- name: acme
  aliases:
  - name: extract
    cascade: {steps: [{model: small}, {model: large}], checks: [json]}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{model: small}, ", "", "cascade.steps: a cascade has 2 to 8 steps"),
        ("{model: small}, ", "{model: small}, " * 8, "cascade.steps: a cascade has 2 to 8 steps"),
        ("{model: small}", "{model: large@2}", "cascade.steps[1].model: 'large' is in a step before"),
        ("{model: small}", "{model: '?'}", "cascade.steps[0].model: '?' is no model name"),
        ("{model: small}", "{model: small, source: nowhere}", "cascade.steps[0].source: there is no source 'nowhere'"),
        ("[json]", "[]", "cascade.checks: names each check once"),
        ("[json]", "[json, json]", "cascade.checks: names each check once"),
        ("[json]", "[confidence]", "cascade.confidence_min_milli: is what the check"),
        ("[json]", "[json], confidence_min_milli: 5", "cascade.confidence_min_milli: is what the check"),
        ("cascade:", "shadow: {model: x, share_milli: 1}\n    cascade:", "has a cascade or a shadow, not both"),
        ("cascade:", "canary: {model: x, share_milli: 1}\n    cascade:", "has a cascade or a canary, not both"),
    ],
)
def test_a_cascade_that_cannot_be(old: str, new: str, message: str) -> None:
    _check(CASCADE)
    assert old in CASCADE
    with pytest.raises(ConfigErrors) as caught:
        _check(CASCADE.replace(old, new, 1))
    assert any(message in e for e in caught.value.errors), caught.value.errors


OBJECTIVES = """
tenants:
- name: acme
  aliases:
  - name: quick
    targets: [{model: small}]
    slo: {ttft_ms: 500, cost_usd: 0.01}
    weights: {quality: 6, cost: 1}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{ttft_ms: 500, cost_usd: 0.01}",
            "{strict: true}",
            "slo: names at least one of ttft_ms, latency_ms, cost_usd",
        ),
        ("cost_usd: 0.01", "cost_usd: 0.0000000001", "slo.cost_usd: "),
        ("cost_usd: 0.01", "cost_usd: -1", "slo.cost_usd: "),
        ("{quality: 6, cost: 1}", "{quality: 0}", "weights: at least one weight is above 0"),
    ],
)
def test_objectives_and_weights_that_cannot_be(old: str, new: str, message: str) -> None:
    _check(OBJECTIVES)
    assert old in OBJECTIVES
    with pytest.raises(ConfigErrors) as caught:
        _check(OBJECTIVES.replace(old, new, 1))
    assert any(message in e for e in caught.value.errors), caught.value.errors


def test_a_cost_is_the_same_however_it_is_written() -> None:
    def alias(cost: str | float) -> AliasSpec:
        return AliasSpec(name="a", targets=(AliasTargetSpec(model="m"),), slo=SloSpec(ttft_ms=5, cost_usd=cost))

    assert comparable(alias(0.01)) == comparable(alias("0.010")) != comparable(alias(0.02))


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        _check("tenants:\n- {name: '?', time_zone: Mars}\nsources:\n- {name: s, kind: vllm, url: ftp://x}\n")
    assert len(caught.value.errors) == 3
    assert "(and 2 more)" in caught.value.message


def test_what_is_deleted_must_not_be_needed_by_what_stays() -> None:
    with pytest.raises(ConfigErrors, match="principal alice in acme: there is no team 'research'"):
        _check("prune: true\ntenants: [{name: acme, teams: []}]", stored=FULL)


def test_references_may_lead_to_what_is_stored_already() -> None:
    _check("tenants: [{name: acme, keys: [{name: second, principal: alice}]}]", stored=FULL)


@pytest.mark.parametrize("text", ["2027-01-31", "2027-01-31T10:00:00Z", ""])
def test_sunset_is_told_back_as_it_was_given(text: str) -> None:
    assert sunset_text(sunset_s(text)) == text


def test_prices_are_exact() -> None:
    assert nano_usd(0.15) == 150_000_000
    assert nano_usd("0.000000001") == 1
    assert nano_usd(3) == 3_000_000_000
    assert all(nano_usd(cents / 100) == int(Decimal(cents) * 10_000_000) for cents in range(0, 10_000, 7))
    assert micrograms("380.5") == 380_500_000
    for bad in ("x", float("nan"), float("inf"), -0.1, 1_000_001):
        with pytest.raises(ValueError, match="no amount"):
            nano_usd(bad)
