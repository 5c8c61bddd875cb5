"""The view: proven before it is believed, immutable, shared part by part, bounded in what it remembers."""

from __future__ import annotations

import pytest

from interlock.errors import SnapshotError
from interlock.gateway.snapshot import Remembered, SnapshotView
from interlock.types.snapshot import Alias, Head, Part, bucket_of, root_hash

from .snapshots import TENANT, Compiler, digest_of, plain_source, small


def test_what_a_view_holds() -> None:
    compiler = small()
    compiler.put("weights/ten_1", {"any": 1})
    view = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    key = view.key(digest_of("one"))
    assert key is not None and key.id == "key_one" and view.key(digest_of("one")) is key
    principal = view.principal(key.principal_id)
    assert principal is not None and principal.name == "alice" and view.principal("prn_1") is principal
    tenant, team = view.tenant(TENANT), view.team("team_1")
    assert tenant is not None and tenant.name == "a" and team is not None and team.name == "research"
    assert view.tenant("nobody") is None and view.team("nobody") is None
    assert [o.key for o in view.offers] == ["local::m"]
    assert view.part_body("weights/ten_1") == compiler.parts["weights/ten_1"].body and view.part_body("none") == b""
    assert view.head == compiler.current()
    assert view.part_hash("teams") == compiler.parts["teams"].sha256 and view.part_hash("none") == b""


def test_unknown_keys_and_principals_are_not_found_and_not_remembered() -> None:
    view = small_view()
    for i in range(200):
        assert view.key(digest_of(f"no {i}")) is None and view.principal(f"prn_no{i}") is None
    assert len(view._keys) == len(view._principals) == 0


def test_a_delta_makes_a_new_view_and_leaves_the_old_one() -> None:
    compiler = small()
    old = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    digest = compiler.key("one", revoked=True)
    compiler.principal("prn_1", "alice", active=False)
    old_key, old_principal = old.key(digest), old.principal("prn_1")
    new = old.apply(compiler.newer(1), compiler.head())
    new_key, new_principal = new.key(digest), new.principal("prn_1")
    assert new_key is not None and new_key.revoked and new_principal is not None and not new_principal.active
    assert old.key(digest) == old_key and old_key is not None and not old_key.revoked
    assert old.principal("prn_1") == old_principal
    assert (old.version, new.version) == (1, 2) and new.parts() == tuple(
        compiler.parts[n] for n in sorted(compiler.parts)
    )


def test_what_did_not_change_is_shared() -> None:
    compiler = small()
    old = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    catalog = old.catalog(TENANT)
    known = old.key(digest_of("one"))
    compiler.key("two")
    new = old.apply(compiler.newer(1), compiler.head())
    assert new.offers is old.offers and new.sources is old.sources and new.catalog(TENANT) is catalog
    assert bucket_of(digest_of("one")) != bucket_of(digest_of("two")) and new.key(digest_of("one")) is known
    compiler.put("aliases", [Alias(name="fast")])
    newer = new.apply(compiler.newer(2), compiler.head())
    assert newer.offers is old.offers and "fast" in newer.catalog(TENANT).aliases and "fast" not in catalog.aliases
    compiler.put("sources", [plain_source("other")])
    newest = newer.apply(compiler.newer(3), compiler.head())
    assert [o.key for o in newest.catalog(TENANT).offers] == ["other::m"]


def test_a_new_part_name_joins_the_root() -> None:
    compiler = small()
    old = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    compiler.put("guards", ["of a later version"])
    new = old.apply(compiler.newer(1), compiler.head())
    assert new.root == root_hash({p.name: p.sha256 for p in compiler.parts.values()}) != old.root


def test_a_mixture_is_refused() -> None:
    compiler = small()
    old = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    compiler.key("one", revoked=True)
    second = compiler.head()
    changed_then = compiler.newer(1)
    compiler.key("two")
    third = compiler.head()
    with pytest.raises(SnapshotError, match="do not add up"):
        old.apply(changed_then, third)
    with pytest.raises(SnapshotError, match="do not add up"):
        old.apply(compiler.newer(2), third)
    with pytest.raises(SnapshotError, match="do not add up"):
        SnapshotView.from_parts(list(compiler.parts.values())[:-1], third, cache_max=64)
    assert old.apply(changed_then, second).version == 2
    assert old.version == 1 and old.key(digest_of("two")) is None


