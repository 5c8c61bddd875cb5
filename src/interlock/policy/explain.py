"""Why a caller may or may not send a request to an offer: every rule, and what became of it.

The decision itself comes from the engine. Each rule is then put to Cedar again in parts (its scope, then each of its
conditions), so that what is said of a rule is Cedar's own answer and not a second interpretation of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import cedarpy
import msgspec

from interlock.policy.engine import Asker, PolicyEngine, Problem, contexts_of, evaluate
from interlock.policy.entities import uid
from interlock.policy.schema import ACTIONS, INFER
from interlock.policy.slices import statement_json
from interlock.types.decision import Reason
from interlock.types.identity import Caller, Principal
from interlock.types.request import Features
from interlock.types.source import Offer

_ALL = {"op": "All"}


class RuleOutcome(msgspec.Struct, frozen=True):
    """What became of one rule for one caller, action and offer.

    `state`: "applies", "other_principal", "other_action", "other_resource", "condition" (one does not hold) or
    "error". `words` say it in one sentence, `detail` is the condition or the error.
    """

    policy_id: str
    effect: str
    state: str
    words: str
    detail: str = ""


class Check(msgspec.Struct, frozen=True):
    """One question put to the policies: may this party do this action on the offer?"""

    party: str
    action: str
    permitted: bool
    words: str
    rules: tuple[RuleOutcome, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """The decision for one offer, and the checks that it is made of: every one must be permitted."""

    offer: str
    permitted: bool
    reason: Reason
    checks: tuple[Check, ...] = ()

    def lines(self) -> list[str]:
        """For people to read: the decision, then each check with its rules, the ones that decided first."""
        told = [f"{'PERMIT' if self.permitted else 'DENY'} {self.offer}: {self.reason.words}."]
        for check in self.checks:
            told.append(f"  {'permit' if check.permitted else 'deny'} {check.action}: {check.words}.")
            told += [f"    {'>' if rule.state == 'applies' else ' '} {rule.words}." for rule in check.rules]
        return told


def explain(
    engine: PolicyEngine, caller: Caller, features: Features, offers: Sequence[Offer], wall_ns: int = 0
) -> list[Explanation]:
    """An explanation for each offer that the caller's tenant can know of, in the order given, of a call at `wall_ns`
    (Unix nanoseconds)."""
    authorization = engine.authorize(caller, features, offers, wall_ns)
    reasons = {reason.offer: reason for reason in (*authorization.permits, *authorization.denials)}
    allowed = frozenset(authorization.allowed)
    found = []
    for offer in offers:
        reason = reasons.get(offer.key)
        if reason is None or (offer.source.tenant_id and offer.source.tenant_id != caller.principal.tenant_id):
            continue
        checks: tuple[Check, ...] = ()
        if reason.stage == "policy" and reason.code in ("permitted", "forbidden", "no_permit", "policy_error"):
            checks = tuple(_checks(engine, caller, features, offer, wall_ns))
        found.append(Explanation(offer.key, offer.key in allowed, reason, checks))
    return found


def _checks(engine: PolicyEngine, caller: Caller, features: Features, offer: Offer, wall_ns: int) -> list[Check]:
    parties: list[Principal] = [caller.principal]
    if caller.delegator is not None:
        parties.append(caller.delegator)
    call = {
        "data_class": int(features.data_class),
        "operation": features.operation,
        "delegated": caller.delegator is not None,
    }
    measured = engine.measures(caller.principal.tenant_id, features, (offer,), wall_ns)
    context = contexts_of(call, (offer,), measured)[offer.key]
    found = []
    for party in parties:
        asker = engine.asker(party)
        for action in dict.fromkeys((INFER, *features.actions)):
            if isinstance(asker, Problem) or action not in ACTIONS:
                words = asker.words if isinstance(asker, Problem) else f"unknown action {action}"
                found.append(Check(f'{party.kind.value} "{party.name}"', action, False, words))
                continue
            outcome = evaluate(asker, [(action, offer, context)])[0]
            rules = _rules(engine, party, asker, action, offer, context)
            found.append(Check(asker.who, action, not outcome.code, outcome.words, tuple(rules)))
    return found


def _rules(
    engine: PolicyEngine, party: Principal, asker: Asker, action: str, offer: Offer, context: str
) -> list[RuleOutcome]:
    """Every rule of the tenant, the ones that apply first, then in the order of the policy list."""
    part = engine.slice(party.tenant_id)
    if isinstance(part, Problem):
        return []
    told = []
    for rule in part.index.rules:
        form = statement_json(rule.cedar)
        state, detail = _state(form, asker, action, offer, context)
        says = f" ({rule.policy.words})" if rule.policy.words else ""
        words = f"{rule.policy.id}{says} {_STATE_WORDS[state].format(effect=_EFFECTS[rule.effect], detail=detail)}"
        told.append(RuleOutcome(rule.policy.id, rule.effect, state, words, detail))
    return sorted(told, key=lambda r: r.state not in ("applies", "error"))


_EFFECTS = {"permit": "permits", "forbid": "forbids"}
_STATE_WORDS = {
    "applies": "{effect} it",
    "other_principal": "does not concern this caller",
    "other_action": "is not about this action",
    "other_resource": "is not about this offer",
    "condition": "does not apply, because this does not hold: {detail}",
    "error": "could not be evaluated: {detail}",
}


def _state(form: dict[str, Any], asker: Asker, action: str, offer: Offer, context: str) -> tuple[str, str]:
    request = {
        "principal": asker.uid,
        "action": uid("Action", action),
        "resource": uid("Offer", offer.key),
        "context": context,
    }

    def holds(**parts: object) -> tuple[bool, str]:
        """Whether a permit with only these parts of the statement would permit, and the error if there was one."""
        bare = {"effect": "permit", "principal": _ALL, "action": _ALL, "resource": _ALL, "conditions": [], **parts}
        document = {"staticPolicies": {"p": bare}, "templates": {}, "templateLinks": []}
        policies = cedarpy.PolicySet.from_json_str(json.dumps(document))
        result = cedarpy.is_authorized(request, policies, asker.entities)
        return result.allowed, next(iter(result.diagnostics.errors), "")

    for name in ("principal", "action", "resource"):
        if not holds(**{name: form[name]})[0]:
            return f"other_{name}", ""
    for condition in form.get("conditions", []):
        held, error = holds(conditions=[condition])
        if error:
            return "error", error.replace("error while evaluating policy `p`: ", "")
        if not held:
            return "condition", _condition_text(condition)
    return "applies", ""


def _condition_text(condition: dict[str, Any]) -> str:
    """`when { ... }` or `unless { ... }` as Cedar text on one line."""
    bare = {"effect": "permit", "principal": _ALL, "action": _ALL, "resource": _ALL, "conditions": [condition]}
    document = {"staticPolicies": {"p": bare}, "templates": {}, "templateLinks": []}
    text = " ".join(cedarpy.policies_from_json_str(json.dumps(document)).split())
    begin = text.find(condition["kind"])
    return text[begin:].rstrip("; ")
