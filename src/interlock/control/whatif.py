"""What other policies would decide: for every caller, offer and data class, and for calls that were really made.

Both sides are decided by the engine that gateways run, on what is stored now; only the policies differ. A logged call
is put to both with its recorded features, and with its caller as it is now where it is declared, else as recorded: what
activation would do to the same call.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from interlock.control.replay import Decided, caller_of
from interlock.metering.cost import bound_nusd
from interlock.policy.engine import OPERATIONS, PolicyEngine
from interlock.policy.entities import offer_key
from interlock.policy.schema import FIELD_ACTIONS
from interlock.policy.trial import differing, outcome
from interlock.routing.catalog import Catalog, offers_of
from interlock.storage import aliases, policies, principals, sources, teams, tenants
from interlock.types.decision import Authorization, Reason
from interlock.types.identity import Caller, DataClass, Principal, PrincipalKind, Team, Tenant
from interlock.types.request import Features
from interlock.types.snapshot import Alias, PolicyText
from interlock.types.source import Offer, Source

_PAGE = 1000
_REMEMBERED = 65_536


class CellChange(msgspec.Struct, frozen=True):
    """A decision that would come out otherwise. `action`: "infer", or what a field of the request asks besides.
    `becomes`: "denied" or "permitted"; `why`: the reason there would be. `alike`: for how many callers, this one
    included: those of the same kind and teams whom no policy names."""

    tenant: str
    principal: str
    acting_for: str
    offer: str
    operation: str
    data_class: str
    action: str
    becomes: str
    why: str
    policy_ids: tuple[str, ...]
    alike: int = 1


class CallChange(msgspec.Struct, frozen=True):
    """A logged call that would be decided otherwise. `becomes`: "denied", "permitted", or "other": another set of
    offers. `before`, `after`: the offers it may go to. `why`: the reasons against what is lost, or for what is won. Of
    callers that are not declared only the ids are told, and no reasons, which name them."""

    request: str
    at_ns: int
    tenant: str
    principal: str
    acting_for: str
    model: str
    becomes: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    why: tuple[str, ...]
    policy_ids: tuple[str, ...]


class Matrix(msgspec.Struct, frozen=True):
    """`cells` decisions were compared; `whole` is false when there were more. `denied`, `permitted`: how many would
    come out so instead; `examples` of them."""

    cells: int
    whole: bool
    denied: int
    permitted: int
    examples: tuple[CellChange, ...]


class Traffic(msgspec.Struct, frozen=True):
    """`calls` logged ones were compared; `whole` is false when the period has more, older ones. `undecided`: were
    refused before anything was decided; `unknown`: their features were erased. `by`: changed calls by caller."""

    calls: int
    whole: bool
    undecided: int
    unknown: int
    same: int
    denied: int
    permitted: int
    other: int
    by: dict[str, int]
    examples: tuple[CallChange, ...]


class WhatIf(msgspec.Struct, frozen=True):
    """What would change. `policies`: (id, "create", "update" or "delete") of what is proposed."""

    policies: tuple[tuple[str, str], ...]
    matrix: Matrix
    traffic: Traffic


class Ground(msgspec.Struct, frozen=True):
    """What decisions are made from besides the policies that are compared. `principals` by id. `now_ns`: Unix."""

    tenants: tuple[Tenant, ...]
    teams: tuple[Team, ...]
    sources: tuple[Source, ...]
    aliases: tuple[Alias, ...]
    policies: tuple[PolicyText, ...]
    principals: dict[str, Principal]
    now_ns: int

    def engine(self, policies: Iterable[PolicyText]) -> PolicyEngine:
        """An engine with these policies."""
        return PolicyEngine(tuple(policies), self.tenants, self.teams, self.sources, _REMEMBERED, bound=bound_nusd)

    def with_policies(self, tenant_id: str, proposed: Iterable[PolicyText]) -> PolicyEngine:
        """An engine in which these take the place of the policies of a tenant ("": of the platform)."""
        return self.engine((*(p for p in self.policies if p.tenant_id != tenant_id), *proposed))


def ground(conn: Any, tenant_id: str, now_ns: int) -> Ground:
    """What is stored now. The callers of one tenant, or of all for ""."""
    found: dict[str, Principal] = {}
    after = ""
    while True:
        page = principals.page(conn, tenant_id=tenant_id or None, after=after, limit=_PAGE)
        found |= {stored.value.id: stored.value for stored in page}
        if len(page) < _PAGE:
            break
        after = page[-1].value.id
    return Ground(
        tuple(tenants.everything(conn)),
        tuple(teams.everything(conn)),
        tuple(sources.everything(conn)),
        tuple(aliases.everything(conn)),
        tuple(policies.everything(conn)),
        found,
        now_ns,
    )


# -- everybody


def matrix(there: Ground, now: PolicyEngine, then: PolicyEngine, *, cells_max: int, examples_max: int) -> Matrix:
    """Compare the two for every caller, every offer of its tenant, every data class and every action. At most
    `cells_max` decisions are made; callers that no policy can tell apart are decided once and counted each."""
    names = {tenant.id: tenant.name for tenant in there.tenants}
    cells = made = 0
    counts: Counter[str] = Counter()
    examples: list[CellChange] = []
    alike = Alike((*now.policies, *then.policies))
    for caller, offers, features, action, many in _cells(there, now, alike):
        if made + len(offers) > cells_max:
            return Matrix(cells, False, counts["denied"], counts["permitted"], tuple(examples))
        made += len(offers)
        cells += len(offers) * many
        before = now.authorize(caller, features, offers, there.now_ns)
        after = then.authorize(caller, features, offers, there.now_ns)
        if before.allowed == after.allowed:
            continue
        changed = set(before.allowed) ^ set(after.allowed)
        for reason in (*after.permits, *after.denials):
            if reason.offer not in changed:
                continue
            becomes = "permitted" if reason.offer in after.allowed else "denied"
            counts[becomes] += many
            if len(examples) < examples_max:
                examples.append(_cell(names, caller, features, action, becomes, reason, many))
    return Matrix(cells, True, counts["denied"], counts["permitted"], tuple(examples))


def _cell(
    names: dict[str, str], caller: Caller, features: Features, action: str, becomes: str, reason: Reason, many: int
) -> CellChange:
    return CellChange(
        names.get(caller.principal.tenant_id, ""),
        caller.principal.name,
        caller.delegator.name if caller.delegator is not None else "",
        reason.offer,
        features.operation,
        features.data_class.name,
        action,
        becomes,
        reason.words,
        reason.policy_ids,
        many,
    )


class Alike:
    """Which callers no policy can tell apart: of one tenant, kind and set of teams, and named by none.

    A policy knows a caller by its teams, its kind, or its name: as a text in quotes, which has to be in the policy, or
    by comparing attributes (`principal.name`, `.tenant`, `has`) in other ways. Where one does that, nobody is alike.
    """

    def __init__(self, policies: Iterable[PolicyText]) -> None:
        texts = [policy.cedar for policy in policies]
        self._all = "\n".join(texts)
        self._never = any(_BY_ATTRIBUTE.search(text) for text in texts) or "\\" in self._all

    def key(self, principal: Principal) -> tuple[object, ...]:
        """The same for callers that are alike."""
        named = self._never or f'"{principal.name}"' in self._all
        who = principal.id if named else ""
        return principal.tenant_id, principal.kind, frozenset(principal.team_ids), who, principal.may_act_for

    def groups(self, principals: Iterable[Principal]) -> list[tuple[Principal, int]]:
        """One of each group, and how many they are."""
        found: dict[tuple[object, ...], list[Principal]] = {}
        for principal in principals:
            found.setdefault(self.key(principal), []).append(principal)
        return [(group[0], len(group)) for group in found.values()]


_BY_ATTRIBUTE = re.compile(r"(?:principal|\))\s*(?:\.|\[|has\b)|\bprincipal\s*[=!]=(?!\s*(?:User|Service|Agent)\s*::)")


def _cells(
    there: Ground, engine: PolicyEngine, alike: Alike
) -> Iterator[tuple[Caller, tuple[Offer, ...], Features, str, int]]:
    """Callers with the offers that they are asked about, as many cells as there are offers, for as many callers."""
    offers = [Offer(s, m, offer_key(s.name, m.name)) for s in there.sources for m in s.models]
    active = sorted((p for p in there.principals.values() if p.active), key=lambda p: p.id)
    seen = {
        tenant.id: _by_operation(o for o in offers if engine.visible(tenant.id, o.source)) for tenant in there.tenants
    }
    # the plain question of everybody comes before any field that asks for more
    for action in ("infer", *FIELD_ACTIONS):
        actions = () if action == "infer" else (action,)
        for principal, many in alike.groups(active):
            parties: list[tuple[Principal | None, int]] = [(None, 1), *alike.groups(_delegators(principal, active))]
            for (delegator, others), data_class in itertools.product(parties, DataClass):
                for operation, asked in seen.get(principal.tenant_id, {}).items():
                    features = Features(operation, "", data_class, actions=actions)
                    yield _caller(principal, delegator, data_class), asked, features, action, many * others


def _by_operation(offers: Iterable[Offer]) -> dict[str, tuple[Offer, ...]]:
    """Offers by the first operation that their model can do."""
    found: dict[str, list[Offer]] = {}
    for offer in offers:
        operation = next((o for o in OPERATIONS if o in offer.model.abilities), OPERATIONS[0])
        found.setdefault(operation, []).append(offer)
    return {operation: tuple(group) for operation, group in found.items()}


def _delegators(principal: Principal, active: list[Principal]) -> list[Principal]:
    """Whom an agent may act for."""
    if principal.kind is not PrincipalKind.agent:
        return []
    return [
        each
        for each in active
        if each.tenant_id == principal.tenant_id
        and each.kind is not PrincipalKind.agent
        and ("*" in principal.may_act_for or each.id in principal.may_act_for)
    ]


def _caller(principal: Principal, delegator: Principal | None, data_class: DataClass) -> Caller:
    return Caller(
        principal=principal, auth_method="", credential_id="", scopes=(), data_class=data_class, delegator=delegator
    )


# -- calls that were made


class Comparison:
    """Adds up logged calls, one by one."""

    def __init__(self, there: Ground, now: PolicyEngine, then: PolicyEngine, examples_max: int) -> None:
        self._there = there
        self._now = now
        self._then = then
        self._examples_max = examples_max
        self._offers = offers_of(there.sources)
        self._catalogs: dict[str, Catalog] = {}
        self._names = {tenant.id: tenant.name for tenant in there.tenants}
        self._counts: Counter[str] = Counter()
        self._by: Counter[str] = Counter()
        self._examples: list[CallChange] = []

    def add(self, request: str, record: Decided | None) -> None:
        """One call; None when what it was decided on is gone."""
        self._counts["calls"] += 1
        if record is None:
            self._counts["unknown"] += 1
            return
        if record.features is None or record.target is None or not record.parties:
            self._counts["undecided"] += 1
            return
        caller = self._caller(record)
        catalog = self._catalogs.get(record.tenant_id)
        if catalog is None:
            catalog = Catalog(record.tenant_id, self._offers, self._there.aliases)
            self._catalogs[record.tenant_id] = catalog
        offers = catalog.offers_for(record.target)
        before = self._now.authorize(caller, record.features, offers, record.wall_ns)
        after = self._then.authorize(caller, record.features, offers, record.wall_ns)
        becomes = outcome(before, after)
        self._counts[becomes] += 1
        if becomes == "same":
            return
        self._by[" for ".join(filter(None, told_as(record, self._there.principals)[:2]))] += 1
        if len(self._examples) < self._examples_max:
            self._examples.append(self._example(request, record, becomes, before, after))

    def result(self, *, whole: bool) -> Traffic:
        """What was found. `whole`: every call of the period was added."""
        c = self._counts
        return Traffic(
            c["calls"],
            whole,
            c["undecided"],
            c["unknown"],
            c["same"],
            c["denied"],
            c["permitted"],
            c["other"],
            dict(self._by.most_common()),
            tuple(self._examples),
        )

    def _caller(self, record: Decided) -> Caller:
        recorded = caller_of(record)
        known = self._there.principals
        delegator = recorded.delegator
        return msgspec.structs.replace(
            recorded,
            principal=known.get(recorded.principal.id, recorded.principal),
            delegator=known.get(delegator.id, delegator) if delegator is not None else None,
        )

    def _example(
        self,
        request: str,
        record: Decided,
        becomes: str,
        before: Authorization,
        after: Authorization,
    ) -> CallChange:
        reasons = differing(before, after)
        who, for_whom, named = told_as(record, self._there.principals)
        return CallChange(
            request,
            record.wall_ns,
            self._names.get(record.tenant_id, record.tenant_id),
            who,
            for_whom,
            record.features.asked if record.features is not None else "",
            becomes,
            before.allowed,
            after.allowed,
            tuple(dict.fromkeys(r.words for r in reasons)) if named else (),
            tuple(dict.fromkeys(i for r in reasons for i in r.policy_ids)),
        )


def told_as(record: Decided, known: Mapping[str, Principal]) -> tuple[str, str, bool]:
    """(who called, for whom, whether both are declared). The names of others are contents of the ledger, as are reasons
    that name them: of these only the ids are told."""
    who, for_whom = known.get(record.principal_id), known.get(record.delegator_id)
    named = who is not None and (for_whom is not None or not record.delegator_id)
    return (
        who.name if who is not None else record.principal_id,
        for_whom.name if for_whom is not None else record.delegator_id,
        named,
    )


Read = Callable[[int, int], list[tuple[int, str, Decided | None]]]
"""(before, limit) -> (place, request, record) of calls, newest first; `before`: a place, 0 from the newest."""


class Adding(Protocol):
    """What adds calls up."""

    def add(self, request: str, record: Decided | None) -> None:
        """One call; None when what was recorded of it is gone."""


def compare(into: Adding, read: Read, calls_max: int) -> bool:
    """Add calls, newest first, at most `calls_max`. Returns whether these were all."""
    before = seen = 0
    while seen < calls_max:
        found = read(before, min(_PAGE, calls_max - seen))
        if not found:
            return True
        for position, request, record in found:
            into.add(request, record)
            before = position
        if before == 0:
            return True
        seen += len(found)
    return not read(before, 1)
