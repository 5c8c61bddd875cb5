"""The snapshot compiler over a real database."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from interlock.control.compiler import CLOSED_KEPT_S, SnapshotCompiler
from interlock.settings import Settings
from interlock.storage import snapshots
from interlock.storage.pool import Store
from interlock.testing.clock import FakeClock
from interlock.types.identity import ApiKey, Principal, Team, Tenant
from interlock.types.snapshot import (
    FORMAT,
    SMALL_PARTS,
    Alias,
    Part,
    PolicyText,
    bucket_of,
    bucket_part,
    key_digest,
    principal_digest,
    root_hash,
)
from interlock.types.source import Model, Source
from tests.integration.control_client import Running, control_over
from tests.unit.control.samples import FULL


@pytest.fixture(scope="module")
def api(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        running.engines.models["http://127.0.0.1:9000"] = (Model(name="smollm2"),)
        yield running


def _parts(store: Store, than: int = 0) -> dict[str, Part]:
    with store.platform() as conn:
        head = snapshots.head(conn)
        assert head is not None
        return {p.name: p for p in snapshots.newer(conn, than, head.version)}


def test_the_whole_configuration_is_in_the_parts(api: Running) -> None:
    made = api.owner.apply(FULL)["keys"]["acme"]
    compiler = api.control.compiler
    before = compiler.last
    assert before is not None
    done = compiler.compile_once()
    assert done is not None
    assert done.version == before.version + 1
    parts = _parts(api.control.store)
    with api.control.store.platform() as conn:
        head = snapshots.head(conn)
    assert head is not None
    assert (head.version, head.format) == (done.version, FORMAT)
    assert head.root == root_hash({name: hashlib.sha256(p.body).digest() for name, p in parts.items()})
    assert set(SMALL_PARTS) <= set(parts)
    decode = msgspec.msgpack.decode
    assert {t.name for t in decode(parts["tenants"].body, type=list[Tenant])} == {"platform", "acme", "globex"}
    assert {t.name for t in decode(parts["teams"].body, type=list[Team])} == {"research", "legal"}
    assert {p.id for p in decode(parts["policies"].body, type=list[PolicyText])} == {"research-models", "legal", "eu"}
    assert {a.name for a in decode(parts["aliases"].body, type=list[Alias])} == {"fast", "company/default"}
    sources = {s.name: s for s in decode(parts["sources"].body, type=list[Source])}
    assert [m.name for m in sources["local"].models] == ["smollm2"]
    assert [m.name for m in sources["cloud"].models] == ["big"]
    digest = key_digest(api.control.tools.pepper, made["alice-laptop"].encode())
    bucket = decode(parts[bucket_part("keys", bucket_of(digest))].body, type=dict[bytes, ApiKey])
    alice_id = bucket[digest].principal_id
    members = parts[bucket_part("principals", bucket_of(principal_digest(alice_id)))].body
    assert decode(members, type=dict[str, Principal])[alice_id].name == "alice"


def test_a_revocation_changes_one_part(api: Running) -> None:
    api.owner.apply(FULL)
    api.control.compiler.compile_once()
    api.owner.do("POST", "/tenants/acme/keys", {"name": "short", "principal": "alice"})
    made = api.control.compiler.compile_once()
    assert made is not None
    (part,) = made.changed
    api.owner.do("POST", "/tenants/acme/keys/short/revoke", {"cut": True})
    revoked = api.control.compiler.compile_once()
    assert revoked is not None
    assert revoked.changed == (part,)
    body = msgspec.msgpack.decode(_parts(api.control.store, made.version)[part].body, type=dict[bytes, ApiKey])
    assert [(k.revoked, k.cut) for k in body.values() if k.revoked] == [(True, True)]


def test_nothing_marked_makes_no_version_and_the_same_rows_the_same_bytes(api: Running) -> None:
    compiler = api.control.compiler
    first = compiler.compile_once()
    second = compiler.compile_once()
    assert first is not None
    assert second is not None
    assert (second.version, second.changed) == (first.version, ())
    before = {name: p.sha256 for name, p in _parts(api.control.store).items()}
    with api.control.store.platform() as conn:
        snapshots.mark_everything(conn)
    other = SnapshotCompiler(api.control.store, api.control.settings, api.control.tools.clock)
    third = other.compile_once()
    assert third is not None
    assert (third.version, third.changed) == (first.version, ())
    assert {name: p.sha256 for name, p in _parts(api.control.store).items()} == before


def test_one_compiler_at_a_time(api: Running) -> None:
    with api.control.store.compiling() as conn:
        assert conn is not None
        assert api.control.compiler.compile_once() is None


def test_a_failed_compilation_leaves_the_marks_and_the_old_version(api: Running) -> None:
    compiler = SnapshotCompiler(api.control.store, api.control.settings, api.control.tools.clock)
    before = compiler.compile_once()
    api.owner.do("POST", "/tenants", {"name": "later"})
    publish = snapshots.publish

    def fails(*args: object) -> None:
        publish(*args)  # type: ignore[arg-type]
        raise RuntimeError("killed before the commit")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(snapshots, "publish", fails)
        compiler.compile_once()
    after = compiler.compile_once()
    assert before is not None
    assert after is not None
    assert (after.version, after.changed) == (before.version + 1, ("tenants",))
    parts = _parts(api.control.store)
    with api.control.store.platform() as conn:
        head = snapshots.head(conn)
    assert head is not None
    assert head.root == root_hash({name: p.sha256 for name, p in parts.items()})


def test_closed_keys_leave_the_snapshot_after_a_day(api: Running) -> None:
    api.owner.do("POST", "/tenants", {"name": "closing"})
    api.owner.do("POST", "/tenants/closing/principals", {"name": "p"})
    made = api.owner.do("POST", "/tenants/closing/keys", {"name": "k", "principal": "p"})
    digest = key_digest(api.control.tools.pepper, made["key"].encode())
    part = bucket_part("keys", bucket_of(digest))
    api.owner.do("POST", "/tenants/closing/keys/k/revoke", {})
    clock = FakeClock(wall_ns=time.time_ns())
    compiler = SnapshotCompiler(api.control.store, api.control.settings, clock)

    def there() -> bool:
        compiler.compile_once()
        return digest in msgspec.msgpack.decode(_parts(api.control.store)[part].body, type=dict[bytes, ApiKey])

    assert there()
    clock.advance(s=CLOSED_KEPT_S - 60)
    assert there()
    clock.advance(s=2 * 3600)
    assert not there()


def test_a_running_compiler_follows_a_change_when_it_is_told(api: Running) -> None:
    settings = Settings(home=api.control.settings.home, snapshot_poll_ms=60_000)
    compiler = SnapshotCompiler(api.control.store, settings, api.control.tools.clock)
    stop = threading.Event()
    thread = threading.Thread(target=compiler.run, args=(stop,))
    thread.start()
    try:
        _until(lambda: compiler.last is not None)
        time.sleep(0.3)  # now it waits, and only being told can wake it: the poll is a minute away
        assert compiler.last is not None
        version = compiler.last.version
        api.owner.do("POST", "/tenants", {"name": "told"})
        _until(lambda: compiler.last is not None and compiler.last.version > version)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def _until(holds: object, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
