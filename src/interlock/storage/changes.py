"""The administrative record: who changed what, when and why, written in the transaction of the change itself.

Rows are only ever added: the roles that serve the admin API may insert and read them, not update or delete. Each row is
also an entry of a tree of the ledger, the one of the tenant that it concerns or the platform's: an entry has a
commitment to the row, so that whoever changes or removes it by other means is found out (`control.services.audit`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection, sql
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from interlock.errors import BadRequest
from interlock.ledger.control_entry import EPOCH, FREQUENT, SALT_BYTES, Row, change_leaf
from interlock.storage import control_entries
from interlock.types.alert import shown_url

PLATFORM_TREE = "ten_platform"
"""The tree of changes that concern the whole installation: that of the platform's own tenant."""

_EPOCH_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
REASON_CHARS_MAX = 2000


class Author(msgspec.Struct, frozen=True):
    """Who makes a change and why. `actor_id` is a principal id (or "system"), `actor` the name shown to people."""

    actor_id: str
    actor: str
    reason: str
    at: datetime
    request_id: str = ""


class Change(msgspec.Struct, frozen=True):
    """One change: `action` is "<object kind>.<verb>"; `before` and `after` hold the value without secrets.

    `tenant_id` "": the change concerns the platform. The other fields are filled in when it is read back.
    """

    tenant_id: str
    action: str
    object_kind: str
    object_id: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    id: int = 0
    at: datetime | None = None
    actor_id: str = ""
    actor: str = ""
    reason: str = ""
    request_id: str = ""


def record(conn: Connection[Any], change: Change, by: Author) -> None:
    """Write `change` by `by`. Aggregates do this themselves; call it for events that are not a change of a row.

    Raises BadRequest when the reason is empty or too long.
    """
    if not by.reason.strip():
        raise BadRequest("a change needs a reason: say in a sentence why it is made", param="reason")
    if len(by.reason) > REASON_CHARS_MAX:
        raise BadRequest(f"the reason has more than {REASON_CHARS_MAX} characters", param="reason")
    tree = change.tenant_id or PLATFORM_TREE
    control_entries.hold(conn, tree)
    with conn.cursor(row_factory=class_row(Row)) as cursor:
        row = cursor.execute(
            "INSERT INTO interlock.changes"
            " (at, tenant_id, actor_id, actor, reason, request_id, action, object_kind, object_id, before, after, salt)"
            " VALUES (%s, nullif(%s, ''), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " RETURNING id, at, coalesce(tenant_id, '') AS tenant_id, actor_id, actor, reason, request_id, action,"
            " object_kind, object_id, before, after, salt",
            (
                by.at,
                change.tenant_id,
                by.actor_id,
                by.actor,
                by.reason,
                by.request_id,
                change.action,
                change.object_kind,
                change.object_id,
                _document(change.before),
                _document(change.after),
                secrets.token_bytes(SALT_BYTES),
            ),
        ).fetchone()
    assert row is not None  # noqa: S101 - an insert gives its row back
    at_ns = (by.at - _EPOCH_BEGIN) // timedelta(microseconds=1) * 1000
    leaf = change_leaf(tree, row, max(at_ns, control_entries.claimed_ns(conn, tree) + 1))
    control_entries.put(conn, tree, leaf, later=change.action in FREQUENT)


def rows(conn: Connection[Any], ids: Sequence[int]) -> dict[int, Row]:
    """Rows that have an entry, by id, as they are now."""
    with conn.cursor(row_factory=class_row(Row)) as cursor:
        found = cursor.execute(
            "SELECT id, at, coalesce(tenant_id, '') AS tenant_id, actor_id, actor, reason, request_id, action,"
            " object_kind, object_id, before, after, salt FROM interlock.changes WHERE id = ANY(%s)"
            " AND salt IS NOT NULL",
            (list(ids),),
        )
        return {row.id: row for row in found}


def ids_of(conn: Connection[Any], tree: str, after: int, limit: int) -> list[tuple[int, bool]]:
    """(id, whether the row has an entry) of what belongs into a tree, by id, at most `limit` behind `after`."""
    where = sql.SQL("tenant_id = %s OR tenant_id IS NULL" if tree == PLATFORM_TREE else "tenant_id = %s")
    query = sql.SQL(
        "SELECT id, salt IS NOT NULL FROM interlock.changes WHERE ({}) AND id > %s ORDER BY id LIMIT %s"
    ).format(where)
    return list(conn.execute(query, (tree, after, limit)))


def waiting_ids(conn: Connection[Any], tree: str) -> set[int]:
    """Rows of which the entry has no place in its tree yet."""
    found = conn.execute("SELECT leaf FROM interlock.ledger_inbox WHERE tenant_id = %s AND epoch = %s", (tree, EPOCH))
    leaves = [msgspec.json.decode(leaf) for (leaf,) in found]
    return {row["id"] for leaf in leaves for row in leaf.get("rows", ())}


def page(
    conn: Connection[Any],
    *,
    tenant_id: str | None = None,
    object_id: str = "",
    actor_id: str = "",
    before_id: int = 0,
    limit: int = 100,
) -> list[Change]:
    """At most `limit` changes, newest first, older than `before_id` (0: from the newest).

    `tenant_id` None: all that this connection may see; "": the platform's own only.
    """
    clauses: list[sql.Composable] = [sql.SQL("true")]
    args: list[object] = []
    if tenant_id is not None:
        clauses.append(sql.SQL("tenant_id IS NOT DISTINCT FROM nullif(%s, '')"))
        args.append(tenant_id)
    for column, value in (("object_id", object_id), ("actor_id", actor_id)):
        if value:
            clauses.append(sql.SQL("{} = %s").format(sql.Identifier(column)))
            args.append(value)
    if before_id:
        clauses.append(sql.SQL("id < %s"))
        args.append(before_id)
    query = sql.SQL(
        "SELECT id, at, coalesce(tenant_id, '') AS tenant_id, actor_id, actor, reason, request_id, action, object_kind,"
        " object_id, before, after FROM interlock.changes WHERE {} ORDER BY id DESC LIMIT %s"
    ).format(sql.SQL(" AND ").join(clauses))
    with conn.cursor(row_factory=dict_row) as cursor:
        return [msgspec.convert(_shown(row), Change) for row in cursor.execute(query, (*args, limit))]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions recorded URLs of webhooks whole. What is recorded stays as it is; it is not shown."""
    if row["object_kind"] == "alert_channel":
        for document in (row["before"], row["after"]):
            if document:
                document["url"] = shown_url(str(document.get("url", "")))
    return row


def scrub(value: Any) -> Any:
    """The same JSON value with user names and passwords taken out of the URLs in it, and NUL characters removed."""
    if isinstance(value, str):
        return _USERINFO.sub("***@", value).replace("\0", "")
    if isinstance(value, dict):
        return {scrub(k): scrub(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(v) for v in value]
    return value


def _document(value: dict[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(scrub(value))