def test_a_part_without_its_hash_is_refused() -> None:
    compiler = small()
    head = compiler.head()
    bad = [
        Part(p.name, p.version, p.sha256, p.body + b"\0") if p.name == "teams" else p for p in compiler.parts.values()
    ]
    with pytest.raises(SnapshotError, match="part teams of snapshot 1 does not have its hash"):
        SnapshotView.from_parts(bad, head, cache_max=64)


def test_another_format_is_refused() -> None:
    compiler = small()
    head = compiler.head()
    with pytest.raises(SnapshotError, match="format 99"):
        SnapshotView.from_parts(compiler.parts.values(), Head(1, head.root, 99, 0), cache_max=64)


@pytest.mark.parametrize("name", ["keys/", "keys/zzz", "keys/400", "keys/-01", "principals/1000"])
def test_a_bucket_that_does_not_exist_is_refused(name: str) -> None:
    compiler = small()
    compiler.put(name, {})
    with pytest.raises(SnapshotError, match="not the name of a snapshot part"):
        SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)


def test_a_part_that_cannot_be_decoded_is_refused_with_its_name() -> None:
    compiler = small()
    compiler.put("teams", {"not": "a list"})
    with pytest.raises(SnapshotError, match="part teams of the snapshot"):
        SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)


def test_a_bucket_that_cannot_be_decoded_says_so_when_it_is_used() -> None:
    compiler = small()
    digest = digest_of("one")
    compiler.put(f"keys/{bucket_of(digest):03x}", {digest: ["not", "a", "key"]})
    view = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    with pytest.raises(SnapshotError, match="keys/"):
        view.key(digest)


def test_a_principal_is_found_by_name() -> None:
    compiler = small()
    for i in range(50):
        compiler.principal(f"prn_n{i}", f"user-{i}")
    view = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
    found = view.principal_named(TENANT, "user-7")
    assert found is not None and found.id == "prn_n7" and view.principal_named(TENANT, "user-7") == found
    assert view.principal_named("ten_b", "user-7") is None
    assert view.principal_named(TENANT, "user") is None and view.principal_named(TENANT, "x" * 9999) is None
    compiler.principal("prn_n7", "renamed")
    compiler.principal("prn_new", "newcomer")
    assert view.principal_named(TENANT, "newcomer") is None
    new = view.apply(compiler.newer(1), compiler.head())
    assert new.principal_named(TENANT, "user-7") is None
    renamed, newcomer = new.principal_named(TENANT, "renamed"), new.principal_named(TENANT, "newcomer")
    assert renamed is not None and renamed.id == "prn_n7" and newcomer is not None
    assert view.principal_named(TENANT, "user-7") == found


def test_names_are_remembered_within_bounds() -> None:
    compiler = small()
    for i in range(30):
        compiler.principal(f"prn_n{i}", f"user-{i}")
    view = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=8)
    for i in range(30):
        assert view.principal_named(TENANT, f"user-{i}") is not None and view.principal_named(TENANT, f"no-{i}") is None
    assert len(view._names.found) <= 8 and len(view._names._missing) <= 8


def test_decoded_keys_are_bounded_and_the_used_ones_stay() -> None:
    compiler = small()
    digests = [compiler.key(f"k{i}") for i in range(100)]
    view = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=32)
    hot = view.key(digests[0])
    for digest in digests:
        assert view.key(digest) is not None
        assert view.key(digests[0]) is hot
        assert len(view._keys) <= 16
    remembered = Remembered[int](1)
    for i in range(5):
        remembered.put(str(i), (0, b"", i))
        assert len(remembered) <= 2


def test_an_empty_snapshot_knows_nobody() -> None:
    view = SnapshotView.from_parts([], Head(0, root_hash({}), 1, 0), cache_max=16)
    assert view.key(b"\0" * 32) is None and view.principal("x") is None and view.offers == ()
    assert view.principal_named("t", "x") is None and view.catalog("t").offers == ()


def test_catalogs_of_unknown_tenants_are_bounded() -> None:
    compiler = Compiler()
    first = SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64, catalogs_max=4)
    for view in (first, first.apply([], first.head)):
        for i in range(20):
            view.catalog(f"ten_{i}")
        assert 0 < len(view._catalogs) <= 4


def small_view() -> SnapshotView:
    compiler = small()
    return SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)
