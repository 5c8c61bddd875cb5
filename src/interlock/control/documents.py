"""The configuration document: what `interlock apply` reads, `interlock export` writes and the admin API takes.

One form serves all three. Things are called by name; ids appear nowhere. A section that is left out is not touched;
an empty section, with `prune: true`, empties what is stored. docs/configuration.md describes every field.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from interlock.metering.energy import COEFFICIENT_MAX, HIGH_PERCENT, LOW_PERCENT
from interlock.types.alert import AlertKind, AlertScope, Severity
from interlock.types.identity import AdminRole, LimitSet, PrincipalKind, Retention, Scope, SignIn
from interlock.types.slo import SLO_MS_MAX, WEIGHT_MAX
from interlock.types.source import Ability, CredentialRef, SourceKind, SourceLimits, Timeouts, TlsRef

DataClassName = Literal["public", "internal", "confidential", "restricted"]
Mode = Literal["eco", "balanced", "quality"]
RecordingName = Literal["full", "prompt_only", "metadata"]
CascadeCheck = Literal["json", "finish", "confidence", "tool_call"]
CASCADE_CHECKS: dict[str, CascadeCheck] = {
    "json": "json",
    "finish": "finish",
    "confidence": "confidence",
    "tool_call": "tool_call",
}
WorkloadName = Literal["interactive", "batch", "background"]

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Share = Annotated[int, Meta(ge=0, le=1000)]
Weight = Annotated[int, Meta(ge=1, le=1000)]
Days = Annotated[int, Meta(ge=0, le=36_500)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[int, Meta(ge=0, le=86_400)]
Joules = Annotated[int, Meta(ge=0, le=COEFFICIENT_MAX)]
Amount = str | float | int
"""A decimal number, exactly as it is written."""

_T = TypeVar("_T")
_S = TypeVar("_S", bound=msgspec.Struct)


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of everything that is declared: unknown fields are errors, defaults are left out when written."""


