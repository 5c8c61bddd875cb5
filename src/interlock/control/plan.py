"""The difference between what is stored and what a document declares. Pure: two documents in, a plan out.

Both sides are flattened to entries called by (kind, tenant, name). An entry that is declared and not stored is
created; one that differs is updated; one that is stored and not declared is deleted only when the document says
`prune: true` and has the section it would be in. Applying a plan and planning again gives an empty plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import msgspec
from msgspec import UNSET

from interlock.control.amounts import SCALES, budget_amount, budget_fields, decimal_text, nano_usd
from interlock.control.documents import (
    AlertSpec,
    AliasSpec,
    BudgetSpec,
    Document,
    IssuerSpec,
    KeySpec,
    PolicySpec,
    PrincipalSpec,
    RoleSpec,
    SourceSpec,
    TeamSpec,
    TenantSpec,
    lean,
    section,
)
from interlock.control.parse import Path, Places, is_set
from interlock.errors import ConfigError
from interlock.policy.canonical import canonical

Operation = Literal["create", "update", "delete"]
Kind = Literal["tenant", "team", "principal", "source", "policy", "alias", "issuer", "key", "role", "budget", "alert"]

ORDER: tuple[Kind, ...] = get_args(Kind)
"""Creation order: whatever is referred to comes before what refers to it. Deletion goes the other way."""

AnySpec = (
    TenantSpec
    | TeamSpec
    | PrincipalSpec
    | SourceSpec
    | PolicySpec
    | AliasSpec
    | IssuerSpec
    | KeySpec
    | RoleSpec
    | BudgetSpec
    | AlertSpec
)


class Ref(msgspec.Struct, frozen=True, order=True):
    """What an entry is called. `tenant` is a tenant's name, empty for what belongs to the platform."""

    kind: Kind
    tenant: str
    name: str

    def __str__(self) -> str:
        place = f" in {self.tenant}" if self.tenant and self.kind != "tenant" else ""
        return f"{self.kind} {self.name}{place}"


class Entry(msgspec.Struct, frozen=True):
    """One declared or stored thing, and where in its document it stands."""

    spec: AnySpec
    path: Path = ()


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a plan. `fields` names what an update changes; `before` and `after` hold no secrets."""

    operation: Operation
    kind: Kind
    tenant: str
    name: str
    fields: tuple[str, ...] = ()
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    place: str = ""

    @property
    def ref(self) -> Ref:
        """The entry that changes."""
        return Ref(self.kind, self.tenant, self.name)


class Plan(msgspec.Struct, frozen=True):
    """What applying a document would do, in the order in which it would be done."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


class ConfigErrors(ConfigError):
    """Several things are wrong with a document; `errors` names each with file, line and reason."""

    def __init__(self, errors: list[ConfigError]) -> None:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(errors[0].message + more, param=errors[0].param)
        self.errors = tuple(e.message for e in errors)


def role_name(spec: RoleSpec) -> str:
    """How a role binding is called in a plan."""
    return f"{spec.principal}:{spec.role}"


def flatten(document: Document, places: Places | None = None) -> dict[Ref, Entry]:
    """Every entry of a document by what it is called. Raises ConfigErrors when two entries have one name."""
    out: dict[Ref, Entry] = {}
    twice = []
    for ref, entry in _entries(document):
        if ref in out:
            twice.append((places or Places()).error(entry.path, f"{ref} is declared twice"))
        out[ref] = entry
    if twice:
        raise ConfigErrors(twice)
    return out


def _entries(document: Document) -> Iterator[tuple[Ref, Entry]]:
    for i, tenant in enumerate(section(document.tenants)):
        at: Path = ("tenants", i)
        yield Ref("tenant", tenant.name, tenant.name), Entry(bare(tenant), at)
        for n, team in enumerate(section(tenant.teams)):
            yield Ref("team", tenant.name, team.name), Entry(team, (*at, "teams", n))
        for n, principal in enumerate(section(tenant.principals)):
            yield Ref("principal", tenant.name, principal.name), Entry(principal, (*at, "principals", n))
        for n, key in enumerate(section(tenant.keys)):
            yield Ref("key", tenant.name, key.name), Entry(key, (*at, "keys", n))
        for n, policy in enumerate(section(tenant.policies)):
            yield Ref("policy", tenant.name, policy.id), Entry(policy, (*at, "policies", n))
        for n, alias in enumerate(section(tenant.aliases)):
            yield Ref("alias", tenant.name, alias.name), Entry(alias, (*at, "aliases", n))
        for n, budget in enumerate(section(tenant.budgets)):
            yield Ref("budget", tenant.name, budget.name), Entry(budget, (*at, "budgets", n))
        for n, issuer in enumerate(section(tenant.issuers)):
            yield Ref("issuer", tenant.name, issuer.issuer), Entry(issuer, (*at, "issuers", n))
        for n, role in enumerate(section(tenant.roles)):
            yield Ref("role", tenant.name, role_name(role)), Entry(role, (*at, "roles", n))
        for n, rule in enumerate(section(tenant.alerts)):
            yield Ref("alert", tenant.name, rule.name), Entry(rule, (*at, "alerts", n))
    for n, source in enumerate(section(document.sources)):
        yield Ref("source", "", source.name), Entry(source, ("sources", n))
    for n, policy in enumerate(section(document.policies)):
        yield Ref("policy", "", policy.id), Entry(policy, ("policies", n))
    for n, alias in enumerate(section(document.aliases)):
        yield Ref("alias", "", alias.name), Entry(alias, ("aliases", n))
    for n, rule in enumerate(section(document.alerts)):
        yield Ref("alert", "", rule.name), Entry(rule, ("alerts", n))


