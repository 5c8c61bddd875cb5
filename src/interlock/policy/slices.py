"""Which policies can concern a caller at all, so that a decision looks at few of many.

A statement's principal scope names whom it can apply to: everyone, one principal, the members of a team or tenant, or
a kind. A statement whose scope cannot match a caller never determines its decision, so leaving it out changes nothing.

INVARIANT: a slice holds every statement whose principal scope matches the caller. Leaving one out could lose a forbid.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cedarpy

from interlock.errors import ConfigError
from interlock.policy.measured import read_by, thresholds
from interlock.policy.text import TextError, place, statements
from interlock.types.snapshot import PolicyText


class Rule(NamedTuple):
    """One statement of an active policy.

    `who_type`, `who_id`: the entity that a caller must be or be in, or "" for anyone. `kind`: the entity type a
    caller must have, or "". `exact`: the caller must be that entity, membership does not do.
    """

    policy: PolicyText
    cedar: str
    effect: str
    who_type: str
    who_id: str
    exact: bool
    kind: str
    thresholds: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """What it compares of cost and time; see `measured`."""


PARSED_MAX = 4096
"""Most policies whose statements are kept parsed, so that a change of one policy does not parse the others again."""


@functools.lru_cache(maxsize=PARSED_MAX)
def parse(policy: PolicyText) -> tuple[Rule, ...]:
    """The statements of an active policy. Raises ConfigError naming the policy when its text is not Cedar."""
    try:
        return tuple(_rule(policy, part.text) for part in statements(policy.cedar))
    except TextError as e:
        line, column = place(policy.cedar, e.offset)
        raise ConfigError(f"policy {policy.id}, line {line}, column {column}: {e.message}", param=policy.id) from None
    except ValueError as e:
        raise ConfigError(f"policy {policy.id} cannot be parsed: {e}", param=policy.id) from None


def statement_json(cedar: str) -> dict[str, Any]:
    """One statement in Cedar's JSON policy format. Raises ValueError when the text is not exactly one static policy."""
    found: dict[str, dict[str, Any]] = json.loads(cedarpy.policies_to_json_str(cedar))["staticPolicies"]
    if len(found) != 1:
        raise ValueError("not one policy statement (template slots are not allowed)")
    return next(iter(found.values()))


def _rule(policy: PolicyText, cedar: str) -> Rule:
    form = statement_json(cedar)
    scope = form["principal"]
    kind, exact, who = "", False, None
    match scope["op"]:
        case "All":
            pass
        case "==":
            who, exact = scope["entity"], True
        case "in":
            who = scope["entity"]
        case "is":
            kind = scope["entity_type"]
            who = scope["in"]["entity"] if "in" in scope else None
        case other:
            raise ValueError(f"a principal scope that is not known: {other}")
    who_type, who_id = (who["type"], who["id"]) if who else ("", "")
    read = tuple(thresholds((form["conditions"],)).items()) if read_by(cedar) else ()
    return Rule(policy, cedar, form["effect"], who_type, who_id, exact, kind, read)


class RuleIndex:
    """The statements that apply in one tenant, found by the entities a caller is or is in."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._anyone = [i for i, r in enumerate(self.rules) if not r.who_type]
        self._by_entity: dict[tuple[str, str], list[int]] = {}
        for i, rule in enumerate(self.rules):
            if rule.who_type:
                self._by_entity.setdefault((rule.who_type, rule.who_id), []).append(i)

    def concerning(self, own: tuple[str, str], groups: Iterable[tuple[str, str]]) -> tuple[int, ...]:
        """Indices, ascending, of the statements whose principal scope matches a caller.

        `own` is the caller's (entity type, id); `groups` are the teams and the tenant it is in, as the same pairs.
        """
        found = list(self._anyone)
        found += self._by_entity.get(own, ())
        for group in dict.fromkeys(groups):
            found += (i for i in self._by_entity.get(group, ()) if not self.rules[i].exact)
        return tuple(sorted(i for i in set(found) if self.rules[i].kind in ("", own[0])))


def policy_set(rules: Iterable[Rule]) -> cedarpy.PolicySet:
    """A parsed set of these statements. Cedar names them `policy0`, `policy1`, ... in this order."""
    return cedarpy.PolicySet.from_str("\n".join(rule.cedar for rule in rules))


def position(cedar_id: str) -> int:
    """The place of a statement in its set, from the id Cedar gave it."""
    return int(cedar_id.removeprefix("policy"))
