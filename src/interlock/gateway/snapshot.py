"""The snapshot as a worker holds it: immutable, verified, shared part by part with the one before.

A `SnapshotView` is built from all parts, or from an older view and the parts that changed (`apply`). Both prove the
root hash before anything is believed, so a view is never a mixture of two snapshots. A request takes the view once
and keeps it to its end; swapping in a new one is one assignment.

API keys and principals stay as the bytes they came in (`BUCKETS` parts each) and are decoded one by one when asked
for; the decoded ones are remembered in a `Remembered`, which successive views share. At 100,000 keys a view holds
about 30 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from interlock.errors import SnapshotError
from interlock.metering.book import BudgetBook
from interlock.routing.catalog import Catalog, offers_of
from interlock.types.budget import Budget
from interlock.types.identity import ApiKey, Issuer, Principal, Team, Tenant
from interlock.types.snapshot import (
    BUCKETS,
    FORMAT,
    Alias,
    Head,
    Part,
    PolicyText,
    Trial,
    bucket_of,
    principal_digest,
)
from interlock.types.source import Offer, Source

CATALOGS_MAX = 1024
"""Tenants whose catalogs a view keeps built when nobody says otherwise; more start over."""

NAME_CHARS_MAX = 512
"""Longest principal name that is searched for."""

V = TypeVar("V")
T = TypeVar("T", bound=msgspec.Struct)

_KEY_BUCKETS: Final = msgspec.msgpack.Decoder(dict[bytes, msgspec.Raw])
_PRINCIPAL_BUCKETS: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_KEY: Final = msgspec.msgpack.Decoder(ApiKey)
_PRINCIPAL: Final = msgspec.msgpack.Decoder(Principal)
_NOTHING: Final = Part("", 0, b"", b"")


class Remembered(Generic[V]):
    """Values decoded from buckets, most recently used kept, at most `most` of them.

    Two generations instead of a linked list: a hit in the young one costs one lookup. An entry says which bucket
    and which state of it (the part's hash, by identity) it was decoded from, so an entry of a changed bucket is
    never taken, and views of different snapshots may share one `Remembered`.
    """

    __slots__ = ("_half", "_old", "young")

    def __init__(self, most: int) -> None:
        self.young: dict[bytes | str, tuple[int, bytes, V]] = {}
        self._old: dict[bytes | str, tuple[int, bytes, V]] = {}
        self._half = max(1, most // 2)

    def older(self, name: bytes | str) -> tuple[int, bytes, V] | None:
        """The entry of `name` among those not used lately, or None."""
        return self._old.get(name)

    def put(self, name: bytes | str, entry: tuple[int, bytes, V]) -> None:
        """Remember an entry; the ones not used for longest are forgotten when there are too many."""
        if len(self.young) >= self._half:
            self._old = self.young
            self.young = {}
        self.young[name] = entry

    def __len__(self) -> int:
        return len(self.young) + len(self._old)


class Names:
    """Which principal a name stood for when it was last asked for. A hint: `principal_named` checks it."""

    __slots__ = ("_missing", "_missing_root", "_most", "found")

    def __init__(self, most: int) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self._missing: set[tuple[str, str]] = set()
        self._missing_root = b""
        self._most = most

    def is_missing(self, tenant_id: str, name: str, root: bytes) -> bool:
        """True when the snapshot with this root is known to have no such name."""
        return self._missing_root == root and (tenant_id, name) in self._missing

    def remember(self, tenant_id: str, name: str, principal_id: str | None, root: bytes) -> None:
        """Remember what a search found; the oldest entry is forgotten when there are too many."""
        if principal_id is not None:
            if len(self.found) >= self._most:
                self.found.pop(next(iter(self.found)))
            self.found[(tenant_id, name)] = principal_id
            return
        if self._missing_root != root or len(self._missing) >= self._most:
            self._missing.clear()
            self._missing_root = root
        self._missing.add((tenant_id, name))


class SnapshotView:
    """Everything one snapshot says. Attributes are read-only by agreement; nothing here changes after construction.

    `version`, `root`: which snapshot this is. `tenants`, `teams`, `sources`, `policies`, `aliases`, `issuers`: as
    compiled. `offers`: every model at every source.
    """

    __slots__ = (
        "_catalogs",
        "_catalogs_max",
        "_chunks",
        "_key_parts",
        "_keys",
        "_names",
        "_order",
        "_parts",
        "_principal_parts",
        "_principals",
        "_teams",
        "_tenants",
        "aliases",
        "book",
        "compiled_ns",
        "issuers",
        "offers",
        "policies",
        "root",
        "sources",
        "teams",
        "tenants",
        "trials",
        "version",
    )

    def __init__(self, before: SnapshotView | None, cache_max: int, catalogs_max: int = CATALOGS_MAX) -> None:
        """An unfinished copy of `before`; `from_parts` and `apply` are the ways to make one."""
        self._catalogs_max: int = before._catalogs_max if before else catalogs_max
        self._keys: Remembered[ApiKey] = before._keys if before else Remembered(cache_max // 2)
        self._principals: Remembered[Principal] = before._principals if before else Remembered(cache_max // 2)
        self._names: Names = before._names if before else Names(cache_max)
        self._parts: dict[str, Part] = dict(before._parts) if before else {}
        self._key_parts: list[Part] = list(before._key_parts) if before else [_NOTHING] * BUCKETS
        self._principal_parts: list[Part] = list(before._principal_parts) if before else [_NOTHING] * BUCKETS
        self._order: dict[str, int] = before._order if before else {}
        self._chunks: list[bytes] = list(before._chunks) if before else []

    @classmethod
    def from_parts(
        cls, parts: Iterable[Part], head: Head, *, cache_max: int, catalogs_max: int = CATALOGS_MAX
    ) -> SnapshotView:
        """A view of all parts of a snapshot. `cache_max`: keys and principals remembered decoded, together.
        `catalogs_max`: tenants whose catalogs are kept built.

        Raises SnapshotError when the format is another one, a part does not have its hash, the parts do not add up
        to the head's root, or a part cannot be decoded.
        """
        view = cls(None, cache_max, catalogs_max)
        view._take(list(parts), head, None)
        return view

    def apply(self, parts: Iterable[Part], head: Head) -> SnapshotView:
        """A new view: this one with `parts` put in place of those of the same names. This one stays as it is.

        What did not change is shared: also the `offers` tuple and the catalogs, unless sources or aliases changed.
        Raises SnapshotError as `from_parts` does; the caller then keeps this view.
        """
        view = SnapshotView(self, 0)
        view._take(list(parts), head, self)
        return view

    def key(self, digest: bytes) -> ApiKey | None:
        """The API key with this lookup digest (`key_digest`), or None. Revoked and expired ones are returned too."""
        entry = self._keys.young.get(digest)
        if entry is not None and self._key_parts[entry[0]].sha256 is entry[1]:
            return entry[2]
        bucket = bucket_of(digest)
        return _find(digest, bucket, self._key_parts[bucket], self._keys, _KEY_BUCKETS.decode, _KEY)

    def principal(self, principal_id: str) -> Principal | None:
        """The principal with this id, or None. Inactive ones are returned too."""
        entry = self._principals.young.get(principal_id)
        if entry is not None and self._principal_parts[entry[0]].sha256 is entry[1]:
            return entry[2]
        bucket = bucket_of(principal_digest(principal_id))
        part = self._principal_parts[bucket]
        return _find(principal_id, bucket, part, self._principals, _PRINCIPAL_BUCKETS.decode, _PRINCIPAL)

    def principal_named(self, tenant_id: str, name: str) -> Principal | None:
        """The principal of this tenant with this name, or None.

        The first time a name is asked for costs a search through all buckets (about 3 ms at 100,000 principals);
        names found are remembered, and so are, within one snapshot's principals, names that do not exist.
        """
        if len(name) > NAME_CHARS_MAX:
            return None
        known = self._names.found.get((tenant_id, name))
        if known is not None:
            principal = self.principal(known)
            if principal is not None and principal.name == name and principal.tenant_id == tenant_id:
                return principal
        if self._names.is_missing(tenant_id, name, self.root):
            return None
        principal = self._search(tenant_id, name)
        self._names.remember(tenant_id, name, principal.id if principal is not None else None, self.root)
        return principal

    def tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant with this id, or None. Inactive ones are returned too."""
        return self._tenants.get(tenant_id)

    def team(self, team_id: str) -> Team | None:
        """The team with this id, or None."""
        return self._teams.get(team_id)

    def catalog(self, tenant_id: str) -> Catalog:
        """What this tenant can name, built when first asked for. Shared with the views of later snapshots while
        sources and aliases stay the same, so that the identity of its tuples can key a cache."""
        catalog = self._catalogs.get(tenant_id)
        if catalog is None:
            if len(self._catalogs) >= self._catalogs_max:
                self._catalogs.clear()
            catalog = self._catalogs[tenant_id] = Catalog(tenant_id, self.offers, self.aliases)
        return catalog

    def part_hash(self, name: str) -> bytes:
        """SHA-256 of a part's body; empty when the snapshot has no such part."""
        return self._parts.get(name, _NOTHING).sha256

    def part_body(self, name: str) -> bytes:
        """A part's body; empty when the snapshot has no such part."""
        return self._parts.get(name, _NOTHING).body

    @property
    def head(self) -> Head:
        """Version, root, format and compile time of this snapshot."""
        return Head(self.version, self.root, FORMAT, self.compiled_ns)

    def parts(self) -> tuple[Part, ...]:
        """All parts as they came, in name order; with `head`, what `from_parts` takes."""
        return tuple(self._parts[name] for name in sorted(self._parts))

    def _take(self, parts: list[Part], head: Head, before: SnapshotView | None) -> None:
        if head.format != FORMAT:
            raise SnapshotError(
                f"snapshot {head.version} has format {head.format}, this version of Interlock reads format {FORMAT}"
            )
        for part in parts:
            if hashlib.sha256(part.body).digest() != part.sha256:
                raise SnapshotError(f"part {part.name} of snapshot {head.version} does not have its hash")
            self._parts[part.name] = part
            kind, _, bucket = part.name.partition("/")
            if kind == "keys":
                self._key_parts[_bucket_number(bucket, part)] = part
            elif kind == "principals":
                self._principal_parts[_bucket_number(bucket, part)] = part
        self._prove(parts, head)
        self.version, self.root, self.compiled_ns = head.version, head.root, head.compiled_ns
        self._decode_small({part.name for part in parts}, before)

    def _prove(self, parts: list[Part], head: Head) -> None:
        """Compare the root: `root_hash` of all parts, from pieces that are kept joined up in name order."""
        if len(self._order) != len(self._parts):
            self._order = {name: place for place, name in enumerate(sorted(self._parts))}
            self._chunks = [_chunk(self._parts[name]) for name in self._order]
        else:
            for part in parts:
                self._chunks[self._order[part.name]] = _chunk(part)
        if hashlib.sha256(b"".join(self._chunks)).digest() != head.root:
            raise SnapshotError(
                f"the parts of snapshot {head.version} do not add up to its root hash: some are missing or newer"
            )

    def _decode_small(self, changed: set[str], before: SnapshotView | None) -> None:
        b = self if before is None else before

        def same(*names: str) -> bool:
            return before is not None and changed.isdisjoint(names)

        self.tenants: tuple[Tenant, ...] = b.tenants if same("tenants") else self._list("tenants", Tenant)
        self.teams: tuple[Team, ...] = b.teams if same("teams") else self._list("teams", Team)
        self._tenants: dict[str, Tenant] = b._tenants if same("tenants") else {t.id: t for t in self.tenants}
        self._teams: dict[str, Team] = b._teams if same("teams") else {t.id: t for t in self.teams}
        self.policies: tuple[PolicyText, ...] = b.policies if same("policies") else self._list("policies", PolicyText)
        self.trials: tuple[Trial, ...] = b.trials if same("trials") else self._list("trials", Trial)
        self.issuers: tuple[Issuer, ...] = b.issuers if same("issuers") else self._list("issuers", Issuer)
        self.aliases: tuple[Alias, ...] = b.aliases if same("aliases") else self._list("aliases", Alias)
        self.sources: tuple[Source, ...] = b.sources if same("sources") else self._list("sources", Source)
        self.offers: tuple[Offer, ...] = b.offers if same("sources") else offers_of(self.sources)
        self._catalogs: dict[str, Catalog] = b._catalogs if same("sources", "aliases") else {}
        self.book: BudgetBook = b.book if same("budgets", "tenants") else self._book()

    def _book(self) -> BudgetBook:
        try:
            return BudgetBook(self._list("budgets", Budget), self.tenants)
        except KeyError as e:
            raise SnapshotError(f"this machine does not know a tenant's time zone: {e}") from None

    def _search(self, tenant_id: str, name: str) -> Principal | None:
        needle = msgspec.msgpack.encode("name") + msgspec.msgpack.encode(name)
        for part in self._principal_parts:
            if needle not in part.body:
                continue
            for principal in self._bucket(part).values():
                if principal.name == name and principal.tenant_id == tenant_id:
                    return principal
        return None

    def _bucket(self, part: Part) -> dict[str, Principal]:
        try:
            return msgspec.msgpack.decode(part.body, type=dict[str, Principal])
        except msgspec.MsgspecError as e:
            raise _undecodable(part, e) from None

    def _list(self, name: str, kind: type[T]) -> tuple[T, ...]:
        return self._decode(name, tuple[kind, ...], ())  # type: ignore[valid-type]

    def _decode(self, name: str, kind: type[V], empty: V) -> V:
        part = self._parts.get(name)
        if part is None:
            return empty
        try:
            return msgspec.msgpack.decode(part.body, type=kind)
        except msgspec.MsgspecError as e:
            raise _undecodable(part, e) from None


def _find(
    name: bytes | str,
    bucket: int,
    part: Part,
    remembered: Remembered[T],
    decode_bucket: Callable[[bytes], Mapping[bytes, msgspec.Raw]] | Callable[[bytes], Mapping[str, msgspec.Raw]],
    decoder: msgspec.msgpack.Decoder[T],
) -> T | None:
    """One value of a bucket: from the older generation, or decoded. Only this value is decoded, not its bucket."""
    if not part.body:
        return None
    entry = remembered.older(name)
    if entry is None or entry[0] != bucket or entry[1] is not part.sha256:
        try:
            raw = decode_bucket(part.body).get(name)  # type: ignore[arg-type]
            if raw is None:
                return None
            entry = (bucket, part.sha256, decoder.decode(raw))
        except msgspec.MsgspecError as e:
            raise _undecodable(part, e) from None
    remembered.put(name, entry)
    return entry[2]


def _undecodable(part: Part, e: Exception) -> SnapshotError:
    return SnapshotError(f"part {part.name} of the snapshot (version {part.version}) cannot be decoded: {e}")


def _chunk(part: Part) -> bytes:
    return part.name.encode() + b"\0" + part.sha256


def _bucket_number(text: str, part: Part) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number < BUCKETS:
        raise SnapshotError(f"{part.name!r} is not the name of a snapshot part")
    return number
