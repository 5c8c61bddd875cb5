"""Checks of a declared configuration beyond its types: names, references, exactly-one-of, ranges. Pure.

Every check names the path at fault, so that an error can say file, line and reason. All errors are collected, not only
the first. What needs Cedar is passed in as a function.
"""

from __future__ import annotations

import datetime
import itertools
import re
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from interlock.control.amounts import budget_amount, micrograms, nano_usd
from interlock.control.documents import (
    AlertSpec,
    AliasSpec,
    BudgetSpec,
    CanarySpec,
    IssuerSpec,
    KeySpec,
    PolicySpec,
    PriceSpec,
    PrincipalSpec,
    RoleSpec,
    RuleSpec,
    SourceSpec,
    TenantSpec,
    alias_sources,
)
from interlock.control.parse import Path, Places
from interlock.control.plan import AnySpec, ConfigErrors, Entry, Ref
from interlock.errors import ConfigError, InterlockError
from interlock.metering.cost import RATE_MAX
from interlock.metering.periods import length_s
from interlock.types.alert import KINDS
from interlock.types.identity import DataClass, PrincipalKind, SignIn
from interlock.types.source import CLOUD_KINDS, SourceKind

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,98}[A-Za-z0-9])?", re.ASCII)
MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+/:-]{0,254}[A-Za-z0-9])?", re.ASCII)
_NAME_WORDS = "1 to 100 letters, digits and . _ @ + -, beginning and ending with a letter or digit"
RESERVED = ("auto",)
PLATFORM = "platform"
"""Name of the tenant that holds the installation's own administrators; documents do not declare it."""
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
"""Asymmetric only: with a shared secret whoever can verify a token could also make one."""
DAYS_MAX = 3650
HOUR_NUSD_MAX = RATE_MAX
WORDS_MAX = 200
CLASS_CHARS_MAX = FAMILY_CHARS_MAX = 64
"""Longest request class, as the gateway takes it from callers too."""

CASCADE_STEPS_MAX = 8
"""Models of a cascade."""
STEPS_MAX = 50
"""Steps of a canary's share."""

PolicyCheck = Callable[[PolicySpec, str], object]
"""Validates a policy against Cedar's schema or its template (second argument: tenant name); raises InterlockError."""

Fault = tuple[Path, str]


def check(
    entries: Mapping[Ref, Entry],
    after: Mapping[Ref, Entry],
    places: Places,
    policy_check: PolicyCheck,
    *,
    deletes: bool,
) -> None:
    """Raise ConfigErrors unless each of `entries` is sound in itself and refers only to what is in `after`.

    `entries`: what a document declares. `after`: what would be stored once it is applied: when it `deletes`,
    everything, so that nothing is left without what it refers to; else at least what the entries refer to.
    """
    errors: list[ConfigError] = []
    for ref, entry in entries.items():
        errors += [places.error((*entry.path, *path), reason) for path, reason in faults(ref, entry, after)]
        if isinstance(entry.spec, PolicySpec) and (entry.spec.cedar == "") != (entry.spec.template == ""):
            try:
                policy_check(entry.spec, ref.tenant)
            except InterlockError as e:
                field = "cedar" if entry.spec.cedar else "parameters"
                errors.append(places.error((*entry.path, field), e.message))
    if deletes:
        errors += _broken(entries, after)
    if errors:
        raise ConfigErrors(errors)


def _broken(entries: Mapping[Ref, Entry], after: Mapping[Ref, Entry]) -> list[ConfigError]:
    """What is stored, is not declared, and would be left referring to something deleted."""
    out = []
    for ref, entry in after.items():
        if ref not in entries:
            out += [ConfigError(f"{ref}: {reason}", param=str(ref)) for _, reason in references(ref, entry, after)]
    return out


def faults(ref: Ref, entry: Entry, after: Mapping[Ref, Entry]) -> Iterator[Fault]:
    """What is wrong with one entry: (path inside it, reason)."""
    yield from form(ref, entry.spec)
    yield from references(ref, entry, after)


