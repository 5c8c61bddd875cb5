"""The decision: which offers may a caller's request go to, and why not to the others.

Order of the questions, for each offer: may the tenant know of the source (grant), does Cedar permit every action that
the request asks for, to the caller and, in a delegated call, to the one it acts for as well.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import cedarpy
import msgspec

from interlock.errors import ConfigError
from interlock.policy.cache import Generations
from interlock.policy.entities import Uid, principal_entity, principal_uid, tenant_entities, uid
from interlock.policy.measured import COST, TIME, WEEK, Measured, every, read_by, stands_for, week_minute
from interlock.policy.schema import (
    ACTION_WORDS,
    ACTIONS,
    BASE_CEDAR,
    BASE_ID,
    BASE_WORDS,
    INFER,
    SCHEMA_TEXT,
    schema,
)
from interlock.policy.slices import Rule, RuleIndex, parse, policy_set, position
from interlock.types.decision import Authorization, Reason
from interlock.types.identity import Caller, DataClass, Principal, Team, Tenant
from interlock.types.request import Features
from interlock.types.snapshot import PolicyText
from interlock.types.source import Offer, Source

CACHE_MAX = 65_536
SLICES_MAX = 256
ASKERS_MAX = 1024
"""What an engine keeps when nobody says otherwise; workers take theirs from the settings."""

TIMES_MAX = 64
"""Most times that are tried to find out whether a caller may know of an offer."""
COST_UNKNOWN = 2**63 - 1
Bound = Callable[[Offer, int, int], int]
"""The most that a call may cost at an offer, in nano-USD, from its bounds of prompt and completion tokens."""

OPERATIONS = ("chat", "completions", "embeddings", "rerank", "score")
BASE_POLICY = PolicyText(id=BASE_ID, cedar=BASE_CEDAR, words=BASE_WORDS)

_CEDAR_VERSION = importlib.metadata.version("cedarpy")
_CEDAR_ID = re.compile(r"policy(\d+)")


def cost_unknown(_offer: Offer, _prompt: int, _completion: int) -> int:
    """For an engine that was not told what calls cost: no call is below any ceiling."""
    return COST_UNKNOWN


class Ruling(NamedTuple):
    """A decision with the offers themselves beside their keys, in the order they were asked in."""

    authorization: Authorization
    offers: tuple[Offer, ...]


class Outcome(NamedTuple):
    """What Cedar says to one caller, one action and one offer. `code` is "" when it permits.

    `policy_ids` are the determining policies in the order of the policy list.
    """

    code: str
    words: str
    policy_ids: tuple[str, ...]


class Problem(NamedTuple):
    """Why nothing can be decided for a caller, so that everything is denied."""

    code: str
    words: str


class Asker(NamedTuple):
    """A caller ready to be decided on: its slice of the policies, and its place in the entity graph."""

    serial: int
    uid: Uid
    who: str
    rules: tuple[Rule, ...]
    policies: cedarpy.PolicySet
    entities: cedarpy.Entities


class _Remembered(NamedTuple):
    """A ruling and the objects its key was made of: while they are held, no other object has their identity."""

    ruling: Ruling
    principal: Principal
    delegator: Principal | None
    offers: Sequence[Offer]
    data_class: DataClass


class TenantSlice:
    """What all callers of one tenant share. Raises ConfigError when a policy or entity cannot be taken."""

    def __init__(
        self,
        tenant: Tenant,
        teams: Iterable[Team],
        sources: Iterable[Source],
        policies: Iterable[PolicyText],
        sets_max: int = ASKERS_MAX,
    ) -> None:
        self.tenant = tenant
        self.teams = {team.id: team for team in teams}
        named: dict[str, list[Source]] = {}
        for source in sources:
            named.setdefault(source.name, []).append(source)
        self.sources = {name: found[0] for name, found in named.items() if len(found) == 1}
        self.ambiguous = frozenset(name for name, found in named.items() if len(found) > 1)
        self.offers = frozenset((name, m.name) for name, source in self.sources.items() for m in source.models)
        self.index = RuleIndex([rule for policy in policies for rule in parse(policy)])
        read: dict[str, set[int]] = {}
        for rule in self.index.rules:
            for name, numbers in rule.thresholds:
                read.setdefault(name, set()).update(numbers)
        self.thresholds = {name: tuple(sorted(numbers)) for name, numbers in read.items()}
        """What policies compare of cost and time."""
        base = tenant_entities(tenant, self.teams.values(), self.sources.values())
        try:
            self.entities = cedarpy.Entities.from_json_str(json.dumps(base), schema())
        except ValueError as e:
            raise ConfigError(f"tenant {tenant.name}: its teams and sources do not fit the schema: {e}") from None
        self._sets: Generations[tuple[int, ...], cedarpy.PolicySet] = Generations(sets_max)

    def asker(self, serial: int, principal: Principal) -> Asker | Problem:
        """The caller's slice, or why there is none."""
        unknown = [t for t in principal.team_ids if t not in self.teams]
        who = f'{principal.kind.value} "{principal.name}"'
        if unknown:
            return Problem("unknown_team", f"{who} is in a team that does not exist: {unknown[0]}")
        names = [self.teams[t].name for t in principal.team_ids]
        own = principal_uid(principal)
        groups = [("Tenant", self.tenant.name), *(("Team", name) for name in names)]
        indices = self.index.concerning((own["type"], own["id"]), groups)
        policies = self._sets.get(indices)
        rules = tuple(self.index.rules[i] for i in indices)
        try:
            if policies is None:
                policies = policy_set(rules)
                self._sets.put(indices, policies)
            entity = principal_entity(principal, self.tenant, names)
            entities = self.entities.with_added_json_str(json.dumps([entity]))
        except ValueError as e:
            return Problem("policy_error", f"{who} cannot be put to the policies: {e}")
        return Asker(serial, own, who, rules, policies, entities)


