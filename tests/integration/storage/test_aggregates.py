"""Every aggregate: what is stored comes back, changes are recorded and mark the snapshot, revisions guard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import msgspec
import psycopg
import pytest

from interlock.errors import BadRequest, Conflict, NotFound, StoreError
from interlock.storage import (
    aliases,
    bindings,
    changes,
    issuers,
    keys,
    policies,
    principals,
    snapshots,
    sources,
    teams,
    tenants,
)
from interlock.storage.pool import Store
from interlock.types.identity import ApiKey, Principal, Tenant
from interlock.types.snapshot import bucket_of, bucket_part, principal_digest
from interlock.types.source import Model, Source

from . import samples
from .samples import BY, NOW


@pytest.fixture
def home(store: Store) -> Tenant:
    """A tenant of this test's own."""
    with store.platform() as conn:
        return tenants.insert(conn, samples.tenant(samples.new_id("tenant")), BY).value


def _principal(store: Store, home: Tenant, name: str = "alice") -> Principal:
    with store.tenant(home.id) as conn:
        return principals.insert(conn, samples.principal(home.id, name), BY).value


def _dirty(store: Store) -> frozenset[str]:
    with store.compiling() as conn:
        assert conn is not None
        return snapshots.dirty(conn).parts


def _settle(store: Store) -> None:
    with store.compiling() as conn:
        assert conn is not None
        snapshots.forget(conn, snapshots.dirty(conn))


SMALL: list[tuple[ModuleType, Callable[[str], Any], dict[str, Any], str]] = [
    (teams, samples.team, {"cost_center": "9"}, "teams"),
    (policies, samples.policy, {"cedar": "forbid (principal, action, resource);"}, "policies trials"),
    (aliases, samples.alias, {"max_tokens": 99}, "aliases"),
    (issuers, lambda t: samples.issuer(t, f"https://{t}"), {"audience": "other"}, "issuers"),
    (sources, lambda t: samples.source(t, f"src-{t}"), {"drained": True}, "sources"),
]


@pytest.mark.parametrize(("module", "make", "edit", "part"), SMALL, ids=[m[0].__name__ for m in SMALL])
def test_life_of_a_row(
    store: Store, home: Tenant, module: Any, make: Callable[[str], Any], edit: dict[str, Any], part: str
) -> None:
    value = make(home.id)
    _settle(store)
    with store.tenant(home.id) as conn:
        created = module.insert(conn, value, BY)
        assert created.value == value
        assert (created.revision, created.created_at, created.updated_at) == (1, NOW, NOW)
    assert _dirty(store) == set(part.split())

    _settle(store)
    later = msgspec.structs.replace(BY, at=NOW + timedelta(hours=1), reason="second thoughts")
    changed = msgspec.structs.replace(value, **edit)
    with store.tenant(home.id) as conn:
        stored = module.update(conn, changed, later, revision=1)
        assert stored.value == changed
        assert (stored.revision, stored.created_at, stored.updated_at) == (2, NOW, later.at)
        assert module.get(conn, value.id) == stored
        assert module.page(conn) == [stored]
        assert module.page(conn, tenant_id=home.id) == [stored]
        assert module.page(conn, tenant_id="") == []
        assert module.page(conn, after=value.id) == []
    assert _dirty(store) == set(part.split())

    with store.tenant(home.id) as conn, pytest.raises(Conflict, match="revision 2, not 1"):
        module.update(conn, value, later, revision=1)
    _settle(store)
    with store.tenant(home.id) as conn:
        module.delete(conn, value.id, later, revision=2)
        assert module.get(conn, value.id) is None
    assert _dirty(store) == set(part.split())
    with store.tenant(home.id) as conn, pytest.raises(NotFound):
        module.delete(conn, value.id, later)

    with store.tenant(home.id) as conn:
        found = changes.page(conn, object_id=value.id)
    kind = found[0].object_kind
    assert [c.action for c in found] == [f"{kind}.delete", f"{kind}.update", f"{kind}.create"]
    assert [c.reason for c in found] == ["second thoughts", "second thoughts", "testing"]
    assert found[0].after is None and found[2].before is None
    assert found[1].before != found[1].after and found[1].before == found[2].after


