"""A company's own expectations of its policies, as a YAML file that a pipeline can run.

    cases:
      - name: research stays on the premises
        tenant: acme
        as: alice
        model: smollm2
        data_class: confidential
        expect: deny
        because: confidential-on-prem

`expect: permit` means that the call may go to at least one source that offers the model (or to `source`, when named);
`deny` means to none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import yaml

from interlock.errors import ConfigError
from interlock.policy.engine import OPERATIONS, Bound, PolicyEngine, cost_unknown
from interlock.policy.schema import FIELD_ACTIONS
from interlock.policy.templates import instant
from interlock.policy.world import World, data_class
from interlock.types.decision import Reason
from interlock.types.identity import Caller, DataClass, Principal, PrincipalKind
from interlock.types.request import Features
from interlock.types.source import Offer

FILE_CHARACTERS_MAX = 1_000_000
CASES_MAX = 10_000
DEPTH_MAX = 8


class Case(msgspec.Struct, frozen=True):
    """One expectation. `line` is where it stands in its file, from 1.

    `caller` is a principal's name. When nobody of that name is declared it is taken as a caller who signs in by token,
    of this `kind` and in these `teams`. With `agent`, that agent calls and acts for `caller`.
    """

    line: int
    name: str
    tenant: str
    caller: str
    model: str
    expect: str
    source: str = ""
    agent: str = ""
    kind: str = "user"
    teams: tuple[str, ...] = ()
    agent_teams: tuple[str, ...] = ()
    operation: str = "chat"
    data_class: DataClass = DataClass.internal
    features: tuple[str, ...] = ()
    because: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    at_ns: int = 0


class CaseResult(NamedTuple):
    """How a case came out. `words`: one sentence; `reasons`: of every offer that was looked at."""

    case: Case
    passed: bool
    words: str
    reasons: tuple[Reason, ...]


_TEXTS = ("name", "tenant", "as", "model", "source", "agent", "kind", "operation", "expect", "because")
_LISTS = ("teams", "agent_teams", "features")
_NUMBERS = ("prompt_tokens", "completion_tokens")
_FIELDS = (*_TEXTS, *_LISTS, *_NUMBERS, "data_class", "at")


def parse(text: str, path: str = "policy tests") -> tuple[Case, ...]:
    """The cases of a test file. Raises ConfigError with path, line and reason."""
    if len(text) > FILE_CHARACTERS_MAX:
        raise ConfigError(f"{path}: larger than {FILE_CHARACTERS_MAX} characters", param=path)
    try:
        _check_shape(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        raise _wrong(path, line, f"not YAML: {e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not YAML: {e}", param=path) from None
    listed = _child(root, "cases")
    if not isinstance(listed, yaml.SequenceNode):
        raise _wrong(path, 1, "a policy test file is a mapping with a list `cases`")
    if not 0 < len(listed.value) <= CASES_MAX:
        raise _wrong(path, listed.start_mark.line + 1, f"there must be 1 to {CASES_MAX} cases")
    return tuple(_case(node, path) for node in listed.value)


def run(cases: tuple[Case, ...], world: World, now_ns: int = 0, bound: Bound = cost_unknown) -> tuple[CaseResult, ...]:
    """Each case decided by the engine that decides real calls, at `now_ns` (Unix) unless it names a time; `bound`: what
    a call may cost. A case that names what does not exist fails."""
    engine = world.engine(bound=bound)
    offers = world.offers()
    return tuple(_run(case, world, engine, offers, now_ns) for case in cases)


def _run(case: Case, world: World, engine: PolicyEngine, offers: tuple[Offer, ...], now_ns: int) -> CaseResult:
    try:
        caller = _caller(case, world)
    except ConfigError as e:
        return CaseResult(case, False, e.message, ())
    tenant_id = caller.principal.tenant_id
    asked = tuple(
        o
        for o in offers
        if o.model.name == case.model
        and case.source in ("", o.source.name)
        and (not o.source.tenant_id or o.source.tenant_id == tenant_id)
    )
    if not asked:
        where = f"source {case.source!r} does not offer" if case.source else "no source of this tenant offers"
        return CaseResult(case, False, f"{where} a model {case.model!r}", ())
    features = Features(
        operation=case.operation,
        asked=case.model,
        data_class=case.data_class,
        actions=case.features,
        prompt_tokens_max=case.prompt_tokens,
        completion_tokens_max=case.completion_tokens,
    )
    authorization = engine.authorize(caller, features, asked, case.at_ns or now_ns)
    permitted = bool(authorization.allowed)
    reasons = authorization.permits if permitted else authorization.denials
    told = "; ".join(dict.fromkeys(reason.words for reason in reasons))
    if permitted != (case.expect == "permit"):
        return CaseResult(
            case, False, f"expected {case.expect}, got {'permit' if permitted else 'deny'}: {told}", reasons
        )
    if case.because and not any(case.because in reason.policy_ids for reason in reasons):
        return CaseResult(case, False, f"expected because of {case.because}, but: {told}", reasons)
    return CaseResult(case, True, told, reasons)


def _caller(case: Case, world: World) -> Caller:
    tenant = world.tenant(case.tenant)
    kind = PrincipalKind(case.kind)

    def find(
        name: str, kinds: tuple[PrincipalKind, ...], otherwise: PrincipalKind, teams: tuple[str, ...]
    ) -> Principal:
        known = world.principal(tenant.id, name, kinds)
        if known is not None and not teams:
            return known
        team_ids = tuple(world.team(tenant.id, team).id for team in teams)
        return Principal(f"test:{name}", tenant.id, otherwise, name, team_ids)

    delegator = None
    kinds = (PrincipalKind.user, PrincipalKind.service, PrincipalKind.agent)
    principal = find(case.caller, (kind,) if case.kind != "user" else kinds, kind, case.teams)
    if case.agent:
        delegator = principal
        principal = find(case.agent, (PrincipalKind.agent,), PrincipalKind.agent, case.agent_teams)
    return Caller(
        principal=principal,
        auth_method="jwt",
        credential_id="policy-test",
        scopes=("infer",),
        data_class=case.data_class,
        delegator=delegator,
        delegation="token" if delegator else "",
    )


def _case(node: yaml.Node, path: str) -> Case:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(path, line, "a case must be a mapping")
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, at = key_node.value, key_node.start_mark.line + 1
        if key not in _FIELDS:
            raise _wrong(path, at, f"unknown field {key!r}; there are {', '.join(_FIELDS)}")
        if key in found:
            raise _wrong(path, at, f"{key} is given twice")
        found[key] = _value(key, value_node, path)
    for required in ("tenant", "as", "model", "expect"):
        if not found.get(required):
            raise _wrong(path, line, f"{required} is missing")
    for field, values in (
        ("expect", ("permit", "deny")),
        ("kind", tuple(PrincipalKind.__members__)),
        ("operation", OPERATIONS),
    ):
        if found.get(field, values[0]) not in values:
            raise _wrong(path, line, f"{field} must be one of {', '.join(values)}, not {found[field]!r}")
    for feature in found.get("features", ()):
        if feature not in FIELD_ACTIONS:
            raise _wrong(path, line, f"features knows no {feature!r}; there are {', '.join(FIELD_ACTIONS)}")
    found["caller"] = found.pop("as")
    found["at_ns"] = found.pop("at", 0)
    found.setdefault("name", f"{found['caller']} -> {found['model']}: {found['expect']}")
    return Case(line=line, **found)


def _value(key: str, node: yaml.Node, path: str) -> object:
    line = node.start_mark.line + 1
    if key in _LISTS:
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise _wrong(path, line, f"{key} must be a list of names")
        return tuple(item.value for item in items)
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(path, line, f"{key} must be text")
    if key in _NUMBERS:
        if not node.value.isdecimal() or len(node.value) > 12:
            raise _wrong(path, line, f"{key} must be a whole number")
        return int(node.value)
    if key == "at":
        try:
            return instant(node.value) * 1_000_000_000
        except ValueError as e:
            raise _wrong(path, line, f"at {e}") from None
    if key == "data_class":
        text = str(node.value)
        return data_class(int(text) if text.isdigit() else text, f"{path}, line {line}: data_class")
    return str(node.value)


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name and isinstance(value, yaml.Node):
                return value
    return None


def _wrong(path: str, line: int, what: str) -> ConfigError:
    return ConfigError(f"{path}, line {line}: {what}", param=f"{path}:{line}")


def summary(results: tuple[CaseResult, ...]) -> Mapping[str, int]:
    """How many cases there were, and how many passed and failed."""
    passed = sum(result.passed for result in results)
    return {"cases": len(results), "passed": passed, "failed": len(results) - passed}


def _check_shape(text: str, path: str) -> None:
    """Refuse what would take YAML's parser very long: deep nesting, and aliases, a few of which stand for gigabytes."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _wrong(path, _line(event), "YAML aliases are not taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise _wrong(path, _line(event), "nested too deeply")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
