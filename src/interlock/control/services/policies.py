"""Policies: validated against Cedar's schema, or rendered from a template, before they are stored."""

from __future__ import annotations

import msgspec

from interlock.control.documents import PolicySpec
from interlock.control.services.base import Tx, missing
from interlock.errors import ConfigError
from interlock.policy.schema import check_id, validate
from interlock.policy.templates import render
from interlock.storage import policies
from interlock.storage.policies import PolicyRow
from interlock.storage.table import Stored


def spec_of(policy: PolicyRow) -> PolicySpec:
    """The declared form: the template with its parameters when it has one, else the text."""
    if policy.template:
        return PolicySpec(
            id=policy.name, template=policy.template, parameters=policy.parameters, report_only=policy.report_only
        )
    return PolicySpec(id=policy.name, words=policy.words, cedar=policy.cedar, report_only=policy.report_only)


def check(spec: PolicySpec, _tenant: str = "") -> tuple[str, str]:
    """(Cedar text, words) of a declared policy. Raises ConfigError with what is wrong and where in the text."""
    check_id(spec.id)
    if spec.template:
        rendered = render(spec.template, spec.parameters, policy_id=spec.id)
        return rendered.cedar, rendered.words
    problems = validate(spec.cedar)
    if problems:
        told = "; ".join(f"line {p.line}, column {p.column}: {p.message}" for p in problems[:5])
        raise ConfigError(f"policy {spec.id!r}: {told}", param="cedar", code="invalid_policy")
    return spec.cedar, spec.words


def find(tx: Tx, tenant_id: str, name: str) -> Stored[PolicyRow]:
    """The policy of that name. Raises NotFound."""
    found = policies.by_name(tx.conn, tenant_id, name)
    if found is None:
        raise missing("policy", name)
    return found


def create(tx: Tx, tenant_id: str, spec: PolicySpec) -> Stored[PolicyRow]:
    """A new policy; it is in force as soon as the next snapshot is. Raises ConfigError, Conflict."""
    cedar, words = check(spec)
    policy = PolicyRow(
        id=tx.tools.new_id("policy"),
        name=spec.id,
        cedar=cedar,
        tenant_id=tenant_id,
        words=words,
        template=spec.template,
        parameters=spec.parameters,
        report_only=spec.report_only,
    )
    return policies.insert(tx.conn, policy, tx.by)


def update(tx: Tx, tenant_id: str, spec: PolicySpec, revision: int | None = None) -> Stored[PolicyRow]:
    """Text or template. Raises ConfigError, NotFound, Conflict."""
    cedar, words = check(spec)
    policy = msgspec.structs.replace(
        find(tx, tenant_id, spec.id).value,
        cedar=cedar,
        words=words,
        template=spec.template,
        parameters=spec.parameters,
        report_only=spec.report_only,
    )
    return policies.update(tx.conn, policy, tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Out of force with the next snapshot. Raises NotFound, Conflict."""
    policies.delete(tx.conn, find(tx, tenant_id, name).value.id, tx.by, revision=revision)