def test_an_equal_value_changes_nothing(store: Store, home: Tenant) -> None:
    value = samples.team(home.id)
    with store.tenant(home.id) as conn:
        first = teams.insert(conn, value, BY)
    _settle(store)
    with store.tenant(home.id) as conn:
        assert teams.update(conn, value, BY) == first
        assert len(changes.page(conn, object_id=value.id)) == 1
    assert _dirty(store) == frozenset()


def test_names_are_unique_in_a_tenant_and_reusable_in_another(store: Store, home: Tenant) -> None:
    with store.tenant(home.id) as conn:
        teams.insert(conn, samples.team(home.id, "ops"), BY)
    with pytest.raises(Conflict, match="the name is taken: teams"), store.tenant(home.id) as conn:
        teams.insert(conn, samples.team(home.id, "ops"), BY)
    with store.platform() as conn:
        other = tenants.insert(conn, samples.tenant(samples.new_id("tenant")), BY).value
        teams.insert(conn, samples.team(other.id, "ops"), BY)
        policies.insert(conn, samples.policy("", "platform-wide"), BY)
    with pytest.raises(Conflict, match="the name is taken"), store.platform() as conn:
        policies.insert(conn, samples.policy("", "platform-wide"), BY)


def test_a_change_needs_a_reason(store: Store, home: Tenant) -> None:
    with pytest.raises(BadRequest, match="reason"), store.tenant(home.id) as conn:
        teams.insert(conn, samples.team(home.id), msgspec.structs.replace(BY, reason="  "))
    with store.tenant(home.id) as conn:
        assert teams.page(conn) == []


def test_principals_keep_the_order_of_their_teams(store: Store, home: Tenant) -> None:
    with store.tenant(home.id) as conn:
        a, b = (teams.insert(conn, samples.team(home.id, n), BY).value.id for n in "ab")
        value = samples.principal(home.id, teams=(b, a))
        assert principals.insert(conn, value, BY).value == value
        swapped = msgspec.structs.replace(value, team_ids=(a, b))
        stored = principals.update(conn, swapped, BY)
        assert (stored.value, stored.revision) == (swapped, 2)
        assert principals.by_name(conn, home.id, "alice") == stored
    with pytest.raises(Conflict, match="still has members"), store.tenant(home.id) as conn:
        teams.delete(conn, a, BY)


def test_a_link_cannot_leave_its_tenant(store: Store, home: Tenant) -> None:
    with store.platform() as conn:
        other = tenants.insert(conn, samples.tenant(samples.new_id("tenant")), BY).value
        foreign = teams.insert(conn, samples.team(other.id), BY).value
        stranger = principals.insert(conn, samples.principal(other.id), BY).value
    with pytest.raises(Conflict, match="names nothing that exists in its tenant"), store.platform() as conn:
        principals.insert(conn, samples.principal(home.id, teams=(foreign.id,)), BY)
    row, digest = samples.key(stranger)
    with pytest.raises(Conflict, match="names nothing that exists in its tenant"), store.platform() as conn:
        keys.insert(conn, msgspec.structs.replace(row, tenant_id=home.id), digest, BY)
    with pytest.raises(BadRequest, match="principal_of_the_tenant_or_the_platform"), store.platform() as conn:
        bindings.insert(conn, samples.binding(home.id, stranger), BY)
    with pytest.raises(BadRequest, match="principal_of_the_tenant_or_the_platform"), store.platform() as conn:
        bindings.insert(conn, samples.binding("", stranger), BY)


