"""The snapshot: everything the data plane knows, as named parts that change one by one.

A snapshot is a set of parts. Each part is a msgpack document with a version (the snapshot version that last
changed it) and a SHA-256. Small collections are one part each (`SMALL_PARTS`); API keys and principals are split
into `BUCKETS` parts by the first bits of their lookup digest, so that one revocation changes one small part
(about 15 kB at 100,000 keys). What the router has learned is two parts a tenant (`types.learned`). A
delta is "the parts newer than what I have". The root hash is SHA-256 over the sorted (name, part hash) pairs, so a
worker can prove that what it assembled is what was compiled.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec

from interlock.types.identity import Recording, Workload
from interlock.types.slo import UNASKED, Slo

BUCKETS = 1024
SMALL_PARTS = ("tenants", "teams", "sources", "policies", "aliases", "issuers", "budgets", "trials")
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
    """One weighted target of an alias; `source` (a source name) may be empty: any source of the model.

    `model` may be `model@version`. `prefer_version`: sources of that version come first, and others may answer; else
    only that version may."""

    model: str
    source: str = ""
    weight: int = 1
    prefer_version: bool = False


class CanaryStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """From `after_s` seconds after its start on, a canary has this share (thousandths)."""

    after_s: int
    share_milli: int


class Canary(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate for an alias's target, tried on a share of its calls and taken back by itself when it fails.

    `id`: of this trial; another one with the same target has another. `share_milli`: thousandths of the calls, until
    the first step. `sticky`: the share is of principals, not of calls. The conditions are checked at every call of it,
    over the calls of the last `window_s` seconds, as though there were at least `calls_min` of them: `errors_milli_max`
    of a thousand may fail, `errors_milli_over_stable` more than of the alias's other targets; 95 % of the times to the
    first byte and in total must be within the bounds in milliseconds, and within that many percent of the other
    targets' 95th percentile. A bound of -1 (errors) or 0 (times) is none. `state`: "running" or "failed"; then
    `ended_s` and `ended_why` say when and why.
    """

    id: str
    target: AliasTarget
    share_milli: int
    started_s: int
    steps: tuple[CanaryStep, ...] = ()
    sticky: bool = False
    calls_min: int = 30
    window_s: int = 600
    errors_milli_max: int = 100
    errors_milli_over_stable: int = -1
    first_byte_ms_max: int = 0
    total_ms_max: int = 0
    first_byte_percent_max: int = 0
    total_percent_max: int = 0
    state: str = "running"
    ended_s: int = 0
    ended_why: str = ""


class Shadow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate that gets `share_milli` thousandths of an alias's calls too, to be compared. No caller sees it."""

    target: AliasTarget
    share_milli: int


class CascadeStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a cascade: `model` may be `model@version`; `source` (a source name) "": any source of the model."""

    model: str
    source: str = ""


class Cascade(msgspec.Struct, frozen=True, omit_defaults=True):
    """Models that are tried one after the other, the cheapest first, until an answer passes the checks.

    `checks`: of `CASCADE_CHECKS`, all of which an answer must pass. `confidence_min_milli`: what `confidence` asks for,
    thousandths. `money_nusd_max`, `time_ms_max`: no further step is begun beyond these; 0: no such bound.
    """

    steps: tuple[CascadeStep, ...]
    checks: tuple[str, ...]
    confidence_min_milli: int = 0
    money_nusd_max: int = 0
    time_ms_max: int = 0


CASCADE_CHECKS = ("json", "finish", "confidence", "tool_call")


class AliasSlo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an alias asks for its calls; as `Slo`, None where nothing is asked."""

    ttft_ms: int | None = None
    latency_ms: int | None = None
    cost_nusd: int | None = None
    strict: bool = False

    def slo(self) -> Slo:
        """As calls carry it."""
        cost = UNASKED if self.cost_nusd is None else self.cost_nusd
        return Slo(self.ttft_ms or 0, self.latency_ms or 0, cost, self.strict)


class AliasWeights(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an alias's calls are decided by: how quality, cost, latency and energy stand to each other."""

    quality: int = 0
    cost: int = 0
    latency: int = 0
    energy: int = 0


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model name of the company's own. `tenant_id` empty: for all. `sunset_s`: Unix seconds, refused afterwards.

    `max_tokens` is the cap taken when a request names none. `data_class` raises the call's class to at least this.
    `request_class` is the label of calls that name none themselves. `recording`: of its calls no more is kept.
    `deprecated_s`: Unix seconds from which on it should not be used; `successor`: the name to use instead. `workload`:
    its calls are no more urgent than this. `cascade`: how its chats and completions are answered; for anything else,
    and where `targets` are empty, its first step is the target. `weights`: in place of those of `mode`."""

    name: str
    tenant_id: str = ""
    targets: tuple[AliasTarget, ...] = ()
    mode: str = "balanced"
    max_tokens: int = 0
    data_class: int = 0
    sunset_s: int = 0
    request_class: str = ""
    recording: Recording = Recording.full
    canary: Canary | None = None
    deprecated_s: int = 0
    successor: str = ""
    shadow: Shadow | None = None
    workload: Workload = Workload.interactive
    cascade: Cascade | None = None
    slo: AliasSlo | None = None
    weights: AliasWeights | None = None


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
