"""The form of an API key: `il_<env>_<30 base62 characters><6 base62 characters of CRC-32>`.

The 30 characters carry 178 bits of randomness. The checksum (CRC-32 as in zlib, over everything before it) tells a
mistyped or truncated key from an unknown one without a look-up, and lets secret scanners recognise a leaked key.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"il_[a-z0-9]{1,12}_[0-9A-Za-z]{36}", re.ASCII)
SECRET_CHARACTERS = 30
SHOWN_CHARACTERS = 12
"""How much of a key is kept for display; too little to guess the rest."""


def mint(env: str, below: Callable[[int], int]) -> str:
    """A new key for environment `env` (1-12 lower-case letters or digits).

    `below(n)` gives a uniform random integer in [0, n), for instance `secrets.randbelow`.
    Raises ValueError for an `env` of another form.
    """
    secret = "".join(_ALPHABET[below(62)] for _ in range(SECRET_CHARACTERS))
    head = f"il_{env}_{secret}"
    key = head + checksum(head)
    if _FORM.fullmatch(key) is None:
        raise ValueError(f"{env!r} is no key environment: 1 to 12 lower-case letters or digits")
    return key


def checksum(head: str) -> str:
    """Six base62 digits, most significant first, of the CRC-32 of `head`."""
    number = zlib.crc32(head.encode())
    digits = []
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def well_formed(key: str) -> bool:
    """Whether `key` has the form of a key and its checksum is right. Says nothing about whether it is known."""
    return _FORM.fullmatch(key) is not None and checksum(key[:-6]) == key[-6:]


def shown(key: str) -> str:
    """The first characters of a key, for people to tell keys apart."""
    return key[:SHOWN_CHARACTERS]
