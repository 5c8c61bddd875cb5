"""Runs of three to five letters, hashed: a second view of a prompt beside its words, for logs that are fitted offline.

Runs see what words hide: endings, parts of compounds, formulas, spelling. There are about ten times as many of them,
which is why nothing that decides a call reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interlock.learning.prompt import SLOTS, Floats, Integers, shown
from interlock.learning.sparse import Rows

LENGTHS = (3, 4, 5)
_SLOT_BITS = SLOTS.bit_length() - 1
_BASE = np.uint32(0x01000193)
_MIX = np.uint32(0x9E3779B1)


class Runs(NamedTuple):
    """The runs of one text. `slots`: ascending, each once. `weights`: 1 + ln(count) of each."""

    slots: Integers
    weights: Floats


def runs(text: str) -> Runs:
    """What runs a text has: of small letters, any gap being one blank. Of a long text the part that words are read of.
    The same on every machine."""
    line = f" {' '.join(shown(text).lower().split())} "
    codes = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), "<u4")
    rolled = codes.astype(np.uint32)
    hashes = [np.zeros(0, np.uint32)]
    for length in range(2, min(LENGTHS[-1], len(codes)) + 1):
        rolled = rolled[:-1] * _BASE + codes[length - 1 :]
        if length in LENGTHS:
            mixed = (rolled + np.uint32(length)) * _MIX
            mixed ^= mixed >> np.uint32(15)
            hashes.append((mixed * _MIX) >> np.uint32(32 - _SLOT_BITS))
    slots, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return Runs(slots.astype(np.int32), (1 + np.log(counts)).astype(np.float32))


class Letters:
    """How runs are weighed: by their rarity in a sample of texts; one seen once weighs nothing. Immutable."""

    def __init__(self, sample: Sequence[Runs]) -> None:
        """At least one text."""
        counts = np.bincount(np.concatenate([text.slots for text in sample]), minlength=SLOTS)
        rarity = np.log((1 + len(sample)) / (1 + counts)) + 1
        self._rarity: Floats = np.where(counts > 1, rarity, 0).astype(np.float32)

    def rows(self, texts: Sequence[Runs]) -> Rows:
        """The runs of texts by rarity, each row of unit length (or zero when nothing in it is known)."""
        slots, values = [], []
        for text in texts:
            value = text.weights * self._rarity.take(text.slots)
            known = value > 0
            value = value[known]
            norm = float(value @ value) ** 0.5
            slots.append(text.slots[known])
            values.append(value / norm if norm else value)
        starts = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
        return Rows(np.concatenate(slots).astype(np.int64), np.concatenate(values), starts, SLOTS)