class LimitsSpec(LimitSet, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`LimitSet` as it is declared: whole numbers from 1, nothing unknown."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrency: Positive | None = None


class SourceLimitsSpec(SourceLimits, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`SourceLimits` as it is declared."""

    concurrency: Positive | None = None
    waiting_max: Natural = 8
    waiting_resume: Natural = 2
    context_tokens: Natural = 0


class TimeoutsSpec(Timeouts, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`Timeouts` as it is declared."""

    connect_ms: Positive | None = None
    first_event_ms: Positive | None = None
    between_events_ms: Positive | None = None
    total_ms: Positive | None = None


class CredentialSpec(CredentialRef, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`CredentialRef` as it is declared: where the secret is, never the secret."""


class TlsSpec(TlsRef, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`TlsRef` as it is declared."""


class RetentionSpec(Retention, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`Retention` as it is declared: whole days up to a hundred years, by the names of data classes."""

    contents_days: Days = 0
    by_data_class: dict[DataClassName, Days] = {}  # type: ignore[assignment]
    entries_days: Days = 0


class TeamSpec(Spec, frozen=True):
    """A team of a tenant; `limits` hold for all its members together, `recording` for the calls of each."""

    name: str
    cost_center: str = ""
    limits: LimitsSpec | None = None
    recording: RecordingName = "full"


class PrincipalSpec(Spec, frozen=True):
    """A user, service or agent. The first team is the one whose limits and costs its calls count on.

    `may_act_for`: names of principals that an agent may be delegated by, or `["*"]` for anyone in the tenant.
    `workload`: its calls are no more urgent than this.
    """

    name: str
    kind: PrincipalKind = PrincipalKind.user
    teams: tuple[str, ...] = ()
    limits: LimitsSpec | None = None
    may_act_for: tuple[str, ...] = ()
    active: bool = True
    workload: WorkloadName = "interactive"


class KeySpec(Spec, frozen=True):
    """An API key. `expires_in_days` counts from its creation (0: never) and is not compared afterwards."""

    name: str
    principal: str
    scopes: tuple[Scope, ...] = (Scope.infer,)
    data_class: DataClassName = "internal"
    expires_in_days: Natural = 0
    limits: LimitsSpec | None = None
    workload: WorkloadName = "interactive"


class PolicySpec(Spec, frozen=True):
    """A policy: either Cedar text, or a template with its parameters. `id` is what reasons name.

    `report_only`: it decides nothing; what it would change is recorded with each call.
    """

    id: str
    words: str = ""
    cedar: str = ""
    template: str = ""
    parameters: dict[str, Any] = {}
    report_only: bool = False


class AliasTargetSpec(Spec, frozen=True):
    """One weighted target; without `source` any source of the model may answer. `model` may be `model@version`:
    required, or with `prefer_version` only preferred."""

    model: str
    source: str = ""
    weight: Positive = 1
    prefer_version: bool = False


class CanaryStepSpec(Spec, frozen=True):
    """A canary's share from a time after its start on."""

    after_s: Positive
    share_milli: Share


class CanarySpec(Spec, frozen=True):
    """A candidate for the alias's target on `share_milli` thousandths of its calls, and the conditions under which it
    is taken back. docs/aliases.md describes every field."""

    model: str
    share_milli: Annotated[int, Meta(ge=1, le=1000)]
    source: str = ""
    prefer_version: bool = False
    steps: tuple[CanaryStepSpec, ...] = ()
    sticky: bool = False
    calls_min: Annotated[int, Meta(ge=1, le=100_000)] = 30
    window_s: Annotated[int, Meta(ge=10, le=86_400)] = 600
    errors_milli_max: Share | None = 100
    errors_milli_over_stable: Share | None = None
    first_byte_p95_ms_max: Positive | None = None
    total_p95_ms_max: Positive | None = None
    first_byte_percent_max: Annotated[int, Meta(ge=100, le=10_000)] | None = None
    total_percent_max: Annotated[int, Meta(ge=100, le=10_000)] | None = None


class ShadowSpec(Spec, frozen=True):
    """A candidate that gets thousandths of the alias's calls besides, to be compared; no caller sees its answers."""

    model: str
    share_milli: Annotated[int, Meta(ge=1, le=1000)]
    source: str = ""
    prefer_version: bool = False


class CascadeStepSpec(Spec, frozen=True):
    """One step of a cascade; without `source` any source of the model may answer."""

    model: str
    source: str = ""


class CascadeSpec(Spec, frozen=True):
    """Models that are tried one after the other, the cheapest first, until an answer passes all `checks`.

    docs/cascades.md describes every field. `money_nusd_max` and `time_ms_max`: no further step beyond these.
    """

    steps: tuple[CascadeStepSpec, ...]
    checks: tuple[CascadeCheck, ...]
    confidence_min_milli: Annotated[int, Meta(ge=1, le=1000)] | None = None
    money_nusd_max: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    time_ms_max: Positive | None = None


class SloSpec(Spec, frozen=True):
    """What an alias asks for its calls: at least one of the three. `strict`: else they are refused."""

    ttft_ms: Annotated[int, Meta(ge=1, le=SLO_MS_MAX)] | None = None
    latency_ms: Annotated[int, Meta(ge=1, le=SLO_MS_MAX)] | None = None
    cost_usd: Amount | None = None
    strict: bool = False


class WeightsSpec(Spec, frozen=True):
    """What an alias's calls are decided by, in place of its mode's weights; what counts is how they stand to each
    other."""

    quality: Annotated[int, Meta(ge=0, le=WEIGHT_MAX)] = 0
    cost: Annotated[int, Meta(ge=0, le=WEIGHT_MAX)] = 0
    latency: Annotated[int, Meta(ge=0, le=WEIGHT_MAX)] = 0
    energy: Annotated[int, Meta(ge=0, le=WEIGHT_MAX)] = 0


class AliasSpec(Spec, frozen=True, rename={"request_class": "class"}):
    """A model name of the company's own. `deprecated` and `sunset` are ISO 8601 dates or times (UTC): from when on it
    should not be used, and is refused; `successor` is the name to use instead. `class` is the request class of calls
    that name none themselves."""

    name: str
    targets: tuple[AliasTargetSpec, ...] = ()
    mode: Mode = "balanced"
    max_tokens: Natural = 0
    data_class: DataClassName = "public"
    sunset: str = ""
    request_class: str = ""
    recording: RecordingName = "full"
    deprecated: str = ""
    successor: str = ""
    canary: CanarySpec | None = None
    shadow: ShadowSpec | None = None
    workload: WorkloadName = "interactive"
    cascade: CascadeSpec | None = None
    slo: SloSpec | None = None
    weights: WeightsSpec | None = None


def alias_sources(spec: AliasSpec) -> list[tuple[tuple[str | int, ...], str]]:
    """Every source that an alias names, with the place in it: what has to be there, and stays while it is named."""
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("targets", i, "source"), target.source) for i, target in enumerate(spec.targets)
    ]
    if spec.canary is not None:
        named.append((("canary", "source"), spec.canary.source))
    if spec.shadow is not None:
        named.append((("shadow", "source"), spec.shadow.source))
    if spec.cascade is not None:
        named += [(("cascade", "steps", i, "source"), step.source) for i, step in enumerate(spec.cascade.steps)]
    return [(path, name) for path, name in named if name]


class BudgetSpec(Spec, frozen=True):
    """What may be used within a window: exactly one of `calls`, `tokens`, `usd`, `joules`; on one `team`, `principal`,
    `key` or `model` of the tenant, on the `shadow` calls of an alias, on what is asked of a `judge` with its
    challengers, else on the tenant as a whole.

    `window`: hour, day, week, month, quarter or year of the tenant's calendar, total, or a length such as "90m", "6h"
    or "30d". `hard`: calls that would exceed it are refused. `alerts`: percentages of which passing is told.
    """

    name: str
    team: str = ""
    principal: str = ""
    key: str = ""
    model: str = ""
    shadow: str = ""
    judge: str = ""
    calls: Natural | None = None
    tokens: Natural | None = None
    usd: Amount | None = None
    joules: Amount | None = None
    window: str = "month"
    hard: bool = True
    alerts: tuple[Annotated[int, Meta(ge=1, le=1000)], ...] = (80, 100)


class RuleSpec(Spec, frozen=True, kw_only=True):
    """What a rule of an alert says: see `AlertRule`. `threshold` in the kind's unit: permille, count or s."""

    kind: AlertKind
    threshold: Count
    window_s: Annotated[int, Meta(ge=30, le=3600)] = 300
    for_s: Seconds = 60
    count_min: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    no_data_s: Seconds = 0
    scope: AlertScope = AlertScope()
    severity: Severity = "warning"
    channels: Annotated[tuple[str, ...], Meta(max_length=20)] = ()
    enabled: bool = True


class AlertSpec(RuleSpec, frozen=True, kw_only=True):
    """A rule of an alert, of a tenant or, at the top, of the platform. `channels`: names of some that are there."""

    name: str


class SignInSpec(SignIn, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`SignIn` as it is declared: where the client's secret is, never the secret."""


class IssuerSpec(Spec, frozen=True):
    """A JWT issuer that the tenant trusts. `group_teams` maps a group's name to a team's name, `group_roles` to an
    administrative role in the tenant. With `login` people sign in to the console there."""

    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    subject_claim: str = "sub"
    groups_claim: str = "groups"
    group_teams: dict[str, str] = {}
    kind: PrincipalKind = PrincipalKind.user
    data_class: DataClassName = "internal"
    group_roles: dict[str, AdminRole] = {}
    login: SignInSpec | None = None


class RoleSpec(Spec, frozen=True):
    """An administrative role of a principal in its tenant."""

    principal: str
    role: AdminRole


class PriceSpec(Spec, frozen=True):
    """US dollars per million tokens, and per call, exact to a nano-dollar. Input that is read from a cache or written
    to one costs as much as input when left out."""

    input_usd_per_mtok: Amount = 0
    cached_input_usd_per_mtok: Amount | None = None
    cache_write_usd_per_mtok: Amount | None = None
    output_usd_per_mtok: Amount = 0
    usd_per_call: Amount = 0


class GpuHourSpec(Spec, frozen=True):
    """What an hour of a source costs: `usd` for each of its `gpus`. The rates are the tokens a second that it does when
    it is full, of prompts only and of answers only."""

    usd: Amount
    input_tokens_per_s: Positive
    output_tokens_per_s: Positive
    gpus: Positive = 1


class PowerSpec(Spec, frozen=True):
    """Estimated energy in microjoules per token and per call, and the range it lies in, in percent of the estimate."""

    input_uj_per_token: Joules = 0
    output_uj_per_token: Joules = 0
    uj_per_call: Joules = 0
    low_percent: Annotated[int, Meta(ge=0, le=100)] = LOW_PERCENT
    high_percent: Annotated[int, Meta(ge=100, le=10_000)] = HIGH_PERCENT


class CarbonSpec(Spec, frozen=True):
    """Grams of CO2 equivalent per kilowatt-hour where a source runs, and where the figure comes from; or the zone (ISO
    3166-1 alpha-3) whose figure is taken from the table of the extra `energy`."""

    g_per_kwh: Amount | None = None
    basis: str = ""
    zone: str = ""


class EnergyMeterSpec(Spec, frozen=True):
    """What measures a source's energy: `devices` (index or UUID, each used by this source alone) of the machine on
    which the gateway node of that name runs."""

    node: str
    devices: tuple[str | int, ...]
    kind: Literal["nvml"] = "nvml"


class LabelsSpec(Spec, frozen=True):
    """Facts that policies speak of. `data_class_max` is a hard bound, whatever policies say."""

    region: str = ""
    on_prem: bool = True
    data_class_max: DataClassName = "restricted"
    extra: dict[str, str] = {}


class ModelSpec(Spec, frozen=True):
    """A pin over what discovery finds about one model: only the fields that are given replace what was found."""

    name: str
    abilities: tuple[Ability, ...] | None = None
    context_length: Natural | None = None
    parent: str | None = None
    version: str | None = None
    quality_milli: Share | None = None
    parameters_m: Count | None = None
    family: str | None = None
    price: PriceSpec | None = None
    power: PowerSpec | None = None


class SourceSpec(Spec, frozen=True):
    """A model source. `tenant`: owned by that tenant; else the platform's, and granted to `granted_to` ("*": all).

    `price` and `power` hold for each model that does not name its own, `gpu_hour` for those without any price.
    `price_list`: whose list prices hold, where the address does not tell. `declared_only`: offer only the models listed
    here, although discovery finds more. `priority_scheduling`: the engine schedules by vLLM's field `priority`.
    `shares`: weights of tenants when several want more of it than there is.
    """

    name: str
    kind: SourceKind
    url: str
    tenant: str = ""
    granted_to: tuple[str, ...] = ()
    api_prefix: str = "/v1"
    labels: LabelsSpec = LabelsSpec()
    limits: SourceLimitsSpec = SourceLimitsSpec()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    price: PriceSpec | None = None
    gpu_hour: GpuHourSpec | None = None
    price_list: str = ""
    power: PowerSpec | None = None
    carbon: CarbonSpec | None = None
    meter: EnergyMeterSpec | None = None
    credential: CredentialSpec | None = None
    tls: TlsSpec | None = None
    egress_proxy: str = ""
    egress_proxy_credential: CredentialSpec | None = None
    extra_fields: Literal["pass", "drop", "refuse"] = "pass"
    prefix_cache_salt: bool = True
    models: tuple[ModelSpec, ...] = ()
    declared_only: bool = False
    priority_scheduling: bool = False
    shares: dict[str, Weight] = {}


class JudgingSpec(Spec, frozen=True):
    """A model or alias that judges answers for the learned router, and thousandths of calls: see `Judging`.

    Every answer has a chance of being held against an unrelated question: else a model could please its judge with what
    answers nothing.
    """

    model: str
    share_milli: Annotated[int, Meta(ge=0, le=1000)] = 20
    challenger_milli: Annotated[int, Meta(ge=0, le=1000)] = 0
    control_milli: Annotated[int, Meta(ge=50, le=1000)] = 250


LearningName = Literal["on", "observe", "off"]
LEARNING: dict[str, LearningName] = {"on": "on", "observe": "observe", "off": "off"}


class TenantSpec(Spec, frozen=True):
    """A tenant and what belongs to it. `policy_approval`: a change of its policies needs a second person. `learning`:
    whether the router learns from its calls, and decides by that; `learning_shares`: it tells other tenants of the
    installation that share, and is told by them, how good models of the platform were. `judging`: what judges its
    answers for that."""

    name: str
    time_zone: str = "UTC"
    active: bool = True
    recording: RecordingName = "full"
    retention: RetentionSpec | None = None
    policy_approval: bool = False
    learning: LearningName = "on"
    learning_shares: bool = False
    judging: JudgingSpec | None = None
    teams: tuple[TeamSpec, ...] | UnsetType = UNSET
    principals: tuple[PrincipalSpec, ...] | UnsetType = UNSET
    keys: tuple[KeySpec, ...] | UnsetType = UNSET
    policies: tuple[PolicySpec, ...] | UnsetType = UNSET
    aliases: tuple[AliasSpec, ...] | UnsetType = UNSET
    budgets: tuple[BudgetSpec, ...] | UnsetType = UNSET
    issuers: tuple[IssuerSpec, ...] | UnsetType = UNSET
    roles: tuple[RoleSpec, ...] | UnsetType = UNSET
    alerts: tuple[AlertSpec, ...] | UnsetType = UNSET


class Document(Spec, frozen=True):
    """A whole configuration, or a part of one. `policies` and `aliases` at the top hold for every tenant, `alerts` at
    the top are the platform's."""

    prune: bool = False
    tenants: tuple[TenantSpec, ...] | UnsetType = UNSET
    sources: tuple[SourceSpec, ...] | UnsetType = UNSET
    policies: tuple[PolicySpec, ...] | UnsetType = UNSET
    aliases: tuple[AliasSpec, ...] | UnsetType = UNSET
    alerts: tuple[AlertSpec, ...] | UnsetType = UNSET


def restate(value: msgspec.Struct | None, form: type[_S]) -> _S | None:
    """The same fields as another class: a domain value in its declared form, or the other way round."""
    return None if value is None else msgspec.convert(msgspec.to_builtins(value), form)


@functools.cache
def _defaults(form: type[msgspec.Struct]) -> tuple[tuple[str, str, Any], ...]:
    out = []
    for field in msgspec.structs.fields(form):
        made = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        out.append((field.name, field.encode_name, made))
    return tuple(out)


def lean(value: Any) -> Any:
    """A declared value as plain dicts, lists and scalars, without what is at its default.

    msgspec's own `omit_defaults` compares by identity, so that two equal values may be written differently; this
    does not, and two values are equal exactly when their lean forms are.
    """
    if isinstance(value, msgspec.Struct):
        out = {}
        for name, written, default in _defaults(type(value)):
            field = getattr(value, name)
            if field is not UNSET and (default is msgspec.NODEFAULT or field != default):
                out[written] = lean(field)
        return out
    if isinstance(value, dict):
        return {key: lean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [lean(entry) for entry in value]
    return msgspec.to_builtins(value)


def section(value: tuple[_T, ...] | UnsetType) -> tuple[_T, ...]:
    """The entries of a section, none when it was left out."""
    return () if isinstance(value, UnsetType) else value