def test_role_bindings(store: Store, home: Tenant) -> None:
    admin = _principal(store, home)
    with store.tenant(home.id) as conn:
        given = bindings.insert(conn, samples.binding(home.id, admin), BY)
        assert bindings.page(conn) == [given]
    with pytest.raises(Conflict, match="already"), store.tenant(home.id) as conn:
        bindings.insert(conn, samples.binding(home.id, admin), BY)
    with store.platform() as conn:
        root = principals.insert(
            conn, samples.principal(tenants.PLATFORM_TENANT, samples.new_id("principal")), BY
        ).value
        everywhere = bindings.insert(conn, samples.binding("", root), BY).value
        here = bindings.insert(conn, samples.binding(home.id, root), BY).value
        assert bindings.of_principal(conn, root.id) == [everywhere, here]
        assert bindings.get(conn, here.id) is not None
        bindings.delete(conn, here.id, BY)
    with pytest.raises(NotFound, match="principal"), store.tenant(home.id) as conn:
        bindings.insert(conn, samples.binding(home.id, root), BY)


def test_keys_are_found_by_digest_and_never_shown(store: Store, home: Tenant) -> None:
    owner = _principal(store, home)
    row, digest = samples.key(owner)
    _settle(store)
    with store.tenant(home.id) as conn:
        stored = keys.insert(conn, row, digest, BY)
        assert stored.value == msgspec.structs.replace(row, bucket=bucket_of(digest))
        assert keys.page(conn, principal_id=owner.id) == [stored]
        assert keys.by_name(conn, home.id, row.name) == stored
        assert digest.hex() not in str(changes.page(conn, object_id=row.id))
    assert _dirty(store) == {bucket_part("keys", bucket_of(digest)), "budgets"}
    with store.platform() as conn:
        assert keys.by_digest(conn, digest) == stored
        assert keys.by_digest(conn, bytes(32)) is None
    with pytest.raises(Conflict, match="this key exists already"), store.tenant(home.id) as conn:
        keys.insert(conn, msgspec.structs.replace(row, id=samples.new_id("key")), digest, BY)


def test_revocation_is_remembered_and_can_only_grow(store: Store, home: Tenant) -> None:
    row, digest = samples.key(_principal(store, home))
    with store.tenant(home.id) as conn:
        keys.insert(conn, row, digest, BY)
        revoked = keys.revoke(conn, row.id, BY)
        assert (revoked.value.revoked, revoked.value.cut, revoked.value.revoked_at) == (True, False, NOW)
        later = msgspec.structs.replace(BY, at=NOW + timedelta(hours=2))
        cut = keys.revoke(conn, row.id, later, cut=True)
        assert (cut.value.cut, cut.value.revoked_at, cut.revision) == (True, NOW, 3)
        assert keys.revoke(conn, row.id, later) == cut
        assert keys.by_name(conn, home.id, row.name) is None
        assert keys.named(conn, home.id, row.name) == [cut]
        assert changes.page(conn, object_id=row.id)[0].action == "key.revoke"


def test_buckets_hold_live_keys_and_yesterdays_dead_ones(store: Store, home: Tenant) -> None:
    owner = _principal(store, home)
    made: dict[str, tuple[keys.KeyRow, bytes]] = {}
    with store.tenant(home.id) as conn:
        for name in ("live", "revoked", "long-revoked", "expired", "long-expired"):
            row, digest = samples.key(owner, name)
            not_after = {"expired": NOW - timedelta(hours=1), "long-expired": NOW - timedelta(days=2)}.get(name)
            row = msgspec.structs.replace(row, not_after_s=int(not_after.timestamp()) if not_after else 0)
            keys.insert(conn, row, digest, BY)
            made[name] = (row, digest)
        keys.revoke(conn, made["revoked"][0].id, BY)
        keys.revoke(conn, made["long-revoked"][0].id, msgspec.structs.replace(BY, at=NOW - timedelta(days=2)))
    wanted = {bucket_of(digest) for _, digest in made.values()}
    with store.compiling() as conn:
        assert conn is not None
        found = keys.keys_in_buckets(conn, wanted, now=NOW)
        noon = int(NOW.timestamp())
        lapsed = keys.buckets_lapsed(conn, since_s=noon - 90_000, until_s=noon)
        assert {bucket_of(made[n][1]) for n in ("revoked", "expired")} <= set(lapsed)
        long_ago = keys.buckets_lapsed(conn, since_s=0, until_s=noon - 90_000)
        assert set(long_ago) == {bucket_of(made[n][1]) for n in ("long-revoked", "long-expired")}
    assert set(found) == wanted
    by_digest = {d: k for bucket in found.values() for d, k in bucket.items()}
    names = {name for name, (_, digest) in made.items() if digest in by_digest}
    assert names == {"live", "revoked", "expired"}
    live = by_digest[made["live"][1]]
    assert type(live) is ApiKey and live.id == made["live"][0].id
    assert all(bucket_of(d) == b for b, content in found.items() for d in content)


