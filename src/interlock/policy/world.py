"""Everything a decision depends on, by name: read from a configuration document or from a snapshot's parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from interlock.errors import ConfigError
from interlock.policy.engine import Bound, PolicyEngine, cost_unknown
from interlock.policy.entities import offer_key
from interlock.policy.schema import DATA_CLASSES, check_id, validate
from interlock.policy.templates import render
from interlock.types.identity import DataClass, Principal, PrincipalKind, Team, Tenant
from interlock.types.snapshot import PolicyText
from interlock.types.source import Labels, Model, Offer, Source, SourceKind

PLATFORM = ""


class World(NamedTuple):
    """Tenants, teams, principals, sources and policies of one configuration."""

    tenants: tuple[Tenant, ...]
    teams: tuple[Team, ...]
    principals: tuple[Principal, ...]
    sources: tuple[Source, ...]
    policies: tuple[PolicyText, ...]

    def engine(self, cache_max: int = 4096, bound: Bound = cost_unknown) -> PolicyEngine:
        """A policy engine over it; `bound`: what a call may cost."""
        return PolicyEngine(self.policies, self.tenants, self.teams, self.sources, cache_max, bound=bound)

    def offers(self) -> tuple[Offer, ...]:
        """Every model at every source."""
        return tuple(Offer(s, m, offer_key(s.name, m.name)) for s in self.sources for m in s.models)

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name. Raises ConfigError when there is none."""
        for tenant in self.tenants:
            if tenant.name == name:
                return tenant
        raise ConfigError(f"there is no tenant {name!r}", param="tenant")

    def team(self, tenant_id: str, name: str) -> Team:
        """The team of that name in a tenant. Raises ConfigError when there is none."""
        for team in self.teams:
            if team.tenant_id == tenant_id and team.name == name:
                return team
        raise ConfigError(f"there is no team {name!r}", param="teams")

    def principal(self, tenant_id: str, name: str, kinds: Iterable[PrincipalKind]) -> Principal | None:
        """The principal of that name and one of these kinds in a tenant, or None."""
        wanted = tuple(kinds)
        for principal in self.principals:
            if principal.tenant_id == tenant_id and principal.name == name and principal.kind in wanted:
                return principal
        return None


def from_parts(parts: Mapping[str, bytes]) -> World:
    """The world of a snapshot, from the bodies of its parts by name.

    Raises ConfigError naming the part that cannot be decoded.
    """

    def decode(name: str, kind: Any) -> Any:
        try:
            return msgspec.msgpack.decode(parts[name], type=kind)
        except KeyError:
            raise ConfigError(f"the snapshot has no part {name!r}", param=name) from None
        except msgspec.DecodeError as e:
            raise ConfigError(f"the snapshot's part {name!r} cannot be decoded: {e}", param=name) from None

    principals: list[Principal] = []
    for name in sorted(parts):
        if name.startswith("principals/"):
            principals += decode(name, dict[str, Principal]).values()
    return World(
        tenants=tuple(decode("tenants", list[Tenant])),
        teams=tuple(decode("teams", list[Team])),
        principals=tuple(principals),
        sources=tuple(decode("sources", list[Source])),
        policies=tuple(decode("policies", list[PolicyText])),
    )


def from_document(document: Mapping[str, object]) -> World:
    """The world that a configuration document (as for `interlock apply`) describes, without asking any source.

    Sources offer the models that the document pins; ids are made of names. Everything that no decision depends on is
    passed over: `interlock plan` checks the rest. Raises ConfigError naming the place in the document.
    """
    tenants: list[Tenant] = []
    teams: list[Team] = []
    principals: list[Principal] = []
    policies = _policies(document, "", PLATFORM)
    for i, entry in enumerate(_list(document, "tenants", "")):
        at = f"tenants[{i}]"
        name = _text(entry, "name", at)
        tenant = Tenant(f"ten:{name}", name)
        tenants.append(tenant)
        own = [Team(f"team:{name}:{t}", tenant.id, t) for t in _named(entry, "teams", at)]
        teams += own
        by_name = {team.name: team.id for team in own}
        for j, p in enumerate(_list(entry, "principals", at)):
            principals.append(_principal(p, f"{at}.principals[{j}]", tenant, by_name))
        policies += _policies(entry, f"{at}.", tenant.id)
    ids = {tenant.name: tenant.id for tenant in tenants}
    sources = [_source(entry, f"sources[{i}]", ids) for i, entry in enumerate(_list(document, "sources", ""))]
    return World(tuple(tenants), tuple(teams), tuple(principals), tuple(sources), tuple(policies))


