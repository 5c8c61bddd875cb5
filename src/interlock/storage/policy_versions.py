"""Every set of policies that a tenant, or the platform, ever had in force: rows are only added."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from interlock.storage.changes import Author
from interlock.storage.policies import TABLE, PolicyRow
from interlock.storage.policy_drafts import Approval, Written


class Version(msgspec.Struct, frozen=True):
    """A set of policies as one change left it. `origin`: "change", "draft", "rollback" (to `of_number`), or "upgrade":
    what was there before versions were kept."""

    number: int
    origin: str
    policies: tuple[Written, ...]
    at: datetime
    author_id: str
    author: str
    reason: str
    of_number: int | None = None
    approvals: tuple[Approval, ...] = ()


_COLUMNS = "number, origin, of_number, policies, approvals, at, author_id, author, reason"


def in_force(conn: Connection[Any], tenant_id: str) -> tuple[Written, ...]:
    """The stored policies of a tenant ("": of the platform), by id."""
    rows = [row for row in TABLE.all_as(conn, PolicyRow) if row.tenant_id == tenant_id]
    return tuple(
        sorted(
            (Written(r.name, r.cedar, r.words, r.template, r.parameters, r.report_only) for r in rows),
            key=lambda policy: policy.id,
        )
    )


def newest(conn: Connection[Any], tenant_id: str) -> int:
    """The number of the version in force, 0 when there never was a policy."""
    row = conn.execute(
        "SELECT max(number) FROM interlock.policy_versions WHERE tenant_id IS NOT DISTINCT FROM nullif(%s, '')",
        (tenant_id,),
    ).fetchone()
    return int(row[0] or 0) if row is not None else 0


def add(
    conn: Connection[Any],
    tenant_id: str,
    by: Author,
    origin: str,
    of_number: int | None = None,
    approvals: tuple[Approval, ...] = (),
) -> int:
    """Keep what is stored now as the next version; its number. The caller holds the write lock of the configuration."""
    number = newest(conn, tenant_id) + 1
    conn.execute(
        "INSERT INTO interlock.policy_versions"
        " (tenant_id, number, origin, of_number, policies, approvals, at, author_id, author, reason)"
        " VALUES (nullif(%s, ''), %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            tenant_id,
            number,
            origin,
            of_number,
            Jsonb(msgspec.to_builtins(in_force(conn, tenant_id))),
            Jsonb(msgspec.to_builtins(approvals)),
            by.at,
            by.actor_id,
            by.actor,
            by.reason,
        ),
    )
    return number


def get(conn: Connection[Any], tenant_id: str, number: int) -> Version | None:
    """A version of a tenant ("": of the platform), or None."""
    found = page(conn, tenant_id, before=number + 1, limit=1)
    return found[0] if found and found[0].number == number else None


def page(conn: Connection[Any], tenant_id: str, *, before: int = 0, limit: int = 100) -> list[Version]:
    """At most `limit` versions, newest first; `before`: below this number, 0 from the newest."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM interlock.policy_versions"  # noqa: S608 - a constant
            " WHERE tenant_id IS NOT DISTINCT FROM nullif(%s, '') AND (%s = 0 OR number < %s)"
            " ORDER BY number DESC LIMIT %s",
            (tenant_id, before, before, limit),
        )
        return [msgspec.convert(row, Version) for row in rows]