def form(ref: Ref, spec: AnySpec) -> Iterator[Fault]:
    """What is wrong with an entry in itself: (path inside it, reason)."""
    yield from _name(ref)
    if isinstance(spec, TenantSpec):
        yield from _tenant(spec)
    elif isinstance(spec, PrincipalSpec):
        yield from _principal(spec)
    elif isinstance(spec, KeySpec):
        yield from _key(spec)
    elif isinstance(spec, PolicySpec):
        yield from _policy(spec)
    elif isinstance(spec, AliasSpec):
        yield from _alias(spec)
    elif isinstance(spec, BudgetSpec):
        yield from _budget(spec)
    elif isinstance(spec, AlertSpec):
        yield from rule_faults(spec, of_tenant=bool(ref.tenant))
    elif isinstance(spec, IssuerSpec):
        yield from _issuer(spec)
    elif isinstance(spec, SourceSpec):
        yield from _source(spec)


def references(ref: Ref, entry: Entry, after: Mapping[Ref, Entry]) -> Iterator[Fault]:
    """References of one entry that lead nowhere: (path inside it, reason)."""
    spec = entry.spec

    def missing(kind: str, tenant: str, name: str) -> bool:
        return Ref(kind, tenant, name) not in after  # type: ignore[arg-type]

    if ref.tenant and ref.kind != "tenant" and missing("tenant", ref.tenant, ref.tenant):
        yield (), f"there is no tenant {ref.tenant!r}"
    if isinstance(spec, PrincipalSpec):
        for i, team in enumerate(spec.teams):
            if missing("team", ref.tenant, team):
                yield ("teams", i), f"there is no team {team!r} in tenant {ref.tenant}"
        for i, name in enumerate(spec.may_act_for):
            if name != "*" and missing("principal", ref.tenant, name):
                yield ("may_act_for", i), f"there is no principal {name!r} in tenant {ref.tenant}"
    elif isinstance(spec, KeySpec | RoleSpec):
        home = ref.tenant or PLATFORM
        if missing("principal", home, spec.principal):
            yield ("principal",), f"there is no principal {spec.principal!r} in tenant {home}"
    elif isinstance(spec, IssuerSpec):
        for group, team in spec.group_teams.items():
            if missing("team", ref.tenant, team):
                yield ("group_teams", group), f"there is no team {team!r} in tenant {ref.tenant}"
    elif isinstance(spec, SourceSpec):
        if spec.tenant and missing("tenant", spec.tenant, spec.tenant):
            yield ("tenant",), f"there is no tenant {spec.tenant!r}"
        for i, name in enumerate(spec.granted_to):
            if name != "*" and missing("tenant", name, name):
                yield ("granted_to", i), f"there is no tenant {name!r}"
        for name in spec.shares:
            if missing("tenant", name, name):
                yield ("shares", name), f"there is no tenant {name!r}"
    elif isinstance(spec, AliasSpec):
        yield from _alias_sources(ref, spec, after)
    elif isinstance(spec, BudgetSpec):
        if spec.team and missing("team", ref.tenant, spec.team):
            yield ("team",), f"there is no team {spec.team!r} in tenant {ref.tenant}"
        if spec.principal and missing("principal", ref.tenant, spec.principal):
            yield ("principal",), f"there is no principal {spec.principal!r} in tenant {ref.tenant}"


def _alias_sources(ref: Ref, spec: AliasSpec, after: Mapping[Ref, Entry]) -> Iterator[Fault]:
    for path, name in alias_sources(spec):
        source = after.get(Ref("source", "", name))
        if source is None:
            yield path, f"there is no source {name!r}"
        elif isinstance(source.spec, SourceSpec) and source.spec.tenant not in ("", ref.tenant):
            yield path, f"source {name!r} belongs to another tenant"