def _principal(entry: Mapping[str, object], at: str, tenant: Tenant, teams: Mapping[str, str]) -> Principal:
    name = _text(entry, "name", at)
    kind = _text(entry, "kind", at, default="user")
    if kind not in PrincipalKind.__members__:
        raise ConfigError(f"{at}.kind: {kind!r} is not user, service or agent", param=f"{at}.kind")
    team_ids = []
    for team in _strings(entry, "teams", at):
        if team not in teams:
            raise ConfigError(f"{at}.teams: tenant {tenant.name!r} has no team {team!r}", param=f"{at}.teams")
        team_ids.append(teams[team])
    return Principal(f"prn:{tenant.name}:{kind}:{name}", tenant.id, PrincipalKind(kind), name, tuple(team_ids))


def _policies(entry: Mapping[str, object], prefix: str, tenant_id: str) -> list[PolicyText]:
    found = []
    for i, policy in enumerate(_list(entry, "policies", prefix.rstrip("."))):
        at = f"{prefix}policies[{i}]"
        policy_id = _text(policy, "id", at)
        words = _text(policy, "words", at, default="")
        try:
            check_id(policy_id)
            if "template" in policy:
                parameters = policy.get("parameters")
                given = parameters if isinstance(parameters, Mapping) else {}
                cedar, said = render(_text(policy, "template", at), given, policy_id=policy_id)
                words = words or said
            else:
                cedar = _text(policy, "cedar", at)
        except ConfigError as e:
            raise ConfigError(f"{at}: {e.message}", param=at) from None
        for problem in validate(cedar):
            where = f"line {problem.line}, column {problem.column}"
            raise ConfigError(f"{at}: policy {policy_id}, {where}: {problem.message}", param=at)
        found.append(PolicyText(id=policy_id, cedar=cedar, tenant_id=tenant_id, words=words))
    return found


def _source(entry: Mapping[str, object], at: str, tenants: Mapping[str, str]) -> Source:
    name = _text(entry, "name", at)
    kind = _text(entry, "kind", at)
    if kind not in SourceKind.__members__:
        raise ConfigError(f"{at}.kind: {kind!r} is not {', '.join(SourceKind.__members__)}", param=f"{at}.kind")
    given = entry.get("labels", {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{at}.labels must be a mapping", param=f"{at}.labels")
    extra = given.get("extra", {})
    labels = Labels(
        region=_text(given, "region", f"{at}.labels", default=""),
        on_prem=bool(given.get("on_prem", True)),
        data_class_max=data_class(given.get("data_class_max", "restricted"), f"{at}.labels.data_class_max"),
        extra={str(k): str(v) for k, v in extra.items()} if isinstance(extra, Mapping) else {},
    )
    owner = _text(entry, "tenant", at, default="")
    granted = ["*"] if entry.get("granted_to") == "*" else _strings(entry, "granted_to", at)
    for tenant in (owner, *granted):
        if tenant not in tenants and tenant not in ("", "*"):
            raise ConfigError(f"{at}: there is no tenant {tenant!r}", param=at)
    return Source(
        id=f"src:{name}",
        name=name,
        kind=SourceKind(kind),
        base_url=_text(entry, "url", at, default=""),
        tenant_id=tenants.get(owner, ""),
        granted_to=tuple(tenants.get(g, g) for g in granted),
        labels=labels,
        models=tuple(Model(m) for m in _named(entry, "models", at)),
    )


def data_class(value: object, at: str) -> DataClass:
    """A data class by name or number. Raises ConfigError with the place when it is neither."""
    if isinstance(value, str) and value in DATA_CLASSES:
        return DataClass(DATA_CLASSES.index(value))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(DATA_CLASSES):
        return DataClass(value)
    raise ConfigError(f"{at}: {value!r} is not one of {', '.join(DATA_CLASSES)}", param=at)


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _text(entry: Mapping[str, object], name: str, at: str, default: str | None = None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        raise ConfigError(f"{_join(at, name)} must be text", param=_join(at, name))
    return value


def _sequence(entry: Mapping[str, object], name: str, at: str) -> Sequence[object]:
    value = entry.get(name) or []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{_join(at, name)} must be a list", param=_join(at, name))
    return value


def _list(entry: Mapping[str, object], name: str, at: str) -> list[Mapping[str, object]]:
    found = []
    for i, item in enumerate(_sequence(entry, name, at)):
        if not isinstance(item, Mapping):
            raise ConfigError(f"{_join(at, name)}[{i}] must be a mapping", param=f"{_join(at, name)}[{i}]")
        found.append(item)
    return found


def _strings(entry: Mapping[str, object], name: str, at: str) -> list[str]:
    found = []
    for i, item in enumerate(_sequence(entry, name, at)):
        if not isinstance(item, str):
            raise ConfigError(f"{_join(at, name)}[{i}] must be text", param=f"{_join(at, name)}[{i}]")
        found.append(item)
    return found


def _named(entry: Mapping[str, object], name: str, at: str) -> list[str]:
    """Names of a list whose items are names, or mappings with a `name`."""
    found = []
    for i, item in enumerate(_sequence(entry, name, at)):
        place = f"{_join(at, name)}[{i}]"
        found.append(item if isinstance(item, str) else _text(item if isinstance(item, Mapping) else {}, "name", place))
    return found
