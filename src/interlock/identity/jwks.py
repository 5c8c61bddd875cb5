"""Issuers' public keys: fetched by the node, handed to its workers as files, believed for a bounded time.

Life of a key set: `JwksFetcher` (node) fetches it on schedule, or because a worker met a key id it did not know,
and writes `<issuer id>.json` atomically. `KeyStore` (worker) reads that file when it changes. A failed fetch keeps
the last good set until it is `jwks_age_max_s` old. Only public members of asymmetric keys are ever kept.

A key set's URL is somebody's input and is fetched as such (`interlock.identity.fetch`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from interlock.errors import ConfigError, InterlockError
from interlock.identity.fetch import Resolve, SafeClient, decoded, resolve
from interlock.settings import Settings
from interlock.types.clock import Clock
from interlock.types.identity import Issuer

if TYPE_CHECKING:
    pass

RSA_BITS_MIN = 2048
FETCHES_AT_ONCE = 4
FILE_CHECK_NS = 500_000_000
"""How often a worker looks whether an issuer's file has changed."""
REFRESH_WAIT_NS = 5_000_000_000
"""How long an asked-for refresh may take before its absence counts as an answer."""

_PUBLIC_MEMBERS = ("kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y")
_CURVES: Mapping[str, tuple[str, ...]] = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("Ed25519",)}
_S = 1_000_000_000

logger = logging.getLogger("interlock.jwks")


class KeySetFile(msgspec.Struct, frozen=True):
    """A key set as the node hands it to its workers. `fetched_ns`: Unix nanoseconds. `keys`: public members only."""

    issuer_id: str
    url: str
    fetched_ns: int
    keys: list[dict[str, str | list[str]]]


class KeyRing(NamedTuple):
    """An issuer's keys, ready to verify with. `generation` changes with the keys, not with a fetch of the same ones."""

    generation: bytes
    fetched_ns: int
    keys: tuple[Key, ...]

    def find(self, kid: str | None, alg: str) -> Key | None:
        """The key of this id that may be used with this algorithm. Without an id: the only one that may."""
        usable = [k for k in self.keys if (kid is None or k.kid == kid) and _suits(k, alg)]
        return usable[0] if len(usable) == 1 else None


def _suits(key: Key, alg: str) -> bool:
    members = key.as_dict(private=False)
    wanted = {"R": "RSA", "P": "RSA", "E": "EC"}[alg[0]] if alg not in ("EdDSA", "Ed25519") else "OKP"
    return key.key_type == wanted and members.get("alg") in (None, alg)


def public_keys(document: object, keys_max: int) -> list[dict[str, str | list[str]]]:
    """The signature keys of a JWK Set (RFC 7517), reduced to their public members.

    Symmetric, encryption-only, malformed and weak keys (RSA below 2048 bits) are left out. Raises ConfigError when
    the document is not a key set, has more than `keys_max` keys, or no usable one.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ConfigError("the answer is not a JWK Set: it has no list `keys`")
    if len(listed) > keys_max:
        raise ConfigError(f"the key set has more than {keys_max} keys")
    found = [public for entry in listed if (public := _public(entry)) is not None]
    if not found:
        raise ConfigError("the key set holds no usable signature key")
    return found


def _public(entry: object) -> dict[str, str | list[str]] | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kind = entry.get("kty")
    if kind != "RSA" and entry.get("crv") not in _CURVES.get(kind if isinstance(kind, str) else "", ()):
        return None
    operations = entry.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return None
    public: dict[str, str | list[str]] = {}
    for name in _PUBLIC_MEMBERS:
        value = entry.get(name)
        if isinstance(value, str):
            public[name] = value
    if operations is not None:
        public["key_ops"] = ["verify"]
    return public if _import(public) is not None else None


def _import(public: Mapping[str, str | list[str]]) -> Key | None:
    modulus = public.get("n", "")
    if public.get("kty") == "RSA" and len(modulus) * 6 < RSA_BITS_MIN:  # base64url: six bits a character
        return None
    try:
        key = import_key(dict(public))
        key.get_op_key("verify")
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    return key


def file_of(folder: Path, issuer_id: str) -> Path:
    """Where an issuer's keys lie. Raises ConfigError for an id that is not a plain file name."""
    if not issuer_id.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"issuer id {issuer_id!r} is not letters, digits, '_' and '-'", param="id")
    return folder / f"{issuer_id}.json"


