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
from typing import TYPE_CHECKING
from zlib import crc32

from msgspec.structs import force_setattr

from interlock.routing.draws import mixed, salted
from interlock.routing.rows import Row
from interlock.types.decision import Placement
from interlock.types.source import LoadReading

if TYPE_CHECKING:
    from interlock.settings import Settings

SLOTS = 4096
"""So few that a slot in a record fits very many texts, and enough to spread evenly over a hundred replicas."""
KEY_BYTES = 32
FINE, KV, WAIT, LOAD = "", "kv", "wait", "load"
_SEVERITY = {KV: 1, WAIT: 2, LOAD: 3}
MILLI = 1000


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
    return mixed(affinity, salted(crc32(offer.encode())))


def wait_ms(reading: LoadReading, queue: int) -> int:
    """Predicted wait in the queue, -1 when it is not known.

    As many calls as are there end in the time that one is there (Little's law); those that wait come before this one.
    """
    if reading.stay_ms < 0 or reading.waiting < 0:
        return -1
    return queue * reading.stay_ms // max(1, queue + max(reading.running, 0))


def place(
    order: Sequence[Row], bounds: Placement, known: Mapping[str, str] | None = None, numbered: bool = True
) -> list[Row]:
    """The replicas of one model, given by rank, in the order in which they are tried, all of them. Each `Candidate` is
    told its place by rank alone, 1 the first, if `numbered`, and why it stands behind others all the same.

    By rank those within bounds; then those whose KV cache is full, those whose predicted wait is too long, each by
    rank; then those that have more than their share of the load, the least loaded first. `known`: which are beyond
    bounds and why, where these are not all the replicas that there were.

    INVARIANT: at least one replica is within the bound on load, for the bound is above the mean.
    """
    share = -(-bounds.load_factor_milli * (sum([row[9] for row in order]) + 1) // (MILLI * len(order)))
    most, kv_max = max(bounds.load_slack, share), bounds.kv_permille_max
    fine: list[Row] = []
    behind: list[tuple[int, int, int, int, Row]] = []
    for number, row in enumerate(order, 1):
        made, load = row[7], row[9]
        if numbered:
            force_setattr(made, "place", number)
        if known is not None:
            beyond = known.get(row[5], FINE)
        elif load < most:
            queue, reading = row[3], row[10]
            beyond = _beyond(reading, queue, bounds) if queue or reading.kv_permille > kv_max else FINE
        else:
            beyond = LOAD
        if not beyond:
            fine.append(row)
            continue
        force_setattr(made, "beyond", beyond)
        if beyond == LOAD:
            behind.append((_SEVERITY[LOAD], row[3], row[4], number, row))
        else:
            behind.append((_SEVERITY[beyond], 0, 0, number, row))
    if behind:
        behind.sort()
        fine += [each[-1] for each in behind]
    return fine


def _beyond(reading: LoadReading, queue: int, bounds: Placement) -> str:
    """Why a replica that has no more than its share of the load is passed over all the same, or that it is not."""
    if queue and bounds.wait_ms_max and wait_ms(reading, queue) > bounds.wait_ms_max:
        return WAIT
    return KV if reading.kv_permille > bounds.kv_permille_max else FINE
