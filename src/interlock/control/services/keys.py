"""API keys: made and shown once, renewed with an overlap, revoked.

Several stored keys may have one name: a rotation makes a new one and lets the old one run out. The newest of a name is
the one that is meant by it.
"""

from __future__ import annotations

import msgspec

from interlock.control.documents import KeySpec, LimitsSpec, restate
from interlock.control.services.base import Names, Tx, data_class_name, missing, workload_name
from interlock.errors import Conflict
from interlock.storage import keys
from interlock.storage.keys import KeyRow
from interlock.storage.table import Stored
from interlock.types import apikey
from interlock.types.identity import DataClass, LimitSet, Scope, Workload
from interlock.types.snapshot import key_digest

DAY_S = 86_400
OVERLAP_S_MAX = 30 * DAY_S


class Minted(msgspec.Struct, frozen=True):
    """A new key. `secret` is the key itself: shown to whoever made it, once, and stored nowhere."""

    stored: Stored[KeyRow]
    secret: str


def spec_of(stored: Stored[KeyRow], names: Names) -> KeySpec:
    """The declared form of a key; its expiry as the days it was given."""
    key = stored.value
    lasts_s = key.not_after_s - int(stored.created_at.timestamp()) if key.not_after_s else 0
    return KeySpec(
        name=key.name,
        principal=names.of(key.principal_id),
        scopes=tuple(Scope(s) for s in key.scopes),
        data_class=data_class_name(key.data_class),
        expires_in_days=max(1, round(lasts_s / DAY_S)) if key.not_after_s else 0,
        limits=restate(key.limits, LimitsSpec),
        workload=workload_name(key.workload),
    )


def state_of(key: KeyRow, now_s: int) -> str:
    """ "revoked", "expired", or "" for a key that works."""
    if key.revoked:
        return "revoked"
    return "expired" if key.not_after_s and now_s >= key.not_after_s else ""


def find(tx: Tx, tenant_id: str, name: str) -> Stored[KeyRow]:
    """The newest key of that name, or the key of that id. Raises NotFound."""
    if name.startswith("key_"):
        stored = keys.get(tx.conn, name)
        if stored is not None and stored.value.tenant_id == tenant_id:
            return stored
    found = keys.named(tx.conn, tenant_id, name)
    if not found:
        raise missing("key", name)
    return found[0]


def create(tx: Tx, tenant_id: str, spec: KeySpec) -> Minted:
    """A new key. Raises Conflict when the name is taken, also by a revoked key."""
    taken = keys.named(tx.conn, tenant_id, spec.name)
    if taken:
        state = state_of(taken[0].value, int(tx.by.at.timestamp()))
        raise Conflict(f"there is a key named {spec.name!r} already" + (f", which is {state}" if state else ""))
    days = spec.expires_in_days
    key = KeyRow(
        id=tx.tools.new_id("key"),
        tenant_id=tenant_id,
        principal_id=tx.names.principal(tenant_id, spec.principal),
        scopes=tuple(s.value for s in spec.scopes),
        not_after_s=int(tx.by.at.timestamp()) + days * DAY_S if days else 0,
        data_class=DataClass[spec.data_class],
        limits=restate(spec.limits, LimitSet),
        workload=Workload[spec.workload],
        name=spec.name,
    )
    return _mint(tx, key, "create")


def update(tx: Tx, tenant_id: str, spec: KeySpec, revision: int | None = None) -> Stored[KeyRow]:
    """Scopes, classes and limits. Its principal stays: a key never changes hands. Raises NotFound, Conflict."""
    stored = find(tx, tenant_id, spec.name)
    if tx.names.principal(tenant_id, spec.principal) != stored.value.principal_id:
        raise Conflict(f"key {spec.name!r} belongs to another principal; make a key of another name", param="principal")
    key = msgspec.structs.replace(
        stored.value,
        scopes=tuple(s.value for s in spec.scopes),
        data_class=DataClass[spec.data_class],
        limits=restate(spec.limits, LimitSet),
        workload=Workload[spec.workload],
    )
    return keys.update(tx.conn, key, tx.by, revision=revision)


def rotate(tx: Tx, tenant_id: str, name: str, overlap_s: int) -> Minted:
    """A new key with the rights of the old one, which goes on working for `overlap_s` seconds and no longer.

    The new one lasts as long from now as the old one did from its making. Raises NotFound, Conflict when it is revoked.
    """
    old = find(tx, tenant_id, name)
    now_s = int(tx.by.at.timestamp())
    if old.value.revoked:
        raise Conflict(f"key {name!r} is revoked; make a key of another name")
    if keys.named(tx.conn, tenant_id, old.value.name)[0].value.id != old.value.id:
        raise Conflict(f"key {name!r} was rotated already; rotate the newest of that name")
    lasts_s = old.value.not_after_s - int(old.created_at.timestamp()) if old.value.not_after_s else 0
    end_s = now_s + overlap_s
    if old.value.not_after_s:
        end_s = min(end_s, old.value.not_after_s)
    # the new one is replaced from what is stored, before the old one's end is moved
    new = msgspec.structs.replace(
        old.value,
        id=tx.tools.new_id("key"),
        not_after_s=now_s + lasts_s if lasts_s else 0,
        replaces=old.value.id,
    )
    keys.update(tx.conn, msgspec.structs.replace(old.value, not_after_s=max(end_s, 1)), tx.by, action="rotate")
    return _mint(tx, new, "rotate")


def revoke(tx: Tx, tenant_id: str, name: str, *, cut: bool) -> list[Stored[KeyRow]]:
    """Revoke every key of that name that is not yet (after a rotation there may be two); of an id, that one alone.

    With `cut` running calls are cut off too. Raises NotFound.
    """
    newest = find(tx, tenant_id, name)
    if name == newest.value.id:
        return [keys.revoke(tx.conn, name, tx.by, cut=cut)]
    out = []
    for stored in keys.named(tx.conn, tenant_id, name):
        if not stored.value.revoked or (cut and not stored.value.cut):
            stored = keys.revoke(tx.conn, stored.value.id, tx.by, cut=cut)
        out.append(stored)
    return out


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Revoke: a key is never forgotten, so that its bearer is told what happened. Raises NotFound, Conflict."""
    stored = find(tx, tenant_id, name)
    if revision is not None and revision != stored.revision:
        raise Conflict(f"key {name!r} was changed meanwhile", code="revision_conflict")
    revoke(tx, tenant_id, name, cut=False)


def mint(
    tx: Tx,
    tenant_id: str,
    principal_id: str,
    name: str,
    scopes: tuple[Scope, ...],
    not_after_s: int = 0,
    data_class: DataClass = DataClass.internal,
) -> Minted:
    """A key without limits for a principal, whatever keys of that name there are. `not_after_s`: Unix seconds, 0: it
    has no end."""
    key = KeyRow(
        id=tx.tools.new_id("key"),
        tenant_id=tenant_id,
        principal_id=principal_id,
        scopes=tuple(s.value for s in scopes),
        not_after_s=not_after_s,
        data_class=data_class,
        name=name,
    )
    return _mint(tx, key, "create")


def _mint(tx: Tx, key: KeyRow, action: str) -> Minted:
    secret = apikey.mint(tx.tools.settings.key_environment, tx.tools.below)
    key = msgspec.structs.replace(key, prefix=apikey.shown(secret), bucket=0)
    return Minted(keys.insert(tx.conn, key, key_digest(tx.tools.pepper, secret.encode()), tx.by, action=action), secret)