# -- in workers


class _Held(NamedTuple):
    checked_ns: int
    stamp: tuple[int, int, int]
    ring: KeyRing | None


class KeyStore:
    """The keys of all issuers as a worker sees them. `on_refresh(issuer_id)` asks the node to fetch a set again.

    Reads small local files, at most one every half second per issuer. Keeps what it has when a file cannot be read.
    """

    def __init__(self, folder: Path, settings: Settings, clock: Clock, on_refresh: Callable[[str], None]) -> None:
        self._folder = folder
        self._clock = clock
        self._on_refresh = on_refresh
        self._age_max_ns = settings.jwks_age_max_s * _S
        self._refetch_min_ns = settings.jwks_refetch_min_s * _S
        self._held: dict[str, _Held] = {}
        self._asked: dict[str, int] = {}

    def ring(self, issuer_id: str) -> KeyRing | None:
        """The issuer's keys, or None when there are none that are young enough to be believed."""
        held = self._held.get(issuer_id)
        now = self._clock.mono_ns()
        if held is None or now - held.checked_ns >= FILE_CHECK_NS:
            held = self._held[issuer_id] = self._read(issuer_id, held, now)
        ring = held.ring
        if ring is None or self._clock.wall_ns() - ring.fetched_ns > self._age_max_ns:
            return None
        return ring

    def request_refresh(self, issuer_id: str) -> bool:
        """Ask for the issuer's keys to be fetched again, unless that was done lately.

        Returns whether an answer may still be on its way, so that a caller is told to try again instead of no.
        """
        now = self._clock.mono_ns()
        asked = self._asked.get(issuer_id)
        if asked is None or now - asked >= self._refetch_min_ns:
            self._asked[issuer_id] = now
            self._on_refresh(issuer_id)
            return True
        held = self._held.get(issuer_id)
        fetched_since = held is not None and held.ring is not None and self._mono_of(held.ring) >= asked
        return not fetched_since and now - asked < REFRESH_WAIT_NS

    def forget_others(self, issuer_ids: Iterable[str]) -> None:
        """Drop what is held of issuers that are not in this list."""
        kept = set(issuer_ids)
        self._held = {k: v for k, v in self._held.items() if k in kept}
        self._asked = {k: v for k, v in self._asked.items() if k in kept}

    def _mono_of(self, ring: KeyRing) -> int:
        return self._clock.mono_ns() - (self._clock.wall_ns() - ring.fetched_ns)

    def _read(self, issuer_id: str, held: _Held | None, now: int) -> _Held:
        path = file_of(self._folder, issuer_id)
        before = held or _Held(now, (0, 0, 0), None)
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == before.stamp:
                return before._replace(checked_ns=now)
            ring = _ring(msgspec.json.decode(path.read_bytes(), type=KeySetFile))
        except FileNotFoundError:
            return _Held(now, (0, 0, 0), None)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as e:
            logger.warning("key set of issuer %s cannot be read: %s", issuer_id, e)
            return before._replace(checked_ns=now)
        return _Held(now, stamp, ring)


def _ring(file: KeySetFile) -> KeyRing:
    keys = tuple(key for public in file.keys if (key := _import(public)) is not None)
    content = json.dumps(file.keys, sort_keys=True).encode()
    return KeyRing(hashlib.sha256(content).digest(), file.fetched_ns, keys)


# -- in the node


class JwksStatus(NamedTuple):
    """How fetching an issuer's keys goes. `fetched_ns`: Unix nanoseconds of the last success, 0 when there is none."""

    issuer_id: str
    url: str
    fetched_ns: int
    keys: int
    error: str