class PolicyEngine:
    """Decides from one snapshot's policies, tenants, teams and sources. Immutable but for what it remembers.

    A new snapshot that changes any of the four needs a new engine; otherwise the old one should be kept, with what it
    remembers. Not for use by two threads at once. `cache_max`: decisions remembered, and as many of their parts.
    `tenants_max`: tenants whose policies and entities are kept parsed; the others are parsed again when they call.
    `callers_max`: callers whose entity graph is kept; only decisions that are not remembered need it. `bound`: what a
    call may cost, where a policy asks for it.
    """

    def __init__(
        self,
        policies: Sequence[PolicyText],
        tenants: Iterable[Tenant],
        teams: Iterable[Team],
        sources: Sequence[Source],
        cache_max: int = CACHE_MAX,
        *,
        tenants_max: int = SLICES_MAX,
        callers_max: int = ASKERS_MAX,
        bound: Bound = cost_unknown,
    ) -> None:
        self._policies = tuple(policies)
        self._bound = bound
        self._measured = any(read_by(policy.cedar) for policy in self._policies)
        self._tenants = {tenant.id: tenant for tenant in tenants}
        self._teams: dict[str, list[Team]] = {}
        for team in teams:
            self._teams.setdefault(team.tenant_id, []).append(team)
        self._sources = tuple(sources)
        self._rulings: Generations[tuple[object, ...], _Remembered] = Generations(cache_max)
        self._young = self._rulings.young
        self._outcomes: Generations[tuple[object, ...], Outcome] = Generations(cache_max)
        self._slices: Generations[str, TenantSlice | Problem] = Generations(tenants_max)
        self._askers: Generations[tuple[object, ...], Asker | Problem] = Generations(callers_max)
        self._callers_max = callers_max
        self._serial = 0
        self.decided = 0
        """Decisions that were not remembered, since the engine was made."""
        self.version = self._version()
        """Changes with anything but the caller and the request that a decision depends on. 16 bytes."""

    def _version(self) -> bytes:
        h = hashlib.blake2b(digest_size=16)
        encode = msgspec.msgpack.Encoder(order="deterministic").encode
        teams = [team for found in self._teams.values() for team in found]
        for part in (
            [SCHEMA_TEXT, BASE_CEDAR, _CEDAR_VERSION],
            sorted(map(encode, self._policies)),
            sorted(map(encode, self._tenants.values())),
            sorted(map(encode, teams)),
            sorted(map(encode, self._sources)),
        ):
            h.update(hashlib.sha256(encode(part)).digest())
        return h.digest()

    @property
    def policies(self) -> tuple[PolicyText, ...]:
        """The policies, without the base policy."""
        return self._policies

    # -- deciding

    def authorize(self, caller: Caller, features: Features, offers: Sequence[Offer], wall_ns: int = 0) -> Authorization:
        """The offers that this request may go to, with the reasons both ways. Same inputs, same answer.

        Looks at `features.operation`, `.actions` and `.data_class` only; where a policy asks for cost or time, also at
        the bounds of tokens and at `wall_ns`, the instant of the call in Unix nanoseconds. Offers of other tenants'
        sources are passed over in silence: nothing a tenant can read names them. Never raises: what cannot be decided
        is denied.
        """
        return self.rule(caller, features, offers, wall_ns).authorization

    def rule(self, caller: Caller, features: Features, offers: Sequence[Offer], wall_ns: int = 0) -> Ruling:
        """As `authorize`, with the allowed offers themselves. Remembered per tuple of offers: pass the same tuple."""
        principal = caller.principal
        delegator = caller.delegator
        # Identities stand for values here: every part is immutable and held by the entry, so an identity that is
        # found cannot have been given to something else.
        key: tuple[object, ...]
        key = (id(principal), id(delegator), id(offers), id(features.data_class), features.operation, features.actions)
        measured = None
        if self._measured:
            measured = self.measures(principal.tenant_id, features, offers, wall_ns)
            key = (*key, measured)
        found = self._young.get(key)
        if found is not None:
            return found.ruling
        remembered = self._rulings.get(key)
        if remembered is None:
            self.decided += 1
            ruling = self._decide(principal, delegator, features, offers, measured)
            remembered = _Remembered(ruling, principal, delegator, offers, features.data_class)
            if type(offers) is tuple:  # anything else could change and keep its identity
                self._rulings.put(key, remembered)
        return remembered.ruling

    def may_list(self, caller: Caller, offer: Offer) -> bool:
        """Whether the caller may know that this offer exists: it may call it with public data, in some operation, at
        some time."""
        operations = [o for o in OPERATIONS if o in offer.model.abilities] or OPERATIONS[:1]
        return any(
            self._decide(
                caller.principal,
                caller.delegator,
                Features(operation=operation, asked=offer.model.name, data_class=DataClass.public),
                (offer,),
                measured,
            ).offers
            for operation in operations
            for measured in self._whenever(caller.principal.tenant_id)
        )

    def measures(self, tenant_id: str, features: Features, offers: Sequence[Offer], wall_ns: int) -> Measured | None:
        """What decides of cost and time, None when no policy of the tenant asks."""
        found = self.slice(tenant_id)
        if isinstance(found, Problem) or not found.thresholds:
            return None
        asked = found.thresholds
        time_s = wall_ns // 1_000_000_000
        ceilings = asked.get(COST, ())
        prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
        return Measured(
            stands_for(time_s, asked.get(TIME, ())),
            stands_for(week_minute(time_s), asked.get(WEEK, ())),
            tuple(stands_for(self._bound(o, prompt, completion), ceilings) if ceilings else 0 for o in offers),
        )

    def _whenever(self, tenant_id: str) -> Iterable[Measured | None]:
        """A free call at different times: what is closed for now is no secret."""
        found = self.slice(tenant_id) if self._measured else None
        if not isinstance(found, TenantSlice) or not found.thresholds:
            return (None,)
        asked = found.thresholds
        free = (stands_for(0, asked.get(COST, ())),)
        times = itertools.product(every(asked.get(TIME, ())), every(asked.get(WEEK, ())))
        return (Measured(time_s, week, free) for time_s, week in itertools.islice(times, TIMES_MAX))

    def visible(self, tenant_id: str, source: Source) -> bool:
        """Whether a tenant may be given this source at all: its own, or the platform's with a grant."""
        if source.tenant_id:
            return source.tenant_id == tenant_id
        return tenant_id in source.granted_to or "*" in source.granted_to

    def check(self) -> None:
        """Parse everything now, for every tenant. Raises ConfigError for what calls would be denied for."""
        for tenant_id in self._tenants:
            found = self.slice(tenant_id)
            if isinstance(found, Problem) and found.code == "policy_error":
                raise ConfigError(found.words)

    def _decide(
        self,
        principal: Principal,
        delegator: Principal | None,
        features: Features,
        offers: Sequence[Offer],
        measured: Measured | None,
    ) -> Ruling:
        shown = [o for o in offers if not o.source.tenant_id or o.source.tenant_id == principal.tenant_id]
        problem = self._refused(principal, delegator, features)
        if problem is not None:
            denials = tuple(Reason(o.key, "policy", problem.code, problem.words) for o in shown)
            return Ruling(Authorization(allowed=(), denials=denials), ())
        reasons: dict[int, Reason] = {}
        open_offers: list[Offer] = []
        for offer in shown:
            reason = self._grant(principal.tenant_id, offer)
            if reason is None:
                open_offers.append(offer)
            else:
                reasons[id(offer)] = reason
        parties = (principal,) if delegator is None else (principal, delegator)
        context = {
            "data_class": int(features.data_class),
            "operation": features.operation,
            "delegated": delegator is not None,
        }
        contexts = contexts_of(context, offers, measured)
        told = [self._ask(p, features, open_offers, contexts) for p in parties]
        permits: list[Reason] = []
        allowed: list[Offer] = []
        for i, offer in enumerate(open_offers):
            outcomes = [outcome for party in told for outcome in party[i]]
            reason = _merge(offer, outcomes)
            if reason.code == "permitted":
                permits.append(reason)
                allowed.append(offer)
            else:
                reasons[id(offer)] = reason
        return Ruling(
            Authorization(
                allowed=tuple(o.key for o in allowed),
                permits=tuple(permits),
                denials=tuple(reasons[id(o)] for o in shown if id(o) in reasons),
            ),
            tuple(allowed),
        )

    def _refused(self, principal: Principal, delegator: Principal | None, features: Features) -> Problem | None:
        """A reason to deny whatever the offer is, or None."""
        for party in (principal, delegator):
            if party is None:
                continue
            if party.tenant_id != principal.tenant_id:
                return Problem("delegation_across_tenants", "caller and delegator are not in the same tenant")
            if not party.active:
                return Problem("principal_inactive", f'{party.kind.value} "{party.name}" is deactivated')
            found = self.slice(party.tenant_id)
            if isinstance(found, TenantSlice):
                asker = self.asker(party)
                found = asker if isinstance(asker, Problem) else found
            if isinstance(found, Problem):
                return found
        unknown = [a for a in features.actions if a not in ACTIONS]
        if unknown:
            return Problem("unknown_action", f"no policy can permit the unknown action {unknown[0]!r}")
        return None

    def _grant(self, tenant_id: str, offer: Offer) -> Reason | None:
        """Why the tenant cannot be given this offer, or None."""
        found = self.slice(tenant_id)
        if not self.visible(tenant_id, offer.source):
            return Reason(
                offer.key, "grant", "source_not_granted", f"source {offer.source.name} is not granted to this tenant"
            )
        if isinstance(found, Problem):
            return Reason(offer.key, "policy", found.code, found.words)
        name = offer.source.name
        if name in found.ambiguous:
            words = f"two sources that this tenant may use are called {name}: rename one"
            return Reason(offer.key, "grant", "source_name_ambiguous", words)
        known = found.sources.get(name)
        if known is None or (known is not offer.source and known != offer.source):
            return Reason(offer.key, "policy", "unknown_offer", f"source {name} is not the one the policies know")
        if (name, offer.model.name) not in found.offers:
            return Reason(offer.key, "policy", "unknown_offer", f"source {name} offers no model {offer.model.name}")
        return None

    def _ask(
        self, principal: Principal, features: Features, offers: Sequence[Offer], contexts: Mapping[str, str]
    ) -> list[list[Outcome]]:
        """Cedar's outcome for each offer and each action of the request, remembered singly. `contexts` by offer."""
        asker = self.asker(principal)
        if isinstance(asker, Problem):
            problem = Outcome(asker.code, asker.words, ())
            return [[problem] for _ in offers]
        actions = tuple(dict.fromkeys((INFER, *features.actions)))
        found: dict[tuple[object, ...], Outcome] = {}
        missing: list[tuple[str, Offer, str]] = []
        for offer in offers:
            context = contexts[offer.key]
            for action in actions:
                key: tuple[object, ...] = (asker.serial, offer.key, action, context)
                outcome = self._outcomes.get(key)
                if outcome is None:
                    missing.append((action, offer, context))
                else:
                    found[key] = outcome
        if missing:
            for (action, offer, context), outcome in zip(missing, evaluate(asker, missing), strict=True):
                put = (asker.serial, offer.key, action, context)
                found[put] = outcome
                self._outcomes.put(put, outcome)
        return [[found[asker.serial, offer.key, action, contexts[offer.key]] for action in actions] for offer in offers]

    # -- what decisions are made from

    def slice(self, tenant_id: str) -> TenantSlice | Problem:
        """The tenant's policies and entities, parsed at its first call; or why its calls are all denied."""
        found = self._slices.get(tenant_id)
        if found is None:
            found = self._slice(tenant_id)
            self._slices.put(tenant_id, found)
        return found

    def _slice(self, tenant_id: str) -> TenantSlice | Problem:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return Problem("unknown_tenant", "the caller's tenant does not exist")
        if not tenant.active:
            return Problem("tenant_inactive", f"tenant {tenant.name} is deactivated")
        policies = [BASE_POLICY, *(p for p in self._policies if p.tenant_id in ("", tenant_id))]
        sources = [s for s in self._sources if self.visible(tenant_id, s)]
        try:
            return TenantSlice(tenant, self._teams.get(tenant_id, ()), sources, policies, self._callers_max)
        except ConfigError as e:
            return Problem("policy_error", e.message)

    def asker(self, principal: Principal) -> Asker | Problem:
        """The caller within its tenant's slice; or why its calls are all denied."""
        # Everything of the principal that Cedar sees. Its limits may change without another decision.
        key = (principal.tenant_id, principal.kind, principal.name, principal.team_ids)
        found = self._askers.get(key)
        if found is None:
            part = self.slice(principal.tenant_id)
            self._serial += 1
            found = part if isinstance(part, Problem) else part.asker(self._serial, principal)
            self._askers.put(key, found)
        return found


