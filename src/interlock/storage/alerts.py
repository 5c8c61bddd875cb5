"""Rules of alerts, and the channels that events go to: what administrators declare."""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql

from interlock.storage.table import Stored, Table
from interlock.types.alert import AlertRule, Channel

RULES = Table(
    "alert_rules",
    "alert_rule",
    AlertRule,
    (
        "id", "tenant_id", "name", "kind", "threshold", "window_s", "for_s", "count_min", "no_data_s", "scope",
        "severity", "channels", "enabled", "silenced_until_ns", "silence_reason",
    ),
    json=("scope",),
)  # fmt: skip
CHANNELS = Table(
    "alert_channels",
    "alert_channel",
    Channel,
    ("id", "tenant_id", "name", "kind", "url", "secret", "addresses", "mark"),
    json=("secret",),
)


def rules(conn: Connection[Any], tenant_id: str, limit: int) -> list[Stored[AlertRule]]:
    """The rules of a tenant ("": the platform's) by name, at most `limit`."""
    return RULES.where(conn, _OF, (tenant_id, limit))


def channels(conn: Connection[Any], tenant_id: str, limit: int) -> list[Stored[Channel]]:
    """The channels of a tenant ("": the platform's) by name, at most `limit`."""
    return CHANNELS.where(conn, _OF, (tenant_id, limit))


_OF = sql.SQL("WHERE t.tenant_id IS NOT DISTINCT FROM nullif(%s, '') ORDER BY t.name LIMIT %s")


def every_rule(conn: Connection[Any], *, held: bool = False) -> list[Stored[AlertRule]]:
    """All rules that the connection may see. `held`: none of them is removed before the transaction ends."""
    return RULES.where(conn, sql.SQL("ORDER BY t.id FOR KEY SHARE" if held else "ORDER BY t.id"), ())


def channel(conn: Connection[Any], channel_id: str) -> Channel | None:
    """The channel of that id, or None."""
    stored = CHANNELS.get(conn, channel_id)
    return None if stored is None else stored.value


def sealed_url(conn: Connection[Any], channel_id: str) -> bytes | None:
    """The sealed URL of a webhook; None for one from before they were sealed."""
    row = conn.execute("SELECT sealed FROM interlock.alert_channels WHERE id = %s", (channel_id,)).fetchone()
    return None if row is None else row[0]


def put_url(conn: Connection[Any], channel_id: str, sealed: bytes, shown: str, mark: str) -> None:
    """Keep the URL of a webhook. What changed is told by `Channel.mark`; the record of changes never has it."""
    conn.execute(
        "UPDATE interlock.alert_channels SET sealed = %s, url = %s, mark = %s WHERE id = %s",
        (sealed, shown, mark, channel_id),
    )


def unsealed(conn: Connection[Any]) -> list[Channel]:
    """Webhooks whose URL is stored in the clear, locked."""
    clear = sql.SQL("WHERE t.kind = 'webhook' AND t.sealed IS NULL FOR UPDATE OF t")
    return [stored.value for stored in CHANNELS.where(conn, clear, ())]


def ever(conn: Connection[Any]) -> bool:
    """Whether there is a rule, or ever was one."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM interlock.alert_rules)"
        " OR EXISTS (SELECT FROM interlock.changes WHERE object_kind = 'alert_rule')"
    ).fetchone()
    return bool(row and row[0])