_NO_SECTIONS = {each.name: UNSET for each in msgspec.structs.fields(TenantSpec) if each.default is UNSET}


def bare(tenant: TenantSpec) -> TenantSpec:
    """The tenant's own fields, without what belongs to it."""
    return msgspec.structs.replace(tenant, **_NO_SECTIONS)


def sections(document: Document) -> set[tuple[str, str]]:
    """The (kind, tenant name) pairs that the document speaks about as a whole, so that prune may empty them."""
    out: set[tuple[str, str]] = set()
    if is_set(document.tenants):
        out.add(("tenant", ""))
    whole: tuple[tuple[str, object], ...] = (
        ("source", document.sources),
        ("policy", document.policies),
        ("alias", document.aliases),
        ("alert", document.alerts),
    )
    out.update((kind, "") for kind, value in whole if is_set(value))
    for tenant in section(document.tenants):
        own: tuple[tuple[str, object], ...] = (
            ("team", tenant.teams),
            ("principal", tenant.principals),
            ("key", tenant.keys),
            ("policy", tenant.policies),
            ("alias", tenant.aliases),
            ("budget", tenant.budgets),
            ("issuer", tenant.issuers),
            ("role", tenant.roles),
            ("alert", tenant.alerts),
        )
        out.update((kind, tenant.name) for kind, value in own if is_set(value))
    return out


def plan(
    stored: Mapping[Ref, Entry],
    declared: Mapping[Ref, Entry],
    *,
    prune: bool = False,
    within: set[tuple[str, str]] | None = None,
    places: Places | None = None,
    closed_keys: Mapping[Ref, str] | None = None,
) -> Plan:
    """The steps that lead from `stored` to `declared`.

    `within`: see `sections`; needed to prune. `closed_keys`: keys that are revoked or expired, with a word for it;
    their names are taken, and applying a document never brings them back.
    """
    places = places or Places()
    closed = closed_keys or {}
    steps: list[Change] = []
    notes: list[str] = []
    for ref, entry in declared.items():
        old = stored.get(ref)
        place = places.of(entry.path)
        if old is None and ref in closed:
            notes.append(f"{ref} is {closed[ref]} and is not made again; choose another name, or remove it")
        elif old is None:
            steps.append(_change("create", ref, None, entry.spec, place))
        elif comparable(old.spec) != comparable(entry.spec):
            steps.append(_change("update", ref, old.spec, entry.spec, place))
    steps.sort(key=lambda c: ORDER.index(c.kind))
    if prune:
        steps += _deletions(stored, declared, within or set())
    return Plan(tuple(steps), tuple(notes))


def _deletions(
    stored: Mapping[Ref, Entry], declared: Mapping[Ref, Entry], within: set[tuple[str, str]]
) -> list[Change]:
    gone_tenants = {
        ref.name for ref in stored if ref.kind == "tenant" and ref not in declared and ("tenant", "") in within
    }
    out = []
    for ref, entry in stored.items():
        if ref in declared:
            continue
        if ref.kind == "tenant":
            gone = ref.name in gone_tenants
        elif ref.kind == "source":
            spec = entry.spec
            gone = ("source", "") in within or (isinstance(spec, SourceSpec) and spec.tenant in gone_tenants)
        else:
            gone = (ref.kind, ref.tenant) in within or ref.tenant in gone_tenants
        if gone:
            out.append(_change("delete", ref, entry.spec, None, ""))
    out.sort(key=lambda c: -ORDER.index(c.kind))
    return out


def comparable(spec: AnySpec) -> dict[str, Any]:
    """The fields that say whether two entries are the same."""
    fields: dict[str, Any] = lean(spec)
    if isinstance(spec, KeySpec):
        fields.pop("expires_in_days", None)
        fields["scopes"] = sorted(spec.scopes)
    elif isinstance(spec, PolicySpec) and spec.cedar:
        fields["cedar"] = canonical(spec.cedar)
    elif isinstance(spec, SourceSpec):
        fields["granted_to"] = sorted(spec.granted_to)
        fields["models"] = sorted(fields.get("models", ()), key=lambda m: str(m["name"]))
    elif isinstance(spec, AlertSpec):
        fields["channels"] = sorted(spec.channels)
    elif isinstance(spec, PrincipalSpec):
        fields["may_act_for"] = sorted(spec.may_act_for)
    elif isinstance(spec, BudgetSpec):
        fields["alerts"] = sorted(set(spec.alerts))
        with contextlib.suppress(ValueError):  # told by the checks that follow
            fields |= budget_fields(*budget_amount(spec))
    elif isinstance(spec, AliasSpec) and spec.slo is not None and spec.slo.cost_usd is not None:
        with contextlib.suppress(ValueError):
            fields["slo"] = {**fields["slo"], "cost_usd": decimal_text(nano_usd(spec.slo.cost_usd), SCALES["nusd"])}
    return fields


def _change(operation: Operation, ref: Ref, old: AnySpec | None, new: AnySpec | None, place: str) -> Change:
    before = None if old is None else comparable(old)
    after = None if new is None else comparable(new)
    fields: tuple[str, ...] = ()
    if before is not None and after is not None:
        fields = tuple(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)))
    return Change(operation, ref.kind, ref.tenant, ref.name, fields, before, after, place)


def result(stored: Mapping[Ref, Entry], declared: Mapping[Ref, Entry], steps: Plan) -> dict[Ref, Entry]:
    """What would be stored after the plan: what references are checked against."""
    out = {**stored, **declared}
    for step in steps.changes:
        if step.operation == "delete":
            out.pop(step.ref, None)
    return out