def contexts_of(context: Mapping[str, object], offers: Sequence[Offer], measured: Measured | None) -> dict[str, str]:
    """The call as JSON for each offer, by its key."""
    if measured is None:
        return dict.fromkeys((offer.key for offer in offers), json.dumps(context))
    when = {**context, TIME: measured.time_s, WEEK: measured.week_minute}
    costs = {cost: json.dumps({**when, COST: cost}) for cost in set(measured.costs)}
    return {offer.key: costs[cost] for offer, cost in zip(offers, measured.costs, strict=True)}


def evaluate(asker: Asker, asked: Sequence[tuple[str, Offer, str]]) -> list[Outcome]:
    """Cedar's outcome for each (action, offer, context): the last is the call as JSON.

    INVARIANT: a policy that could not be evaluated denies. Cedar itself would leave it out, and with it a forbid.
    """
    requests = [
        {
            "principal": asker.uid,
            "action": uid("Action", action),
            "resource": uid("Offer", offer.key),
            "context": context,
        }
        for action, offer, context in asked
    ]
    try:
        results = cedarpy.is_authorized_batch(requests, asker.policies, asker.entities)
    except ValueError as e:
        return [Outcome("policy_error", f"the policies could not be evaluated: {e}", ()) for _ in asked]
    return [_outcome(asker, action, offer, r) for (action, offer, _), r in zip(asked, results, strict=True)]


