"""Stored things as the admin API shows them: their declared form, what the installation adds, and the revision."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from interlock.control.plan import Kind
from interlock.control.services import (
    aliases,
    budgets,
    canaries,
    issuers,
    keys,
    policies,
    principals,
    roles,
    sources,
    teams,
    tenants,
)
from interlock.control.services.base import Tx
from interlock.storage.table import Stored


class Meta(msgspec.Struct, frozen=True):
    """What every stored thing has besides its declared form. Send `revision` back as If-Match to change only that."""

    id: str
    revision: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class Page(msgspec.Struct, frozen=True):
    """Rows of a listing. `next`: pass it as `after` for the rows behind; null at the end."""

    items: list[dict[str, Any]]
    next: str | None


def show(tx: Tx, kind: Kind, stored: Stored[Any]) -> dict[str, Any]:
    """One stored thing: declared fields, `id`, `revision`, times, and for keys and sources how they are."""
    value = stored.value
    out: dict[str, Any] = {
        "id": value.id,
        "revision": stored.revision,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    }
    out.update(_full(_spec(tx, kind, stored)))
    if kind == "key":
        now_s = int(tx.by.at.timestamp())
        out["prefix"] = value.prefix
        out["state"] = keys.state_of(value, now_s) or "active"
        out["expires_at"] = _time(value.not_after_s)
        out["revoked_at"] = value.revoked_at
        out["replaces"] = value.replaces or None
        del out["expires_in_days"]
    elif kind == "source":
        out["drained"] = value.drained
        out["engine"] = value.engine
        out["engine_version"] = value.engine_version
        out["offers"] = [_full(model) for model in value.models]
        out["discovered_at"] = value.discovered_at
        out["discovery_error"] = value.discovery_error
        out["warnings"] = list(value.warnings)
        if value.engine_state:
            out["managed"] = {"state": value.engine_state, "seen_at": value.engine_seen_at, **value.engine_report}
    elif kind == "alias" and value.canary is not None:
        out["canary_state"] = canaries.shown(value.canary)
    elif kind == "policy":
        out["cedar"] = value.cedar
        out["words"] = value.words
        out["active"] = value.active
    return out


def _spec(tx: Tx, kind: Kind, stored: Stored[Any]) -> msgspec.Struct:
    value = stored.value
    if kind == "tenant":
        return tenants.spec_of(value)
    if kind == "team":
        return teams.spec_of(value)
    if kind == "principal":
        return principals.spec_of(value, tx.names)
    if kind == "key":
        return keys.spec_of(stored, tx.names)
    if kind == "policy":
        return policies.spec_of(value)
    if kind == "alias":
        return aliases.spec_of(value)
    if kind == "budget":
        return budgets.spec_of(value, tx.names)
    if kind == "issuer":
        return issuers.spec_of(value, tx.names)
    if kind == "role":
        return roles.spec_of(value, tx.names)
    return sources.spec_of(value)


def _full(spec: msgspec.Struct) -> dict[str, Any]:
    """Every field, those at their default too; sections of a tenant that are not set are left out."""
    out = {}
    for name, written in zip(spec.__struct_fields__, spec.__struct_encode_fields__, strict=True):
        value = getattr(spec, name)
        if value is not msgspec.UNSET:
            out[written] = msgspec.to_builtins(value)
    return out


def _time(seconds: int) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC) if seconds else None
