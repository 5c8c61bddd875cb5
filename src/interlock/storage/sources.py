"""Model sources: what an administrator declared about each, and what discovery found there.

The two are written apart. `update` writes the declaration and moves the revision; `observe` writes what was found
(engine, version, models) and moves nothing, so that discovery never gets in the way of an administrator's change.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from interlock.storage.changes import Author
from interlock.storage.snapshots import mark_dirty
from interlock.storage.table import Stored, Table
from interlock.types.source import Model, Source

_PARTS = ("sources",)


class SourceRow(Source, frozen=True, omit_defaults=True):
    """A source as administrators see it. `models`, `engine` and `engine_version` are what was last observed.

    `pins`: declared overrides per model ({"name": ..., any field of Model}), kept as they were written.
    `discovery_error` is empty when the last discovery succeeded; `warnings` are its remarks.
    """

    pins: tuple[dict[str, Any], ...] = ()
    declared: dict[str, Any] = {}
    """Whatever else of the declaration its owner wants to read back as it was written."""
    discovered_at: datetime | None = None
    discovery_error: str = ""
    warnings: tuple[str, ...] = ()
    engine_report: dict[str, Any] = {}
    """What the supervisor of its engine said besides `engine_state`."""
    engine_seen_at: datetime | None = None


OBSERVED = (
    "engine",
    "engine_version",
    "models",
    "discovered_at",
    "discovery_error",
    "warnings",
    "engine_state",
    "engine_report",
    "engine_seen_at",
)
"""Fields that `observe` and `report` write, and `update` leaves alone."""

TABLE = Table(
    "sources",
    "source",
    SourceRow,
    (
        "id",
        "name",
        "kind",
        "base_url",
        "tenant_id",
        "granted_to",
        "api_prefix",
        "labels",
        "limits",
        "timeouts",
        "credential",
        "tls",
        "egress_proxy",
        "egress_proxy_credential",
        "drained",
        "engine",
        "engine_version",
        "extra_fields",
        "models",
        "prefix_cache_salt",
        "meter",
        "pins",
        "declared",
        "discovered_at",
        "discovery_error",
        "warnings",
        "engine_state",
        "engine_report",
        "engine_seen_at",
    ),
    json=(
        "labels",
        "limits",
        "timeouts",
        "credential",
        "egress_proxy_credential",
        "tls",
        "models",
        "meter",
        "pins",
        "declared",
        "engine_report",
    ),
    parts=lambda _: _PARTS,
)


def insert(conn: Connection[Any], source: SourceRow, by: Author) -> Stored[SourceRow]:
    """Store a new source, with whatever was discovered already. Raises Conflict when the name is taken: source names
    are unique over the whole installation, because `source::model` is."""
    return TABLE.insert(conn, source, by)


def update(
    conn: Connection[Any], source: SourceRow, by: Author, *, revision: int | None = None, action: str = "update"
) -> Stored[SourceRow]:
    """Replace the declared fields; what was observed stays as stored, whatever `source` holds.

    `action` is the verb in the change record ("drain", "undrain"). Raises NotFound, Conflict (name taken, revision).
    """
    stored = TABLE.lock(conn, source.id, revision).value
    observed = {name: getattr(stored, name) for name in OBSERVED}
    return TABLE.update(conn, msgspec.structs.replace(source, **observed), by, action=action)


def observe(
    conn: Connection[Any],
    source_id: str,
    by: Author,
    *,
    engine: str = "",
    engine_version: str = "",
    models: tuple[Model, ...] = (),
    warnings: tuple[str, ...] = (),
    error: str = "",
) -> bool:
    """Write what discovery found at `by.at`; True when engine, version or models differ from before.

    With `error` the last known engine and models are kept and only the error is noted. Only a difference is recorded
    as a change and marks the snapshot; the revision stays. Raises NotFound.
    """
    before = TABLE.lock(conn, source_id).value
    after = msgspec.structs.replace(before, discovered_at=by.at, discovery_error=error, warnings=warnings)
    if not error:
        after = msgspec.structs.replace(after, engine=engine, engine_version=engine_version, models=models)
    conn.execute(
        "UPDATE interlock.sources SET engine = %s, engine_version = %s, models = %s, discovered_at = %s,"
        " discovery_error = %s, warnings = %s WHERE id = %s",
        (
            after.engine,
            after.engine_version,
            Jsonb(msgspec.to_builtins(after.models)),
            by.at,
            error,
            list(warnings),
            source_id,
        ),
    )
    changed = _found(before) != _found(after)
    if changed:
        TABLE.record(conn, "observe", before, after, by)
        mark_dirty(conn, _PARTS)
    return changed


def report(
    conn: Connection[Any],
    source_id: str,
    by: Author,
    *,
    state: str,
    said: dict[str, Any],
    silent_since: datetime | None = None,
) -> Stored[SourceRow]:
    """Write what is said of its engine. Only another state is a change, and marks the snapshot; saying the same again
    moves the time alone. With `silent_since`, nothing is written of one that was heard of later. Raises NotFound."""
    before = TABLE.lock(conn, source_id)
    if silent_since is not None and (before.value.engine_seen_at or silent_since) > silent_since:
        return before
    after = msgspec.structs.replace(before.value, engine_state=state, engine_report=said, engine_seen_at=by.at)
    conn.execute(
        "UPDATE interlock.sources SET engine_state = %s, engine_report = %s, engine_seen_at = %s WHERE id = %s",
        (state, Jsonb(said), by.at, source_id),
    )
    if state != before.value.engine_state:
        TABLE.record(conn, "engine", before.value, after, by)
        mark_dirty(conn, _PARTS)
    return msgspec.structs.replace(before, value=after)


def delete(conn: Connection[Any], source_id: str, by: Author, *, revision: int | None = None) -> Stored[SourceRow]:
    """Remove a source. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, source_id, by, revision=revision)


def get(conn: Connection[Any], source_id: str) -> Stored[SourceRow] | None:
    """A source by id, or None."""
    return TABLE.get(conn, source_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[SourceRow] | None:
    """A source by name that belongs to a tenant ("": to the platform), or None."""
    return TABLE.by_name(conn, name, tenant_id)


def named(conn: Connection[Any], name: str) -> Stored[SourceRow] | None:
    """The source of that name, whoever owns it, or None: names are unique over the installation."""
    rows = TABLE.where(conn, sql.SQL("WHERE t.name = %s"), (name,))
    return rows[0] if rows else None


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[SourceRow]]:
    """At most `limit` sources in id order behind `after`; of one tenant ("": the platform's) when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[Source]:
    """All sources with their models, for the snapshot."""
    return TABLE.all_as(conn, Source)


def _found(source: SourceRow) -> tuple[str, str, tuple[Model, ...]]:
    return source.engine, source.engine_version, source.models