def _outcome(asker: Asker, action: str, offer: Offer, result: cedarpy.AuthzResult) -> Outcome:
    verb = ACTION_WORDS[action]
    errors = result.diagnostics.errors
    if errors:
        at_fault = {int(n) for n in _CEDAR_ID.findall(errors[0])}
        ids = tuple(dict.fromkeys(asker.rules[n].policy.id for n in sorted(at_fault) if n < len(asker.rules)))
        named = _CEDAR_ID.sub(lambda m: _named(asker, int(m[1])), errors[0])
        return Outcome("policy_error", f"denied because a policy could not be evaluated: {named}", ids)
    rules = [asker.rules[n] for n in sorted(position(reason) for reason in result.diagnostics.reasons)]
    ids = tuple(dict.fromkeys(rule.policy.id for rule in rules))
    if result.decision is cedarpy.Decision.Allow:
        return Outcome("", f"{asker.who} may {verb} {offer.key} by {_policies(rules)}", ids)
    if ids:
        return Outcome("forbidden", f"{asker.who} may not {verb} {offer.key}: forbidden by {_policies(rules)}", ids)
    return Outcome("no_permit", f"{asker.who} may not {verb} {offer.key}: no policy permits it", ())


def _named(asker: Asker, place: int) -> str:
    return asker.rules[place].policy.id if place < len(asker.rules) else f"policy{place}"


def _policies(rules: Iterable[Rule]) -> str:
    """Policies in words: `eu-only (calls stay in region eu)`."""
    told = {
        rule.policy.id: f"{rule.policy.id} ({rule.policy.words})" if rule.policy.words else rule.policy.id
        for rule in rules
    }
    return ", ".join(told.values())


_GRAVITY = ("policy_error", "forbidden")


def _merge(offer: Offer, outcomes: Sequence[Outcome]) -> Reason:
    """One reason of all actions and parties: permitted only when every one is."""
    against = [o for o in outcomes if o.code]
    counted = against or outcomes
    codes = {o.code for o in against}
    code = next((c for c in _GRAVITY if c in codes), against[0].code if against else "permitted")
    words = "; ".join(dict.fromkeys(o.words for o in counted))
    ids = tuple(dict.fromkeys(i for o in counted for i in o.policy_ids))
    return Reason(offer.key, "policy", code, words, ids)
