"""May this caller use that model, and why? Answered from the stored configuration, by the engine the gateways run."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.control.documents import DataClassName, Natural
from interlock.control.services.base import Names, missing
from interlock.errors import BadRequest
from interlock.metering.cost import bound_nusd
from interlock.policy import testfile
from interlock.policy.engine import PolicyEngine
from interlock.policy.entities import offer_key
from interlock.policy.explain import Explanation, explain
from interlock.policy.schema import FIELD_ACTIONS
from interlock.policy.world import World
from interlock.storage import policies, principals, sources, teams, tenants
from interlock.types.identity import Caller, DataClass, Principal, PrincipalKind
from interlock.types.request import Features
from interlock.types.source import Offer

_PAGE = 1000


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who (`principal`; with `acting_for` an agent that was delegated by that user) would do what.

    `model`: its name, or empty for every model. `source`: one source only. `features`: field actions the request would
    ask for (`use_images`, `fetch_remote`, `store`, `set_priority`, `multiply`, `change_template`). Where a policy asks
    for cost or time: the bounds of tokens, and when (Unix nanoseconds; 0: now).
    """

    principal: str
    acting_for: str = ""
    model: str = ""
    source: str = ""
    operation: str = "chat"
    data_class: DataClassName = "internal"
    features: tuple[str, ...] = ()
    prompt_tokens: Natural = 0
    completion_tokens: Natural = 0
    at_ns: Natural = 0


class Answer(msgspec.Struct, frozen=True):
    """`permitted`: at least one offer may take the call. One explanation for each offer; `lines` say the same."""

    permitted: bool
    explanations: list[Explanation]
    lines: list[str]


def answer(conn: Any, tenant_id: str, question: Question, now_ns: int) -> Answer:
    """The answer from what is stored now; gateways follow within a second. `conn` sees the platform's sources.

    Raises NotFound for an unknown principal, BadRequest for an unknown feature.
    """
    unknown = sorted(set(question.features) - set(FIELD_ACTIONS))
    if unknown:
        raise BadRequest(f"there is no feature {unknown[0]!r}; there are {', '.join(FIELD_ACTIONS)}", param="features")
    caller = _caller(conn, tenant_id, question)
    found = sources.everything(conn)
    stored = policies.everything(conn)
    engine = PolicyEngine(stored, tenants.everything(conn), teams.everything(conn), found, 16, bound=bound_nusd)
    offers = [
        Offer(source, model, offer_key(source.name, model.name))
        for source in found
        for model in source.models
        if question.model in ("", model.name) and question.source in ("", source.name)
    ]
    features = Features(
        operation=question.operation,
        asked=question.model,
        data_class=DataClass[question.data_class],
        actions=question.features,
        prompt_tokens_max=question.prompt_tokens,
        completion_tokens_max=question.completion_tokens,
    )
    explanations = explain(engine, caller, features, offers, question.at_ns or now_ns)
    lines = [line for explanation in explanations for line in explanation.lines()]
    if not explanations:
        what = f"model {question.model!r}" if question.model else "any model"
        lines = [f"DENY: no source that this tenant can know of offers {what}."]
    return Answer(any(e.permitted for e in explanations), explanations, lines)


class TestAnswer(msgspec.Struct, frozen=True):
    """How a company's expectations came out on the stored configuration, case by case."""

    cases: int
    passed: int
    failed: int
    results: list[dict[str, Any]]


def run_tests(conn: Any, file: str, text: str, now_ns: int) -> TestAnswer:
    """Run a policy test file on what is stored. Raises ConfigError with file and line when it cannot be read."""
    return told(testfile.run(testfile.parse(text, file), _world(conn), now_ns, bound_nusd))


def told(results: tuple[testfile.CaseResult, ...]) -> TestAnswer:
    """Results as values that JSON has."""
    counts = testfile.summary(results)
    return TestAnswer(
        counts["cases"],
        counts["passed"],
        counts["failed"],
        [{"name": r.case.name, "line": r.case.line, "passed": r.passed, "words": r.words} for r in results],
    )


def _world(conn: Any) -> World:
    everybody: list[Principal] = []
    while True:
        after = everybody[-1].id if everybody else ""
        page = principals.page(conn, after=after, limit=_PAGE)
        everybody += [stored.value for stored in page]
        if len(page) < _PAGE:
            break
    return World(
        tuple(tenants.everything(conn)),
        tuple(teams.everything(conn)),
        tuple(everybody),
        tuple(sources.everything(conn)),
        tuple(policies.everything(conn)),
    )


def _caller(conn: Any, tenant_id: str, question: Question) -> Caller:
    principal = _principal(conn, tenant_id, question.principal)
    delegator = _principal(conn, tenant_id, question.acting_for) if question.acting_for else None
    if delegator is not None and principal.kind is PrincipalKind.agent:
        allowed = principal.may_act_for
        if "*" not in allowed and delegator.id not in allowed:
            names = ", ".join(Names(conn).of(p) for p in allowed) or "nobody"
            raise BadRequest(
                f"agent {principal.name!r} may act for {names}, not for {delegator.name!r}", param="acting_for"
            )
    return Caller(
        principal=principal,
        auth_method="api_key",
        credential_id="",
        scopes=("infer",),
        data_class=DataClass[question.data_class],
        delegator=delegator,
        delegation="asserted" if delegator is not None else "",
    )


def _principal(conn: Any, tenant_id: str, name: str) -> Principal:
    found = principals.by_name(conn, tenant_id, name)
    if found is None:
        raise missing("principal", name)
    return found.value