def _name(ref: Ref) -> Iterator[Fault]:
    if ref.kind in ("role", "issuer"):
        return
    field = "id" if ref.kind == "policy" else "name"
    if ref.kind == "alias":
        if MODEL_NAME.fullmatch(ref.name) is None or "::" in ref.name or "@" in ref.name:
            yield (field,), f"{ref.name!r} is no alias name: letters, digits and . _ + / : -, without '::' and '@'"
        elif ref.name.split(":")[0] in RESERVED:
            yield (field,), f"{ref.name!r} is reserved"
    elif NAME.fullmatch(ref.name) is None:
        yield (field,), f"{ref.name!r} is no name: {_NAME_WORDS}"
    elif ref.kind == "tenant" and ref.name == PLATFORM:
        yield (field,), f"{ref.name!r} is reserved for the installation's own administrators"


def _tenant(spec: TenantSpec) -> Iterator[Fault]:
    try:
        zoneinfo.ZoneInfo(spec.time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        yield ("time_zone",), f"{spec.time_zone!r} is no IANA time zone, such as Europe/Berlin"
    if spec.judging is not None and MODEL_NAME.fullmatch(spec.judging.model) is None:
        yield ("judging", "model"), f"{spec.judging.model!r} is no name of a model or an alias"
    kept = spec.retention
    if kept is not None and kept.entries_days:
        longer = [each.name for each in DataClass if not 0 < kept.days(each) <= kept.entries_days]
        if longer:
            yield ("retention", "entries_days"), f"contents of class {longer[0]} are kept longer than their entries"


def _principal(spec: PrincipalSpec) -> Iterator[Fault]:
    if len(set(spec.teams)) != len(spec.teams):
        yield ("teams",), "a team is named twice"
    if spec.may_act_for and spec.kind is not PrincipalKind.agent:
        yield ("may_act_for",), f"only an agent acts for others, and this is a {spec.kind}"
    if spec.name in spec.may_act_for:
        yield ("may_act_for",), "an agent does not act for itself"


def _key(spec: KeySpec) -> Iterator[Fault]:
    if not spec.scopes:
        yield ("scopes",), "a key needs at least one scope: infer, assert-user, admin"
    if len(set(spec.scopes)) != len(spec.scopes):
        yield ("scopes",), "a scope is named twice"
    if spec.expires_in_days > DAYS_MAX:
        yield ("expires_in_days",), f"at most {DAYS_MAX} days"


def _policy(spec: PolicySpec) -> Iterator[Fault]:
    if (spec.cedar == "") == (spec.template == ""):
        yield (), "a policy has either cedar text or a template with parameters"
    if spec.cedar and spec.parameters:
        yield ("parameters",), "parameters belong to a template, not to cedar text"
    if spec.template and spec.words:
        yield ("words",), "a template brings its own words"


def _alias(spec: AliasSpec) -> Iterator[Fault]:
    if not spec.targets and spec.cascade is None:
        yield ("targets",), "an alias needs at least one target"
    if spec.cascade is not None:
        for path, reason in cascade_faults(spec):
            yield ("cascade", *path), reason
    if len(spec.request_class) > CLASS_CHARS_MAX or not spec.request_class.isprintable():
        yield ("class",), f"at most {CLASS_CHARS_MAX} printable characters"
    for i, target in enumerate(spec.targets):
        if MODEL_NAME.fullmatch(target.model) is None:
            yield ("targets", i, "model"), f"{target.model!r} is no model name"
    times = {}
    for field, text in (("sunset", spec.sunset), ("deprecated", spec.deprecated)):
        try:
            times[field] = sunset_s(text)
        except ValueError:
            yield (field,), f"{text!r} is no ISO 8601 date or time, such as 2027-01-31"
    if times.get("sunset") and times.get("deprecated", 0) > times["sunset"]:
        yield ("deprecated",), "an alias is deprecated before its sunset, not after"
    if spec.successor and (MODEL_NAME.fullmatch(spec.successor) is None or spec.successor == spec.name):
        yield ("successor",), f"{spec.successor!r} is no other model's name"
    yield from _objectives(spec)
    if spec.canary is not None:
        for path, reason in canary_faults(spec.canary):
            yield ("canary", *path), reason
    if spec.shadow is not None and MODEL_NAME.fullmatch(spec.shadow.model) is None:
        yield ("shadow", "model"), f"{spec.shadow.model!r} is no model name"


def _objectives(alias: AliasSpec) -> Iterator[Fault]:
    slo, weights = alias.slo, alias.weights
    if slo is not None:
        if slo.ttft_ms is None and slo.latency_ms is None and slo.cost_usd is None:
            yield ("slo",), "names at least one of ttft_ms, latency_ms, cost_usd"
        if slo.cost_usd is not None:
            try:
                nano_usd(slo.cost_usd)
            except ValueError as e:
                yield ("slo", "cost_usd"), str(e)
    if weights is not None and not any(msgspec.structs.astuple(weights)):
        yield ("weights",), "at least one weight is above 0"


def cascade_faults(alias: AliasSpec) -> Iterator[Fault]:
    """What is wrong with an alias's cascade in itself, or beside what else the alias has."""
    spec = alias.cascade
    assert spec is not None  # noqa: S101 - asked only then
    if not 2 <= len(spec.steps) <= CASCADE_STEPS_MAX:
        yield ("steps",), f"a cascade has 2 to {CASCADE_STEPS_MAX} steps"
    models = [step.model.partition("@")[0] for step in spec.steps]
    for i, step in enumerate(spec.steps):
        if MODEL_NAME.fullmatch(step.model) is None:
            yield ("steps", i, "model"), f"{step.model!r} is no model name"
        elif models[i] in models[:i]:
            yield ("steps", i, "model"), f"{models[i]!r} is in a step before; each step is another model"
    if not spec.checks or len(set(spec.checks)) != len(spec.checks):
        yield ("checks",), "names each check once, and at least one: json, finish, confidence, tool_call"
    if ("confidence" in spec.checks) != (spec.confidence_min_milli is not None):
        yield ("confidence_min_milli",), "is what the check 'confidence' asks for: both are given, or neither"
    for name, other in (("canary", alias.canary), ("shadow", alias.shadow)):
        if other is not None:
            yield (), f"an alias has a cascade or a {name}, not both"


def canary_faults(spec: CanarySpec) -> Iterator[Fault]:
    """What is wrong with a canary in itself."""
    if MODEL_NAME.fullmatch(spec.model) is None:
        yield ("model",), f"{spec.model!r} is no model name"
    if len(spec.steps) > STEPS_MAX:
        yield ("steps",), f"at most {STEPS_MAX} steps"
    if any(b.after_s <= a.after_s for a, b in itertools.pairwise(spec.steps)):
        yield ("steps",), "each step begins after the one before it"
    bounds = (
        spec.errors_milli_max,
        spec.errors_milli_over_stable,
        spec.first_byte_p95_ms_max,
        spec.total_p95_ms_max,
        spec.first_byte_percent_max,
        spec.total_percent_max,
    )
    if all(bound is None for bound in bounds):
        yield (), "a canary needs at least one condition under which it is taken back"


def sunset_s(text: str) -> int:
    """Unix seconds of an ISO 8601 date (its first second, UTC) or time (UTC unless it names an offset); 0 for "".

    Raises ValueError for anything else.
    """
    if not text:
        return 0
    when = datetime.datetime.fromisoformat(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return int(when.timestamp())


def sunset_text(seconds: int) -> str:
    """The shortest form of `sunset_s`: a date when it falls on midnight UTC."""
    if not seconds:
        return ""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.date().isoformat() if seconds % 86400 == 0 else when.strftime("%Y-%m-%dT%H:%M:%SZ")


def rule_faults(spec: RuleSpec, *, of_tenant: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a rule of an alert in itself."""
    info = KINDS[spec.kind]
    if info.platform_only and of_tenant:
        yield ("kind",), f"{spec.kind} concerns the installation, not a tenant"
    for field in spec.scope.__struct_fields__:
        if getattr(spec.scope, field) and field not in info.scope:
            yield ("scope", field), f"means nothing for {spec.kind}"
        if len(getattr(spec.scope, field)) > 200:
            yield ("scope", field), "has more than 200 characters"
    if spec.count_min and not info.windowed:
        yield ("count_min",), f"means nothing for {spec.kind}"
    if len(set(spec.channels)) != len(spec.channels):
        yield ("channels",), "each is named once"


def _budget(spec: BudgetSpec) -> Iterator[Fault]:
    if sum(1 for name in (spec.team, spec.principal, spec.key, spec.model, spec.shadow, spec.judge) if name) > 1:
        yield (), "a budget is on one team, principal, key, model, shadow or judge, or on the tenant; make one for each"
    if spec.model and (MODEL_NAME.fullmatch(spec.model) is None or "::" in spec.model):
        yield ("model",), f"{spec.model!r} is no model name"
    if sum(1 for amount in (spec.calls, spec.tokens, spec.usd, spec.joules) if amount is not None) != 1:
        yield (), "a budget needs exactly one of calls, tokens, usd, joules"
    else:
        try:
            budget_amount(spec)
        except ValueError as e:
            yield (), str(e)
    try:
        length_s(spec.window)
    except ValueError as e:
        yield ("window",), str(e)


def _issuer(spec: IssuerSpec) -> Iterator[Fault]:
    if not spec.issuer:
        yield ("issuer",), "the issuer's name, as in its tokens' iss claim, is needed"
    if not spec.audience:
        yield ("audience",), "an audience is needed: without one, tokens made for others would be believed"
    reason = _bad_url(spec.jwks_url)
    host = urlsplit(spec.jwks_url).hostname if not reason else ""
    if reason:
        yield ("jwks_url",), reason
    elif not spec.jwks_url.startswith("https://") and host not in ("127.0.0.1", "localhost", "::1"):
        yield ("jwks_url",), "must be https: keys fetched in the clear can be replaced on the way"
    unknown = sorted(set(spec.algorithms) - ALGORITHMS)
    if unknown or not spec.algorithms:
        yield ("algorithms",), f"choose from {', '.join(sorted(ALGORITHMS))}"
    if spec.login is not None:
        yield from _sign_in(spec, spec.login)


def _sign_in(spec: IssuerSpec, login: SignIn) -> Iterator[Fault]:
    if not login.client_id:
        yield ("login", "client_id"), "the client that the provider knows this console as is needed"
    if login.secret_env and login.secret_file:
        yield ("login",), "names secret_env or secret_file, where the client's secret is found, or neither"
    if "openid" not in login.scopes:
        yield ("login", "scopes"), "the scope openid is needed: without it nobody is told who signs in"
    if any(re.fullmatch(r"[!#-\[\]-~]+", scope) is None for scope in login.scopes):
        yield ("login", "scopes"), "a scope is one word"
    if len(login.label) > 60 or not (login.label.isprintable()):
        yield ("login", "label"), "at most 60 printable characters"
    if not spec.group_roles:
        yield ("group_roles",), "nobody could sign in: without group_roles the issuer gives nobody a role"
    reason = _bad_url(spec.issuer)
    if reason:
        yield ("issuer",), f"its discovery document is found by its name, which is a URL then: {reason}"


def _source(spec: SourceSpec) -> Iterator[Fault]:
    for field, text in (("url", spec.url), ("egress_proxy", spec.egress_proxy)):
        reason = _bad_url(text) if text or field == "url" else ""
        if reason:
            yield (field,), reason
    if spec.api_prefix and (not spec.api_prefix.startswith("/") or spec.api_prefix.endswith("/")):
        yield ("api_prefix",), "begins with / and does not end with it, or is empty"
    if spec.priority_scheduling and spec.kind is not SourceKind.vllm:
        yield ("priority_scheduling",), "only an engine of kind vllm schedules by the field 'priority'"
    if spec.tenant and spec.shares:
        yield ("shares",), "a tenant's own source is not shared with others; leave out one of the two"
    if spec.tenant and spec.granted_to:
        yield ("granted_to",), "a tenant's own source is not granted to others; leave out one of the two"
    if spec.limits.waiting_resume > spec.limits.waiting_max:
        yield ("limits", "waiting_resume"), "must not be above waiting_max"
    if spec.kind is not SourceKind.ollama:
        if spec.limits.context_tokens:
            yield ("limits", "context_tokens"), "only Ollama servers are told how large a context to load"
        if spec.timeouts.keep_loaded_ms is not None:
            yield ("timeouts", "keep_loaded_ms"), "only Ollama servers are told how long to keep a model loaded"
    if spec.credential is not None:
        yield from _credential(spec)
    if spec.tls is not None and (spec.tls.cert_file == "") != (spec.tls.key_file == ""):
        yield ("tls",), "a client certificate needs both cert_file and key_file"
    if spec.declared_only and not spec.models:
        yield ("declared_only",), "nothing would be offered: no models are declared"
    seen: set[str] = set()
    yield from _price(("price",), spec.price)
    yield from _metering(spec)
    for i, model in enumerate(spec.models):
        if MODEL_NAME.fullmatch(model.name) is None or "::" in model.name:
            yield ("models", i, "name"), f"{model.name!r} is no model name"
        if model.name in seen:
            yield ("models", i, "name"), f"model {model.name!r} is declared twice"
        seen.add(model.name)
        if model.family is not None and (len(model.family) > FAMILY_CHARS_MAX or not model.family.isprintable()):
            yield ("models", i, "family"), f"a family is a printable name of at most {FAMILY_CHARS_MAX} characters"
        yield from _price(("models", i, "price"), model.price)


def _credential(spec: SourceSpec) -> Iterator[Fault]:
    credential = spec.credential
    if credential is None:
        return
    if (credential.env == "") == (credential.file == ""):
        yield ("credential",), "names either env or file, where the secret is found"
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*", credential.header) is None:
        yield ("credential", "header"), f"{credential.header!r} is no header name"
    if re.fullmatch(r"[!-~]*", credential.scheme) is None:
        yield ("credential", "scheme"), "one word, or empty"
    if urlsplit(spec.url).scheme == "http" and not spec.labels.on_prem:
        yield ("url",), "a credential is not sent off-prem in the clear; use https"


def _bad_url(text: str) -> str:
    if any(c <= " " or c == "\x7f" for c in text):
        return "no spaces or control characters in a URL"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as e:
        return f"not a URL: {e}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "needs the form http(s)://host[:port][/path]"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password; use credential, which names an environment variable or file"
    if parts.query or parts.fragment:
        return "has a query or fragment, which is never sent"
    return ""


def _price(path: Path, spec: PriceSpec | None) -> Iterator[Fault]:
    if spec is None:
        return
    for field in spec.__struct_fields__:
        value = getattr(spec, field)
        try:
            if value is not None:
                nano_usd(value)
        except ValueError as e:
            yield (*path, field), str(e)


def _metering(spec: SourceSpec) -> Iterator[Fault]:
    if spec.gpu_hour is not None:
        try:
            if nano_usd(spec.gpu_hour.usd) * spec.gpu_hour.gpus > HOUR_NUSD_MAX:
                yield ("gpu_hour",), "an hour of a source costs at most a million dollars"
        except ValueError as e:
            yield ("gpu_hour", "usd"), str(e)
        if spec.price is not None:
            yield ("gpu_hour",), "the source has a price per token, which would always win; leave out one of the two"
    if spec.price_list and spec.kind not in CLOUD_KINDS:
        yield ("price_list",), "only sources of kind openai or anthropic have list prices"
    if spec.meter is not None:
        devices = [str(device) for device in spec.meter.devices]
        if not spec.meter.node or not devices or "" in devices or len(set(devices)) != len(devices):
            yield ("meter",), "names the gateway node on the source's machine, and each of its devices once"
    carbon = spec.carbon
    if carbon is None:
        return
    if (carbon.g_per_kwh is None) == (carbon.zone == ""):
        yield ("carbon",), "names either g_per_kwh or zone"
    if carbon.zone and carbon.basis:
        yield ("carbon", "basis"), "a zone brings its own"
    if len(carbon.basis) > WORDS_MAX or not carbon.basis.isprintable():
        yield ("carbon", "basis"), f"at most {WORDS_MAX} printable characters"
    if carbon.g_per_kwh is not None:
        try:
            micrograms(carbon.g_per_kwh)
        except ValueError as e:
            yield ("carbon", "g_per_kwh"), str(e)
