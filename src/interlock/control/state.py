"""The stored configuration as it would be declared: what plans are compared with, and what export writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

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
    alias_sources,
)
from interlock.control.plan import AnySpec, Entry, Kind, Ref, role_name
from interlock.control.services import (
    alert_rules,
    aliases,
    budgets,
    issuers,
    keys,
    policies,
    principals,
    roles,
    sources,
    teams,
    tenants,
)
from interlock.control.services.base import Tx
from interlock.control.validate import PLATFORM
from interlock.errors import NotFound
from interlock.policy.canonical import canonical
from interlock.storage import alerts as stored_alerts
from interlock.storage import aliases as stored_aliases
from interlock.storage import bindings as stored_bindings
from interlock.storage import budgets as stored_budgets
from interlock.storage import keys as stored_keys
from interlock.storage import policies as stored_policies
from interlock.storage import principals as stored_principals
from interlock.storage import sources as stored_sources
from interlock.storage import teams as stored_teams
from interlock.storage import tenants as stored_tenants
from interlock.storage.table import Stored
from interlock.types.identity import BY_TOKEN

_PAGE = 1000

_V = TypeVar("_V", bound=msgspec.Struct)


class State(msgspec.Struct, frozen=True):
    """Entries by what they are called, and keys that are revoked or expired with the word for it."""

    entries: dict[Ref, Entry]
    closed_keys: dict[Ref, str] = {}


def load(tx: Tx, names: Collection[str] | None = None) -> State:
    """Everything that the connection sees: of these tenants (None: of all), and what belongs to the platform.

    The platform's own tenant is left out: its administrators are not declared in documents.
    """
    entries: dict[Ref, Entry] = {}
    closed: dict[Ref, str] = {}
    for tenant in _pages(lambda after: stored_tenants.page(tx.conn, after=after, limit=_PAGE)):
        value = tenant.value
        if value.id == stored_tenants.PLATFORM_TENANT:
            continue
        tx.names.learn(value.id, value.name)
        entries[Ref("tenant", value.name, value.name)] = Entry(tenants.spec_of(value))
        if names is None or value.name in names:
            _tenant(tx, value.id, value.name, entries, closed)
    for source in _pages(lambda after: stored_sources.page(tx.conn, after=after, limit=_PAGE)):
        entries[Ref("source", "", source.value.name)] = Entry(sources.spec_of(source.value))
    _policies_and_aliases(tx, "", "", entries)
    _alerts(tx, "", "", entries)
    return State(entries, closed)


def _tenant(tx: Tx, tenant_id: str, name: str, entries: dict[Ref, Entry], closed: dict[Ref, str]) -> None:
    conn = tx.conn
    for team in _pages(lambda after: stored_teams.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        tx.names.learn(team.value.id, team.value.name)
        entries[Ref("team", name, team.value.name)] = Entry(teams.spec_of(team.value))
    members = list(_pages(lambda after: stored_principals.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)))
    for member in members:
        tx.names.learn(member.value.id, member.value.name)
    for member in members:
        if member.value.id.startswith(BY_TOKEN):
            continue  # nobody declares it: an identity provider vouches for it
        entries[Ref("principal", name, member.value.name)] = Entry(principals.spec_of(member.value, tx.names))
    now_s = int(tx.by.at.timestamp())
    newest = {}
    for key in _pages(lambda after: stored_keys.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        if not key.value.principal_id.startswith(BY_TOKEN):
            newest[key.value.name] = key
    for key_name, key in newest.items():
        _key(tx, Ref("key", name, key_name), key, now_s, entries, closed)
    _policies_and_aliases(tx, tenant_id, name, entries)
    for budget in _pages(lambda after: stored_budgets.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        entries[Ref("budget", name, budget.value.name)] = Entry(budgets.spec_of(budget.value, tx.names))
    for issuer in issuers.of_tenant(tx, tenant_id):
        entries[Ref("issuer", name, issuer.value.issuer)] = Entry(issuers.spec_of(issuer.value, tx.names))
    for binding in _pages(lambda after: stored_bindings.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        role = roles.spec_of(binding.value, tx.names)
        entries[Ref("role", name, role_name(role))] = Entry(role)
    _alerts(tx, tenant_id, name, entries)


def _key(
    tx: Tx,
    ref: Ref,
    key: Stored[stored_keys.KeyRow],
    now_s: int,
    entries: dict[Ref, Entry],
    closed: dict[Ref, str],
) -> None:
    state = keys.state_of(key.value, now_s)
    if state:
        closed[ref] = state
    else:
        entries[ref] = Entry(keys.spec_of(key, tx.names))


def _policies_and_aliases(tx: Tx, tenant_id: str, name: str, entries: dict[Ref, Entry]) -> None:
    conn = tx.conn
    for policy in _pages(lambda after: stored_policies.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        entries[Ref("policy", name, policy.value.name)] = Entry(policies.spec_of(policy.value))
    for alias in _pages(lambda after: stored_aliases.page(conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        entries[Ref("alias", name, alias.value.name)] = Entry(aliases.spec_of(alias.value))


def _alerts(tx: Tx, tenant_id: str, name: str, entries: dict[Ref, Entry]) -> None:
    for rule in _pages(lambda after: stored_alerts.RULES.page(tx.conn, tenant_id=tenant_id, after=after, limit=_PAGE)):
        entries[Ref("alert", name, rule.value.name)] = Entry(alert_rules.spec_of(rule.value))


def _pages(page: Callable[[str], list[Stored[_V]]]) -> Iterator[Stored[_V]]:
    after = ""
    while True:
        rows = page(after)
        yield from rows
        if len(rows) < _PAGE:
            return
        after = str(rows[-1].value.id)  # type: ignore[attr-defined]


def load_some(tx: Tx, refs: Iterable[Ref]) -> State:
    """Only these entries, as far as they exist: enough for a change of one thing."""
    entries: dict[Ref, Entry] = {}
    closed: dict[Ref, str] = {}
    now_s = int(tx.by.at.timestamp())
    for ref in refs:
        try:
            tenant_id = tx.names.tenant(ref.tenant)
            if ref.kind == "key":
                _key(tx, ref, keys.find(tx, tenant_id, ref.name), now_s, entries, closed)
            else:
                entries[ref] = Entry(_one(tx, ref, tenant_id))
        except NotFound:
            continue
    return State(entries, closed)


def _one(tx: Tx, ref: Ref, tenant_id: str) -> AnySpec:
    if ref.kind == "tenant":
        return tenants.spec_of(tenants.find(tx, ref.name).value)
    if ref.kind == "team":
        return teams.spec_of(teams.find(tx, tenant_id, ref.name).value)
    if ref.kind == "principal":
        return principals.spec_of(principals.find(tx, tenant_id, ref.name).value, tx.names)
    if ref.kind == "source":
        return sources.spec_of(sources.find(tx, ref.name).value)
    if ref.kind == "policy":
        return policies.spec_of(policies.find(tx, tenant_id, ref.name).value)
    if ref.kind == "alias":
        return aliases.spec_of(aliases.find(tx, tenant_id, ref.name).value)
    if ref.kind == "budget":
        return budgets.spec_of(budgets.find(tx, tenant_id, ref.name).value, tx.names)
    if ref.kind == "issuer":
        return issuers.spec_of(issuers.find(tx, tenant_id, ref.name).value, tx.names)
    if ref.kind == "alert":
        return alert_rules.spec_of(alert_rules.find(tx, tenant_id, ref.name).value)
    return roles.spec_of(roles.find(tx, tenant_id, ref.name).value, tx.names)


def mentioned(ref: Ref, spec: AnySpec) -> set[Ref]:
    """What an entry refers to, itself included: what `load_some` has to find so that it can be checked."""
    out = {ref}
    if ref.tenant:
        out.add(Ref("tenant", ref.tenant, ref.tenant))
    if isinstance(spec, PrincipalSpec):
        out |= {Ref("team", ref.tenant, t) for t in spec.teams}
        out |= {Ref("principal", ref.tenant, p) for p in spec.may_act_for if p != "*"}
    elif isinstance(spec, KeySpec | RoleSpec):
        out.add(Ref("principal", ref.tenant or PLATFORM, spec.principal))
    elif isinstance(spec, IssuerSpec):
        out |= {Ref("team", ref.tenant, t) for t in spec.group_teams.values()}
    elif isinstance(spec, SourceSpec):
        out |= {Ref("tenant", t, t) for t in (spec.tenant, *spec.granted_to, *spec.shares) if t not in ("", "*")}
    elif isinstance(spec, BudgetSpec):
        if spec.team:
            out.add(Ref("team", ref.tenant, spec.team))
        if spec.principal:
            out.add(Ref("principal", ref.tenant, spec.principal))
    elif isinstance(spec, AliasSpec):
        out |= {Ref("source", "", name) for _, name in alias_sources(spec)}
    return out


def document(entries: dict[Ref, Entry]) -> Document:
    """Entries as one document, in name order, policies written in one way: applying it changes nothing."""
    by_place: dict[tuple[Kind, str], list[Any]] = {}
    for ref in sorted(entries):
        spec = entries[ref].spec
        if isinstance(spec, PolicySpec) and spec.cedar:
            spec = msgspec.structs.replace(spec, cedar=canonical(spec.cedar))
        by_place.setdefault((ref.kind, ref.tenant), []).append(spec)

    def of(kind: Kind, tenant: str, _type: type[_V]) -> tuple[_V, ...]:
        return tuple(by_place.get((kind, tenant), ()))

    names = [ref.name for ref in sorted(entries) if ref.kind == "tenant"]
    return Document(
        tenants=tuple(
            msgspec.structs.replace(
                of("tenant", name, TenantSpec)[0],
                teams=of("team", name, TeamSpec),
                principals=of("principal", name, PrincipalSpec),
                keys=of("key", name, KeySpec),
                policies=of("policy", name, PolicySpec),
                aliases=of("alias", name, AliasSpec),
                budgets=of("budget", name, BudgetSpec),
                issuers=of("issuer", name, IssuerSpec),
                roles=of("role", name, RoleSpec),
                alerts=of("alert", name, AlertSpec),
            )
            for name in names
        ),
        sources=of("source", "", SourceSpec),
        policies=of("policy", "", PolicySpec),
        aliases=of("alias", "", AliasSpec),
        alerts=of("alert", "", AlertSpec),
    )
