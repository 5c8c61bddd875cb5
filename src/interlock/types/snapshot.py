"""The snapshot: everything the data plane knows, as named parts that change one by one.

A snapshot is a set of parts. Each part is a msgpack document with a version (the snapshot version that last
changed it) and a SHA-256. Small collections are one part each (`SMALL_PARTS`); API keys and principals are split
into `BUCKETS` parts by the first bits of their lookup digest, so that one revocation changes one part of about
ten kilobytes whatever the number of keys. A delta is "the parts newer than what I have". The root hash is
SHA-256 over the sorted (name, part hash) pairs, so a worker can prove that what it assembled is what was compiled.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec

from interlock.types.identity import Recording

BUCKETS = 1024
SMALL_PARTS = ("tenants", "teams", "sources", "policies", "aliases", "issuers", "router", "budgets", "trials")
FORMAT = 1
"""Version of the parts' layout; a worker refuses a snapshot of another format and keeps the one it has."""


class PolicyText(msgspec.Struct, frozen=True, omit_defaults=True):
    """One active Cedar policy. `tenant_id` empty: applies to every tenant. `id` is what reasons name."""

    id: str
    cedar: str
    tenant_id: str = ""
    words: str = ""
    """What it says in one sentence, shown in explanations."""


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the policies of a tenant ("": of the platform) would be, evaluated beside those in force without deciding.

    `digest`: of the draft, or of the set with the policies that only report.
    """

    digest: str
    policies: tuple[PolicyText, ...]
    tenant_id: str = ""


class AliasTarget(msgspec.Struct, frozen=True, omit_defaults=True):
    """One weighted target of an alias; `source` (a source name) may be empty: any source of the model."""

    model: str
    source: str = ""
    weight: int = 1


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model name of the company's own. `tenant_id` empty: for all. `sunset_s`: Unix seconds, refused afterwards.

    `max_tokens` is the cap taken when a request names none. `data_class` raises the call's class to at least this.
    `request_class` is the label of calls that name none themselves. `recording`: of its calls no more is kept."""

    name: str
    tenant_id: str = ""
    targets: tuple[AliasTarget, ...] = ()
    mode: str = "balanced"
    max_tokens: int = 0
    data_class: int = 0
    sunset_s: int = 0
    request_class: str = ""
    recording: Recording = Recording.full


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One part of a snapshot as stored and sent."""

    name: str
    version: int
    sha256: bytes
    body: bytes


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The newest snapshot: version, root hash, format, and when it was compiled (Unix nanoseconds)."""

    version: int
    root: bytes
    format: int
    compiled_ns: int


def bucket_of(digest: bytes) -> int:
    """The bucket (0..BUCKETS-1) of a lookup digest: its first ten bits, big-endian."""
    return ((digest[0] << 8) | digest[1]) >> 6


def key_digest(pepper: bytes, key: bytes) -> bytes:
    """HMAC-SHA256 of an API key under the installation's pepper: 32 bytes. What stores and snapshots hold."""
    return hmac.digest(pepper, key, "sha256")


def principal_digest(principal_id: str) -> bytes:
    """Lookup digest of a principal id (plain SHA-256: ids are not secret)."""
    return hashlib.sha256(principal_id.encode()).digest()


def bucket_part(kind: str, bucket: int) -> str:
    """Part name of a bucket: `bucket_part("keys", 5) == "keys/005"`. `kind` is "keys" or "principals"."""
    return f"{kind}/{bucket:03x}"


def root_hash(hashes: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    """The root over part hashes: SHA-256 of, for each part in name order, name, NUL, 32-byte hash."""
    pairs = hashes.items() if isinstance(hashes, Mapping) else hashes
    h = hashlib.sha256()
    for name, digest in sorted(pairs):
        h.update(name.encode() + b"\0" + digest)
    return h.digest()
