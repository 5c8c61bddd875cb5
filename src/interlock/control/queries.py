"""Look-ups that only the control plane needs, on storage's tables."""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql

from interlock.storage import keys, sources
from interlock.storage.keys import KeyRow
from interlock.storage.sources import SourceRow
from interlock.storage.table import Stored


def keys_named(conn: Connection[Any], tenant_id: str, name: str) -> list[Stored[KeyRow]]:
    """All keys of that name, revoked ones too, newest first."""
    where = sql.SQL("WHERE t.tenant_id = %s AND t.name = %s ORDER BY t.id DESC")
    return keys.TABLE.where(conn, where, (tenant_id, name))


def source_named(conn: Connection[Any], name: str) -> Stored[SourceRow] | None:
    """The source of that name, whoever owns it: names are unique over the installation."""
    rows = sources.TABLE.where(conn, sql.SQL("WHERE t.name = %s"), (name,))
    return rows[0] if rows else None


def buckets_lapsed(conn: Connection[Any], *, since_s: int, until_s: int) -> list[int]:
    """Buckets with a key that was revoked or expired in (since_s, until_s] (Unix seconds)."""
    rows = conn.execute(
        "SELECT DISTINCT bucket FROM interlock.api_keys WHERE"
        " (revoked_at > to_timestamp(%(since)s) AND revoked_at <= to_timestamp(%(until)s))"
        " OR (not_after_s > 0 AND not_after_s > %(since)s AND not_after_s <= %(until)s)",
        {"since": since_s, "until": until_s},
    )
    return sorted(bucket for (bucket,) in rows)