class _Watch:
    """One issuer as the fetcher follows it. Times on the monotonic clock."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.due_ns = 0
        self.tried_ns: int | None = None
        self.fetched_ns = 0
        self.keys = 0
        self.error = ""


class JwksFetcher:
    """Keeps the key sets of all issuers fresh in a folder. One per node; `run` until cancelled.

    `on_fetch(ok)` is called after each try, for metrics.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        clock: Clock,
        *,
        resolver: Resolve = resolve,
        on_fetch: Callable[[bool], None] | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._client = SafeClient(settings, resolver)
        self._on_fetch = on_fetch
        self._watched: dict[str, _Watch] = {}
        self._wake = asyncio.Event()

    def update(self, issuers: Sequence[Issuer]) -> None:
        """Follow these issuers and no others. The files of issuers that are gone are removed."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        before, self._watched = self._watched, {}
        for issuer in issuers:
            known = before.get(issuer.id)
            if known is not None and known.issuer.jwks_url == issuer.jwks_url:
                known.issuer = issuer
                self._watched[issuer.id] = known
            else:
                self._watched[issuer.id] = self._begin(issuer)
        kept = {f"{issuer_id}.json" for issuer_id in self._watched}
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self._wake.set()

    def request(self, issuer_id: str) -> None:
        """Fetch this issuer's keys now, unless that was tried within the last `jwks_refetch_min_s`."""
        watch = self._watched.get(issuer_id)
        if watch is None:
            return
        earliest = 0 if watch.tried_ns is None else watch.tried_ns + self._settings.jwks_refetch_min_s * _S
        watch.due_ns = min(watch.due_ns, max(self._clock.mono_ns(), earliest))
        self._wake.set()

    def status(self) -> list[JwksStatus]:
        """How it goes, issuer by issuer."""
        return [
            JwksStatus(w.issuer.id, w.issuer.jwks_url, w.fetched_ns, w.keys, w.error) for w in self._watched.values()
        ]

    async def run(self) -> None:
        """Fetch what is due, sleep until something is, and so on until cancelled."""
        while True:
            await self.fetch_due()
            self._wake.clear()
            now = self._clock.mono_ns()
            wait_s = min((w.due_ns - now for w in self._watched.values()), default=60 * _S) / _S
            with suppress(TimeoutError):  # `wait_for` of Python 3.11 would lose a cancellation beside a wake
                async with asyncio.timeout(max(0.05, min(wait_s, 60.0))):
                    await self._wake.wait()

    async def fetch_due(self) -> None:
        """One round: every issuer that is due, a few at a time. Failures are logged and counted, never raised."""
        now = self._clock.mono_ns()
        gate = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def one(watch: _Watch) -> None:
            async with gate:
                await self._try(watch)

        due = [w for w in self._watched.values() if w.due_ns <= now]
        await asyncio.gather(*(one(w) for w in due))

    def _begin(self, issuer: Issuer) -> _Watch:
        """A file of the same URL that a former node process left counts, so that a restart needs no issuer."""
        watch = _Watch(issuer)
        try:
            file = msgspec.json.decode(file_of(self._folder, issuer.id).read_bytes(), type=KeySetFile)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, ConfigError):
            return watch
        if file.url == issuer.jwks_url:
            watch.fetched_ns, watch.keys = file.fetched_ns, len(file.keys)
        return watch

    async def _try(self, watch: _Watch) -> None:
        settings, issuer = self._settings, watch.issuer
        watch.tried_ns = self._clock.mono_ns()
        try:
            async with asyncio.timeout(settings.jwks_timeout_ms / 1000):
                body = await self._client.get(issuer.jwks_url)
            keys = public_keys(decoded(body), settings.jwks_keys_max)
            fetched_ns = self._clock.wall_ns()
            _write(file_of(self._folder, issuer.id), KeySetFile(issuer.id, issuer.jwks_url, fetched_ns, keys))
        except TimeoutError:
            self._failed(watch, f"no answer within {settings.jwks_timeout_ms} ms")
        except (InterlockError, OSError, ValueError) as e:
            self._failed(watch, getattr(e, "message", "") or str(e) or type(e).__name__)
        else:
            watch.fetched_ns, watch.keys, watch.error = fetched_ns, len(keys), ""
            watch.due_ns = self._clock.mono_ns() + settings.jwks_refresh_s * _S
            if self._on_fetch is not None:
                self._on_fetch(True)

    def _failed(self, watch: _Watch, why: str) -> None:
        if watch.error != why:
            logger.warning(
                "keys of issuer %s were not fetched from %s: %s", watch.issuer.id, watch.issuer.jwks_url, why
            )
        watch.error = why
        watch.due_ns = self._clock.mono_ns() + self._settings.jwks_refetch_min_s * _S
        if self._on_fetch is not None:
            self._on_fetch(False)


def _write(path: Path, file: KeySetFile) -> None:
    """Replace the file in one step: a reader sees the old set or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(msgspec.json.encode(file))
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
