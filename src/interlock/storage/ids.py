"""Ids: a prefix that says what it names, then 20 characters of Crockford base32 in lower case.

The first 48 bits are Unix milliseconds and the other 52 are random, as in UUID version 7 (RFC 9562, section 5.7),
so that ids sort by the time they were made and new rows go to the end of an index.
"""

from __future__ import annotations

from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32 alphabet: no i, l, o or u."""

PREFIXES = {
    "tenant": "ten",
    "team": "team",
    "principal": "prn",
    "key": "key",
    "policy": "pol",
    "source": "src",
    "alias": "als",
    "issuer": "iss",
    "binding": "rol",
    "budget": "bdg",
    "hold": "hld",
    "policy_draft": "pdr",
    "canary": "can",
    "quota_request": "qrq",
    "alert_rule": "alr",
    "alert_channel": "alc",
    "alert_event": "ale",
    "router_prior": "rpr",
}
"""What an id may name, and the prefix it then has."""

LENGTH = 20
_RANDOM_BITS = 52


def make_id(kind: str, *, now_ms: int, random: Callable[[int], bytes]) -> str:
    """An id for `kind` (a key of PREFIXES). `now_ms` is Unix milliseconds, `random(n)` gives n random bytes.

    Raises KeyError when there is no such kind.
    """
    noise = int.from_bytes(random(7), "big") >> 4
    number = ((now_ms & (1 << 48) - 1) << _RANDOM_BITS) | noise
    text = "".join(ALPHABET[(number >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
    return f"{PREFIXES[kind]}_{text}"
