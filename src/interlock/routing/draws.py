"""Well-spread bits for every draw, the same on every machine and in every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import unpack

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LANE_BYTES = 16


def salted(salt: int) -> int:
    """What `mixed` takes for a salt: worth keeping where there are many draws with the same one."""
    return salt * _GOLDEN & _MASK


def mix(seed: int, salt: int) -> int:
    """SplitMix64's finaliser over seed and salt: 64 well-spread bits, the same on every machine and in every run."""
    return mixed(seed, salted(salt))


def mixed(seed: int, salt: int) -> int:
    """`mix` for a salt that is `salted` already."""
    z = (seed + salt) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def packed(salts: Iterable[int]) -> int:
    """What `mixed_lanes` takes for these salts: worth keeping where there are many draws with the same ones."""
    return int.from_bytes(b"".join(salted(salt).to_bytes(_LANE_BYTES, "little") for salt in salts), "little")


def mixed_lanes(seed: int, lanes: int, count: int, falling: bool = False) -> Sequence[int]:
    """`mix` of one seed and each of `count` salts (`packed`), side by side in the lanes of one number: for many,
    several times as fast as one after the other. A lane is as wide as a product of two 64-bit numbers, so that none
    spills over. `falling`: how far each is below 2^64 - 1, so that the highest comes first in a sort."""
    ones, low = _lanes(count)
    z = (lanes + (seed & _MASK) * ones) & low
    z = ((z ^ ((z >> 30) & low)) * _FIRST) & low
    z = ((z ^ ((z >> 27) & low)) * _SECOND) & low
    z ^= (z >> 31) & low
    if falling:
        z ^= low
    return unpack(f"<{2 * count}Q", z.to_bytes(_LANE_BYTES * count, "little"))[::2]


@lru_cache(maxsize=256)
def _lanes(count: int) -> tuple[int, int]:
    """(one in each lane, all the low 64 bits of each lane)."""
    ones = int.from_bytes(b"\x01".ljust(_LANE_BYTES, b"\x00") * count, "little")
    return ones, ones * _MASK
