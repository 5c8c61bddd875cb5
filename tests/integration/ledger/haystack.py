"""Many byte strings looked for at once: one pass over the data, however many they are."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

PREFIX = 4
"""A needle is at least this long, in bytes: by so many it is looked for, then compared whole."""


class Needles:
    """What is looked for. Raises ValueError for what is shorter than `PREFIX`."""

    def __init__(self, needles: list[bytes]) -> None:
        self._by_prefix: dict[bytes, list[bytes]] = defaultdict(list)
        for needle in dict.fromkeys(needles):
            if len(needle) < PREFIX:
                raise ValueError(f"a needle has at least {PREFIX} bytes")
            self._by_prefix[needle[:PREFIX]].append(needle)
        self._prefixes = np.array([int.from_bytes(each, "little") for each in self._by_prefix], np.uint32)
        self._begins = np.zeros(1 << 16, np.bool_)
        self._begins[self._prefixes & 0xFFFF] = True

    def within(self, data: bytes) -> list[bytes]:
        """Those that are in `data`, wherever they begin; each once."""
        found: dict[bytes, None] = {}
        for place in self._places(data):
            for needle in self._by_prefix[data[place : place + PREFIX]]:
                if needle not in found and data.startswith(needle, place):
                    found[needle] = None
        return list(found)

    def _places(self, data: bytes) -> list[int]:
        """Where the first bytes of a needle are."""
        if len(data) < PREFIX:
            return []
        places: list[int] = []
        for start in (0, 1):  # two bytes at a time, at even and at odd places
            pairs = np.frombuffer(data, "<u2", (len(data) - start) // 2, start)
            at = np.flatnonzero(self._begins[pairs[:-1]])
            prefixes = pairs[at].astype(np.uint32) | pairs[at + 1].astype(np.uint32) << np.uint32(16)
            places += (at[np.isin(prefixes, self._prefixes)] * 2 + start).tolist()
        return places
