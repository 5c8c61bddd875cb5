"""Well-spread bits for every draw, the same on every machine and in every run."""

from __future__ import annotations

_MASK = (1 << 64) - 1


def mix(seed: int, salt: int) -> int:
    """SplitMix64's finaliser over seed and salt: 64 well-spread bits, the same on every machine and in every run."""
    z = (seed + salt * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
