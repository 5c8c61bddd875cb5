"""Snapshots that the gateway's tests build: the parts of a small configuration, changed one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from interlock.gateway.snapshot import SnapshotView
from interlock.types.identity import ApiKey, Principal, PrincipalKind, Team, Tenant
from interlock.types.snapshot import (
    FORMAT,
    Head,
    Part,
    bucket_of,
    bucket_part,
    principal_digest,
    root_hash,
)
from interlock.types.source import Model, Source, SourceKind

TENANT = "ten_a"


def part(name: str, value: Any, version: int) -> Part:
    """A part as the compiler writes it."""
    body = msgspec.msgpack.encode(value)
    return Part(name, version, hashlib.sha256(body).digest(), body)


def digest_of(key: str) -> bytes:
    """A lookup digest for a test's key."""
    return hashlib.sha256(key.encode()).digest()


class Compiler:
    """Holds a configuration as parts, and hands out snapshots of it."""

    def __init__(self) -> None:
        self.version = 0
        self.parts: dict[str, Part] = {}
        self.keys: dict[int, dict[bytes, ApiKey]] = {}
        self.principals: dict[int, dict[str, Principal]] = {}

    def put(self, name: str, value: Any) -> Part:
        """Change one part; it is of the next snapshot."""
        self.parts[name] = part(name, value, self.version + 1)
        return self.parts[name]

    def key(self, secret: str, principal_id: str = "prn_1", **fields: Any) -> bytes:
        """Add or change an API key; returns its digest."""
        digest = digest_of(secret)
        bucket = self.keys.setdefault(bucket_of(digest), {})
        bucket[digest] = ApiKey(id=f"key_{secret}", tenant_id=TENANT, principal_id=principal_id, **fields)
        self.put(bucket_part("keys", bucket_of(digest)), bucket)
        return digest

    def principal(self, principal_id: str, name: str, **fields: Any) -> None:
        """Add or change a principal."""
        number = bucket_of(principal_digest(principal_id))
        bucket = self.principals.setdefault(number, {})
        bucket[principal_id] = Principal(
            id=principal_id, tenant_id=TENANT, kind=PrincipalKind.user, name=name, **fields
        )
        self.put(bucket_part("principals", number), bucket)

    def head(self) -> Head:
        """Make the changes a new snapshot."""
        self.version += 1
        return self.current()

    def current(self) -> Head:
        """The head of the newest snapshot."""
        return Head(self.version, root_hash({p.name: p.sha256 for p in self.parts.values()}), FORMAT, self.version * 10)

    def newer(self, than: int) -> list[Part]:
        """The parts above a version."""
        return [p for _, p in sorted(self.parts.items()) if p.version > than]

    def view(self) -> SnapshotView:
        """A view of the newest snapshot."""
        return SnapshotView.from_parts(self.parts.values(), self.current(), cache_max=64)


def small(sources: Iterable[Source] | None = None) -> Compiler:
    """A tenant with a team, a user with a key, and one source; not yet a snapshot."""
    compiler = Compiler()
    compiler.put("tenants", [Tenant(id=TENANT, name="a")])
    compiler.put("teams", [Team(id="team_1", tenant_id=TENANT, name="research")])
    compiler.put("sources", list(sources) if sources is not None else [plain_source("local")])
    for name in ("policies", "aliases", "issuers"):
        compiler.put(name, [])
    compiler.principal("prn_1", "alice", team_ids=("team_1",))
    compiler.key("one")
    return compiler


def plain_source(name: str, *models: str) -> Source:
    """A source that everybody may use."""
    return Source(
        id=f"src_{name}",
        name=name,
        kind=SourceKind.openai,
        base_url="http://127.0.0.1:9",
        granted_to=("*",),
        models=tuple(Model(name=m) for m in models or ("m",)),
    )
