"""Which of a model's replicas a call goes to first: the one that is likely to have its prompt's beginning cached.

An engine keeps the KV cache of prompts it has seen, and a prompt that begins alike is not computed again. So the calls
of one conversation belong together. What makes a conversation's beginning is hashed under a key of the installation to
one of `SLOTS` slots (`slot`); slot and offer are hashed to a rank, and the replica with the highest is the slot's home
(rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998). Nothing is
remembered, and workers and nodes agree without telling each other anything: a replica that leaves takes only its own
slots with it, and one that comes takes an equal share from each.

A home is passed over while it has more than its share (consistent hashing with bounded loads: Mirrokni, Thorup and
Zadimoghaddam, 2016): its slots' calls go to the next replica by rank, and come back. So a prefix that many ask for is
cached in several places by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from interlock.routing.draws import mix
from interlock.types.decision import Placement
from interlock.types.source import LoadReading, Offer, loaded_bit

if TYPE_CHECKING:
    from interlock.settings import Settings

SLOTS = 4096
"""So few that a slot in a record fits very many texts, and enough to spread evenly over a hundred replicas."""
KEY_BYTES = 32
FINE, KV, WAIT, LOAD = "", "kv", "wait", "load"
_SEVERITY = {FINE: 0, KV: 1, WAIT: 2, LOAD: 3}
MILLI = 1000


class Replica(NamedTuple):
    """One of the offers to place. `queue` and `busy`: as `choose.load_of` counts them."""

    key: str
    reading: LoadReading
    queue: int
    busy: int

    @property
    def load(self) -> int:
        """Calls there, running or waiting, by the engine's figures or ours, whichever has more."""
        if self.reading.waiting < 0:
            return self.queue + self.busy
        return max(self.queue + max(self.reading.running, 0), self.busy)


class Placed(NamedTuple):
    """Where a replica comes: `place` by rank alone, 1 the first; `beyond`: why it stands behind others all the same."""

    key: str
    place: int
    beyond: str


def bounds_of(settings: Settings) -> Placement:
    """The bounds that a gateway with these settings places by."""
    return Placement(
        settings.placement_load_slack,
        settings.placement_load_factor_milli,
        settings.placement_kv_permille_max,
        settings.placement_wait_ms_max,
    )


def slot(key: bytes, parts: Iterable[bytes]) -> int:
    """The slot, 1 to SLOTS, of what makes a conversation's beginning. `key`: at most 64 bytes, a secret of all nodes.

    Keyed and truncated: a slot alone says nothing about the text that it was made of.
    """
    digest = hashlib.blake2b(key=key, digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return 1 + int.from_bytes(digest.digest(), "big") % SLOTS


def rank(affinity: int, offer: str) -> int:
    """The rank of an offer for a slot: the highest is its home. The same on every node."""
    return mix(affinity, crc32(offer.encode()))


def replicated(offers: Sequence[Offer]) -> bool:
    """Whether a model is among these offers more than once."""
    return len({offer.model.name for offer in offers}) < len(offers)


def alike(offer: Offer) -> tuple[str, str, bool]:
    """What the replicas of a model have in common, besides their scores."""
    return offer.model.name, offer.model.version, offer.source.labels.on_prem


def shared_latencies(able: Sequence[tuple[Offer, LoadReading]], latency: dict[str, int]) -> dict[str, int]:
    """The latency part of each offer, where replicas all have the best one's.

    A time to first byte is mostly how much of a prompt was cached and how long the queue was then: it says little about
    a replica, and one that gets no calls for it never gets another one. What waits there now does count (`place`). A
    model that is known not to be loaded keeps its own.
    """
    best: dict[tuple[str, str, bool], int] = {}
    kinds = {}
    for offer, reading in able:
        if reading.loaded >= 0 and not reading.loaded & loaded_bit(offer.model.name):
            continue
        kind = kinds[offer.key] = alike(offer)
        known = latency[offer.key]
        best[kind] = min(best.get(kind, known), known)
    return {key: best[kinds[key]] if key in kinds else known for key, known in latency.items()}


def wait_ms(replica: Replica) -> int:
    """Predicted wait in the queue, -1 when it is not known.

    As many calls as are there end in the time that one is there (Little's law); those that wait come before this one.
    """
    reading = replica.reading
    if reading.stay_ms < 0 or reading.waiting < 0:
        return -1
    return replica.queue * reading.stay_ms // max(1, replica.queue + max(reading.running, 0))


def place(
    affinity: int, replicas: Sequence[Replica], bounds: Placement, known: Mapping[str, str] | None = None
) -> list[Placed]:
    """The order in which the replicas of one model are tried, all of them.

    By rank those within bounds; then those whose KV cache is full, those whose predicted wait is too long, each by
    rank; then those that have more than their share of the load, the least loaded first. Pure. `known`: which are
    beyond bounds and why, where these are not all the replicas that there were.

    INVARIANT: at least one replica is within the bound on load, for the bound is above the mean.
    """
    ranked = sorted(replicas, key=lambda r: (-rank(affinity, r.key), r.key))
    total = sum(replica.load for replica in replicas)
    share = -(-bounds.load_factor_milli * (total + 1) // (MILLI * len(replicas)))
    most = max(bounds.load_slack, share)
    order: list[tuple[int, int, int, int, Placed]] = []
    for number, replica in enumerate(ranked, 1):
        beyond = _beyond(replica, most, bounds) if known is None else known.get(replica.key, FINE)
        queue, busy = (replica.queue, replica.busy) if beyond == LOAD else (0, 0)
        order.append((_SEVERITY[beyond], queue, busy, number, Placed(replica.key, number, beyond)))
    order.sort()
    return [each[-1] for each in order]


def _beyond(replica: Replica, most: int, bounds: Placement) -> str:
    if replica.load >= most:
        return LOAD
    if bounds.wait_ms_max and wait_ms(replica) > bounds.wait_ms_max:
        return WAIT
    return KV if replica.reading.kv_permille > bounds.kv_permille_max else FINE