def test_principal_buckets_agree_with_the_digest(store: Store, home: Tenant) -> None:
    people = [_principal(store, home, f"p{i}") for i in range(20)]
    with store.compiling() as conn:
        assert conn is not None
        wanted = {bucket_of(principal_digest(p.id)) for p in people}
        found = principals.principals_in_buckets(conn, wanted)
        assert {p.id for bucket in found.values() for p in bucket} >= {p.id for p in people}
        for bucket, content in found.items():
            assert all(bucket_of(principal_digest(p.id)) == bucket for p in content)
        assert {bucket_part("principals", b) for b in wanted} <= set(snapshots.buckets_in_use(conn))


def test_deleting_a_principal_takes_its_keys_and_marks_their_buckets(store: Store, home: Tenant) -> None:
    owner = _principal(store, home)
    row, digest = samples.key(owner)
    with store.tenant(home.id) as conn:
        keys.insert(conn, row, digest, BY)
        bindings.insert(conn, samples.binding(home.id, owner), BY)
    _settle(store)
    with store.tenant(home.id) as conn:
        principals.delete(conn, owner.id, BY)
        assert keys.get(conn, row.id) is None
    assert _dirty(store) == {bucket_part("keys", bucket_of(digest)), principals.part(owner.id)}


def test_deleting_a_tenant_takes_everything_but_the_record_of_changes(store: Store, home: Tenant) -> None:
    with store.tenant(home.id) as conn:
        group = teams.insert(conn, samples.team(home.id), BY).value
        owner = principals.insert(conn, samples.principal(home.id, teams=(group.id,)), BY).value
        row, digest = samples.key(owner)
        keys.insert(conn, row, digest, BY)
        for module, value in (
            (policies, samples.policy(home.id)),
            (aliases, samples.alias(home.id)),
            (issuers, samples.issuer(home.id, "https://gone")),
            (sources, samples.source(home.id, "gone")),
            (bindings, samples.binding(home.id, owner)),
        ):
            module.insert(conn, value, BY)
    with store.platform() as conn:
        tenants.delete(conn, home.id, BY)
        assert tenants.get(conn, home.id) is None
        kept = changes.page(conn, tenant_id=home.id)
        assert kept[0].action == "tenant.delete" and len(kept) >= 9
    assert {"tenants", "teams", "sources", principals.part(owner.id)} <= _dirty(store)


def test_only_the_platform_makes_tenants(store: Store, home: Tenant) -> None:
    with pytest.raises(StoreError) as caught, store.tenant(home.id) as conn:
        tenants.insert(conn, samples.tenant("mine"), BY)
    assert caught.value.code == "store_forbidden"
    with store.tenant(home.id) as conn:
        renamed = tenants.update(conn, msgspec.structs.replace(home, name=f"{home.name} Ltd"), BY)
        assert tenants.page(conn) == [renamed]


