"""What the policies of a tenant, or of the platform, may become: one draft at a time, with who approved of which text.

A draft that is evaluated beside the policies in force is in the snapshot (`trials`), and decides nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Connection, sql

from interlock.storage.changes import Author
from interlock.storage.policies import TABLE as POLICIES
from interlock.storage.policies import PolicyRow
from interlock.storage.table import Stored, Table
from interlock.types.snapshot import PolicyText, Trial


class Written(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy of a version or draft: its text as it is, or would be, in force, and what it was declared as."""

    id: str
    cedar: str
    words: str = ""
    template: str = ""
    parameters: dict[str, Any] = {}
    report_only: bool = False


class Approval(msgspec.Struct, frozen=True):
    """A second person's yes to exactly the text that has this digest. `at`: Unix seconds."""

    by_id: str
    by: str
    at: int
    reason: str
    digest: str


class Draft(msgspec.Struct, frozen=True):
    """A whole set of policies that may take the place of version `base` (0: of none). `authors`: ids of all who wrote
    on it. `digest`: of the set and its base."""

    id: str
    tenant_id: str
    base: int
    digest: str
    policies: tuple[Written, ...]
    report_only: bool = False
    authors: tuple[str, ...] = ()
    approvals: tuple[Approval, ...] = ()


TABLE = Table(
    "policy_drafts",
    "policy_draft",
    Draft,
    ("id", "tenant_id", "base", "digest", "policies", "report_only", "authors", "approvals"),
    json=("policies", "approvals"),
    parts=lambda _: ("trials",),
)


def digest_of(tenant_id: str, base: int, policies: Iterable[Written]) -> str:
    """What an approval is bound to: SHA-256, in hex, of whose policies, the version they replace, and every text."""
    said = [tenant_id, base, sorted((msgspec.to_builtins(p) for p in policies), key=lambda p: str(p["id"]))]
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()


def of(conn: Connection[Any], tenant_id: str) -> Stored[Draft] | None:
    """The draft of a tenant ("": of the platform), or None."""
    found = TABLE.where(conn, sql.SQL("WHERE t.tenant_id IS NOT DISTINCT FROM nullif(%s, '')"), (tenant_id,))
    return found[0] if found else None


def insert(conn: Connection[Any], draft: Draft, by: Author) -> Stored[Draft]:
    """Begin a draft. Raises Conflict when there is one."""
    return TABLE.insert(conn, draft, by)


def update(conn: Connection[Any], draft: Draft, by: Author, action: str) -> Stored[Draft]:
    """Replace the draft. `action`: the verb under which the change is listed."""
    return TABLE.update(conn, draft, by, action=action)


def delete(conn: Connection[Any], draft: Draft, by: Author) -> None:
    """The draft is no more: it was given up, or is in force."""
    TABLE.delete(conn, draft.id, by)


def texts(tenant_id: str, policies: Iterable[Written]) -> tuple[PolicyText, ...]:
    """What of a set would decide."""
    return tuple(
        PolicyText(id=p.id, cedar=p.cedar, tenant_id=tenant_id, words=p.words) for p in policies if not p.report_only
    )


def trials(conn: Connection[Any]) -> list[Trial]:
    """What is evaluated without deciding, for the snapshot: a tenant's draft that reports, else its policies together
    with those that only report."""
    found = {
        draft.tenant_id: Trial(draft.digest, texts(draft.tenant_id, draft.policies), draft.tenant_id)
        for draft in TABLE.all_as(conn, Draft)
        if draft.report_only
    }
    marked: dict[str, list[PolicyRow]] = {}
    for row in POLICIES.all_as(conn, PolicyRow):
        if row.active:
            marked.setdefault(row.tenant_id, []).append(row)
    for tenant_id, rows in marked.items():
        if tenant_id not in found and any(row.report_only for row in rows):
            told = tuple(PolicyText(id=r.name, cedar=r.cedar, tenant_id=tenant_id, words=r.words) for r in rows)
            encoded = msgspec.json.encode(sorted(told, key=lambda p: p.id))
            found[tenant_id] = Trial(hashlib.sha256(encoded).hexdigest(), told, tenant_id)
    return list(found.values())
