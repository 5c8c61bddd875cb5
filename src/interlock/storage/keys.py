"""API keys. A key is stored nowhere: only its HMAC under the installation's pepper, and its first characters."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection, sql
from psycopg.rows import dict_row

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.identity import ApiKey
from interlock.types.snapshot import bucket_part


class KeyRow(ApiKey, frozen=True, omit_defaults=True):
    """An API key as administrators see it: what a worker knows of it, and its story.

    `prefix`: the key's first characters (`types.apikey.shown`), so that a person can tell keys apart. `replaces`: the
    key id that this one is the rotation of.
    """

    name: str = ""
    prefix: str = ""
    bucket: int = 0
    replaces: str = ""
    revoked_at: datetime | None = None


TABLE = Table(
    "api_keys",
    "key",
    KeyRow,
    (
        "id",
        "tenant_id",
        "principal_id",
        "scopes",
        "not_after_s",
        "data_class",
        "limits",
        "revoked",
        "cut",
        "name",
        "prefix",
        "replaces",
        "revoked_at",
        "workload",
    ),
    json=("limits",),
    parts=lambda k: (bucket_part("keys", k.bucket), "budgets"),
    computed={"bucket": "t.bucket"},
    unseen=("digest",),
)


def insert(conn: Connection[Any], key: KeyRow, digest: bytes, by: Author, *, action: str = "create") -> Stored[KeyRow]:
    """Store a new key under its 32-byte digest (`interlock.types.snapshot.key_digest`); `bucket` follows from it.

    Raises Conflict when the digest or the id exists, or when the principal is not of the key's tenant.
    """
    return TABLE.insert(conn, key, by, action=action, unseen={"digest": digest})


def update(
    conn: Connection[Any], key: KeyRow, by: Author, *, revision: int | None = None, action: str = "update"
) -> Stored[KeyRow]:
    """Replace everything but the digest. Raises NotFound, Conflict (another revision)."""
    return TABLE.update(conn, key, by, revision=revision, action=action)


def revoke(
    conn: Connection[Any], key_id: str, by: Author, *, cut: bool = False, revision: int | None = None
) -> Stored[KeyRow]:
    """Revoke a key from `by.at` on; with `cut` its running calls are cut off too. Revoking again changes nothing
    except that `cut` can still be added. Raises NotFound, Conflict."""
    before = TABLE.lock(conn, key_id, revision).value
    after = msgspec.structs.replace(before, revoked=True, cut=before.cut or cut, revoked_at=before.revoked_at or by.at)
    return TABLE.update(conn, after, by, action="revoke")


def delete(conn: Connection[Any], key_id: str, by: Author, *, revision: int | None = None) -> Stored[KeyRow]:
    """Remove a key. To shut a caller out, revoke it: its answer then says why. Raises NotFound, Conflict."""
    return TABLE.delete(conn, key_id, by, revision=revision)


def get(conn: Connection[Any], key_id: str) -> Stored[KeyRow] | None:
    """A key by id, or None."""
    return TABLE.get(conn, key_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[KeyRow] | None:
    """The newest key of that name that is not revoked, or None. Names need not be unique: see `named`."""
    return next((key for key in named(conn, tenant_id, name) if not key.value.revoked), None)


def named(conn: Connection[Any], tenant_id: str, name: str) -> list[Stored[KeyRow]]:
    """All keys of that name, revoked ones too, newest first: during a rotation there are two."""
    return TABLE.where(conn, sql.SQL("WHERE t.tenant_id = %s AND t.name = %s ORDER BY t.id DESC"), (tenant_id, name))


def by_digest(conn: Connection[Any], digest: bytes) -> Stored[KeyRow] | None:
    """The key with this digest, or None: how the admin API authenticates (platform role; tenants cannot)."""
    rows = TABLE.where(conn, sql.SQL("WHERE t.digest = %s"), (digest,))
    return rows[0] if rows else None


def page(
    conn: Connection[Any],
    *,
    tenant_id: str | None = None,
    principal_id: str = "",
    after: str = "",
    limit: int = 100,
) -> list[Stored[KeyRow]]:
    """At most `limit` keys in id order behind `after`; of one tenant or principal when given."""
    if not principal_id:
        return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)
    where = sql.SQL("WHERE t.principal_id = %s AND t.id > %s ORDER BY t.id LIMIT %s")
    return TABLE.where(conn, where, (principal_id, after, limit))


def keys_in_buckets(
    conn: Connection[Any], buckets: Iterable[int], *, now: datetime, keep_s: int = 86_400
) -> dict[int, dict[bytes, ApiKey]]:
    """The keys of each given bucket by digest, in digest order, for the snapshot.

    Keys revoked or expired more than `keep_s` before `now` are left out; until then they stay, so that the answer to
    their bearer can say which it was.
    """
    found: dict[int, dict[bytes, ApiKey]] = {b: {} for b in buckets}
    since = now - timedelta(seconds=keep_s)
    query = (
        "SELECT bucket, digest, id, tenant_id, principal_id, scopes, not_after_s, data_class, limits, revoked, cut,"
        " workload FROM interlock.api_keys WHERE bucket = ANY(%s) AND (revoked_at IS NULL OR revoked_at > %s)"
        " AND (not_after_s = 0 OR not_after_s > %s) ORDER BY digest"
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, (list(found), since, int(since.timestamp()))):
            found[row["bucket"]][bytes(row["digest"])] = msgspec.convert(row, ApiKey)
    return found


def buckets_lapsed(conn: Connection[Any], *, since_s: int, until_s: int) -> list[int]:
    """Buckets with a key that was revoked or expired in (`since_s`, `until_s`], Unix seconds."""
    rows = conn.execute(
        "SELECT DISTINCT bucket FROM interlock.api_keys"
        " WHERE (revoked_at > to_timestamp(%(since)s) AND revoked_at <= to_timestamp(%(until)s))"
        " OR (not_after_s > greatest(0, %(since)s) AND not_after_s <= %(until)s)",
        {"since": since_s, "until": until_s},
    )
    return sorted(bucket for (bucket,) in rows)
