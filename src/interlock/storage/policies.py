"""Policies: Cedar text, written by hand or rendered from a template whose parameters are kept beside it."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.snapshot import PolicyText


class PolicyRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy as administrators see it. `name` is what reasons name, unique in its tenant ("": the platform's).

    `template` and `parameters` are empty when `cedar` was written by hand. An inactive one is in no snapshot, one that
    only reports decides nothing.
    """

    id: str
    name: str
    cedar: str
    tenant_id: str = ""
    words: str = ""
    template: str = ""
    parameters: dict[str, Any] = {}
    active: bool = True
    report_only: bool = False


TABLE = Table(
    "policies",
    "policy",
    PolicyRow,
    ("id", "name", "cedar", "tenant_id", "words", "template", "parameters", "active", "report_only"),
    json=("parameters",),
    parts=lambda _: ("policies", "trials"),
)


def insert(conn: Connection[Any], policy: PolicyRow, by: Author) -> Stored[PolicyRow]:
    """Store a new policy (already validated). Raises Conflict when the name is taken."""
    return TABLE.insert(conn, policy, by)


def update(conn: Connection[Any], policy: PolicyRow, by: Author, *, revision: int | None = None) -> Stored[PolicyRow]:
    """Replace a policy. Raises NotFound, Conflict (name taken, or another revision)."""
    return TABLE.update(conn, policy, by, revision=revision)


def delete(conn: Connection[Any], policy_id: str, by: Author, *, revision: int | None = None) -> Stored[PolicyRow]:
    """Remove a policy. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, policy_id, by, revision=revision)


def get(conn: Connection[Any], policy_id: str) -> Stored[PolicyRow] | None:
    """A policy by id (`pol_...`), or None."""
    return TABLE.get(conn, policy_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[PolicyRow] | None:
    """A policy by name in a tenant ("": the platform's), or None."""
    return TABLE.by_name(conn, name, tenant_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[PolicyRow]]:
    """At most `limit` policies in id order behind `after`; of one tenant ("": the platform's) when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[PolicyText]:
    """All active policies, for the snapshot. `PolicyText.id` is the policy's *name*: unique with its `tenant_id`."""
    return [
        PolicyText(id=p.name, cedar=p.cedar, tenant_id=p.tenant_id, words=p.words)
        for p in TABLE.all_as(conn, PolicyRow)
        if p.active and not p.report_only
    ]
