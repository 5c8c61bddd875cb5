"""Requests for more of a budget: who asks for how much and why, and what became of it."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection, sql

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table

OPEN = "open"


class QuotaRequest(msgspec.Struct, frozen=True):
    """`amount`: what the budget should have, in its own measure. `decider`, `answer`: by whom and why it was decided,
    "" while it is open."""

    id: str
    tenant_id: str
    budget_id: str
    asker_id: str
    asker: str
    amount: int
    why: str
    state: str = OPEN
    decider: str = ""
    answer: str = ""


TABLE = Table(
    "quota_requests",
    "quota_request",
    QuotaRequest,
    ("id", "tenant_id", "budget_id", "asker_id", "asker", "amount", "why", "state", "decider", "answer"),
)


def insert(conn: Connection[Any], request: QuotaRequest, by: Author) -> Stored[QuotaRequest]:
    """Store a new request."""
    return TABLE.insert(conn, request, by)


def update(conn: Connection[Any], request: QuotaRequest, by: Author, action: str) -> Stored[QuotaRequest]:
    """What became of it. `action`: the verb under which the change is listed."""
    return TABLE.update(conn, request, by, action=action)


def get(conn: Connection[Any], request_id: str) -> Stored[QuotaRequest] | None:
    """The request of that id, or None."""
    return TABLE.get(conn, request_id)


def newest(conn: Connection[Any], tenant_id: str, limit: int) -> list[Stored[QuotaRequest]]:
    """Those of a tenant, open ones first, then the newest."""
    order = "WHERE t.tenant_id = %s ORDER BY t.state <> 'open', t.created_at DESC, t.id LIMIT %s"
    return TABLE.where(conn, sql.SQL(order), (tenant_id, limit))


def open_of(conn: Connection[Any], tenant_id: str, asker_id: str) -> list[Stored[QuotaRequest]]:
    """Somebody's open ones in a tenant."""
    which = "WHERE t.tenant_id = %s AND t.asker_id = %s AND t.state = 'open'"
    return TABLE.where(conn, sql.SQL(which), (tenant_id, asker_id))