def test_what_discovery_finds_is_apart_from_what_was_declared(store: Store) -> None:
    declared = msgspec.structs.replace(samples.source("", samples.new_id("source")), models=())
    found = (Model(name="llama", context_length=4096), Model(name="llama-sql", parent="llama"))
    system = msgspec.structs.replace(BY, actor_id="system", actor="discovery", reason="discovered")
    with store.platform() as conn:
        sources.insert(conn, declared, BY)
        assert sources.observe(conn, declared.id, system, engine="vllm", engine_version="0.32", models=found)
        stored = sources.get(conn, declared.id)
        assert stored is not None and stored.revision == 1
        assert (stored.value.models, stored.value.engine_version) == (found, "0.32")
        assert changes.page(conn, object_id=declared.id)[0].action == "source.observe"
    _settle(store)
    with store.platform() as conn:
        later = msgspec.structs.replace(system, at=NOW + timedelta(minutes=1))
        assert not sources.observe(conn, declared.id, later, engine="vllm", engine_version="0.32", models=found)
        assert not sources.observe(conn, declared.id, later, error="connection refused")
        stored = sources.get(conn, declared.id)
        assert stored is not None
        assert (stored.value.discovery_error, stored.value.models) == ("connection refused", found)
        assert stored.value.discovered_at == later.at
    assert _dirty(store) == frozenset()
    with store.platform() as conn:
        drained = sources.update(conn, msgspec.structs.replace(declared, drained=True), BY, revision=1, action="drain")
        assert sources.named(conn, declared.name) == drained
        assert drained.value.drained and drained.value.models == found and drained.revision == 2
        assert next(s for s in sources.everything(conn) if s.id == declared.id).models == found
        assert all(type(s) is Source for s in sources.everything(conn))
        assert changes.page(conn, object_id=declared.id)[0].action == "source.drain"


def test_the_snapshot_sees_plain_types(store: Store, home: Tenant) -> None:
    with store.tenant(home.id) as conn:
        text, inactive = (
            samples.policy(home.id, "on"),
            msgspec.structs.replace(samples.policy(home.id, "off"), active=False),
        )
        policies.insert(conn, text, BY)
        policies.insert(conn, inactive, BY)
        aliases.insert(conn, samples.alias(home.id), BY)
        assert [(p.id, p.tenant_id, p.cedar) for p in policies.everything(conn)] == [("on", home.id, text.cedar)]
        assert b"als_" not in msgspec.msgpack.encode(aliases.everything(conn))
        assert tenants.everything(conn) == [home]


def test_bad_values_are_the_clients_fault(store: Store, home: Tenant) -> None:
    for bad in ("", "x" * 201, "two\nlines"):
        with pytest.raises(BadRequest), store.tenant(home.id) as conn:
            teams.insert(conn, samples.team(home.id, bad), BY)
    with pytest.raises(BadRequest), store.tenant(home.id) as conn:
        teams.insert(conn, msgspec.structs.replace(samples.team(home.id), cost_center="nul\0"), BY)


def test_changes_hold_no_passwords_and_are_only_added(store: Store) -> None:
    value = msgspec.structs.replace(samples.source("", "proxied"), egress_proxy="http://user:geheim@proxy:3128")
    with store.platform() as conn:
        sources.insert(conn, value, BY)
        change = changes.page(conn, tenant_id="", limit=1)[0]
        assert change.after is not None and change.after["egress_proxy"] == "http://***@proxy:3128"
        assert changes.page(conn, before_id=change.id, limit=1)[0].id < change.id
        assert changes.page(conn, actor_id="nobody") == []
    for statement in ("UPDATE interlock.changes SET reason = 'x'", "DELETE FROM interlock.changes"):
        with pytest.raises(StoreError) as caught, store.platform() as conn:
            conn.execute(statement)
        assert caught.value.code == "store_forbidden"
        assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)


def test_a_failed_change_leaves_nothing(store: Store, home: Tenant) -> None:
    with pytest.raises(Conflict), store.tenant(home.id) as conn:
        teams.insert(conn, samples.team(home.id, "first"), BY)
        teams.insert(conn, samples.team(home.id, "first"), BY)
    with store.tenant(home.id) as conn:
        assert teams.page(conn) == []
        assert changes.page(conn, object_id="", limit=1)[0].action != "team.create"
