"""Which calls of an alias a canary gets: a pure function of the canary, the time, the seed and the caller (P4)."""

from __future__ import annotations

from hashlib import blake2b

from interlock.routing.draws import mix
from interlock.types.snapshot import Canary, Shadow

RUNNING = "running"
CANARY, STABLE, OFF, BARRED, SHADOW = "canary", "stable", "off", "barred", "shadow"
"""What `Target.canary` may say."""
UNDRAWN = frozenset((OFF, BARRED, SHADOW))
"""Those that are not drawn: states of the node and of the call, which a replay takes from the record."""
WHOLE = 1000
_SALT, _SHADOW_SALT = 2, 3
"""Apart from the draw among the targets, which the same seed makes."""


def share_milli(canary: Canary, now_s: int) -> int:
    """The canary's share in thousandths at a time (Unix seconds): that of the last step that has begun."""
    share = canary.share_milli
    since_s = now_s - canary.started_s
    for step in canary.steps:
        if since_s >= step.after_s:
            share = step.share_milli
    return share


def arm_of(canary: Canary, now_s: int, seed: int, principal_id: str) -> str:
    """CANARY or STABLE. A sticky canary keeps a principal for as long as its share does not shrink."""
    if canary.sticky:
        digest = blake2b(f"{canary.id}\0{principal_id}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest, "big") % WHOLE
    else:
        point = mix(seed, _SALT) % WHOLE
    return CANARY if point < share_milli(canary, now_s) else STABLE


def shadowed(shadow: Shadow, seed: int) -> bool:
    """Whether a call is sent to its alias's shadow too."""
    return mix(seed, _SHADOW_SALT) % WHOLE < shadow.share_milli
