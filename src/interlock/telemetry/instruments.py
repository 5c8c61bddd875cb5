"""Counters, gauges and histograms that cost a dictionary lookup, and the form in which they leave the process.

Label values are passed as one tuple in the declared order; it is the dictionary key. Nothing here locks: an
instrument belongs to the thread of its event loop. Durations are integer microseconds inside (exact sums) and
seconds outside (Prometheus' base unit).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import msgspec

Labels = tuple[str, ...]
OTHER = "other"
"""Every label value of the one series that takes what comes after `series_max` series of a family."""

LATENCY_BOUNDS_US = (
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 120_000_000, 300_000_000,
)  # fmt: skip
"""Upper bounds of latency buckets, microseconds: 1 ms to 5 minutes."""


class Family(msgspec.Struct, frozen=True):
    """What is known of a metric family besides its values.

    `kind`: "counter", "gauge" or "histogram". `merge`: how the processes of a node add up: "sum", "max" or "min".
    `scale`: stored integers are divided by it when shown (1_000_000 for microseconds shown as seconds).
    """

    name: str
    help: str
    labels: Labels
    kind: str
    merge: str = "sum"
    scale: int = 1
    bounds: tuple[int, ...] = ()


class _Instrument:
    """What the three kinds share: a family, and a limit on its series."""

    __slots__ = ("family", "folded", "series_max")

    def __init__(self, family: Family, series_max: int, folded: Callable[[str], None]) -> None:
        self.family = family
        self.series_max = series_max
        self.folded = folded

    def _admit(self, labels: Labels, series: int) -> Labels:
        """The labels a new series gets: its own, or `OTHER` when the family is full."""
        wanted = len(self.family.labels)
        if len(labels) != wanted:
            raise ValueError(f"{self.family.name} has {wanted} labels {self.family.labels}, not {labels!r}")
        if wanted and series >= self.series_max:
            self.folded(self.family.name)
            return (OTHER,) * wanted
        return labels


class Counter(_Instrument):
    """A count that only grows, also over a restart of the worker in the same slot."""

    __slots__ = ("_followed", "cells")

    def __init__(self, family: Family, series_max: int, folded: Callable[[str], None]) -> None:
        super().__init__(family, series_max, folded)
        self.cells: dict[Labels, int] = {}
        self._followed: dict[Labels, int] = {}

    def add(self, labels: Labels = (), n: int = 1) -> None:
        """Add `n` (>= 0) to the series with these label values."""
        try:
            self.cells[labels] += n
        except KeyError:
            labels = self._admit(labels, len(self.cells))
            self.cells[labels] = self.cells.get(labels, 0) + n

    def follow(self, labels: Labels, total: int) -> None:
        """Bring a total that some other part counts since this process began into the series (growth is added)."""
        grown = total - self._followed.get(labels, 0)
        if grown > 0:
            self._followed[labels] = total
            self.add(labels, grown)


class Gauge(_Instrument):
    """A value of now. It is forgotten with the process that set it."""

    __slots__ = ("cells",)

    def __init__(self, family: Family, series_max: int, folded: Callable[[str], None]) -> None:
        super().__init__(family, series_max, folded)
        self.cells: dict[Labels, int] = {}

    def set(self, labels: Labels, value: int) -> None:
        """Set the series with these label values (integer, in the family's stored unit)."""
        if labels not in self.cells:
            labels = self._admit(labels, len(self.cells))
        self.cells[labels] = value

    def clear(self) -> None:
        """Forget all series: the caller sets those that still exist (a removed source must vanish)."""
        self.cells.clear()


class Histogram(_Instrument):
    """Durations sorted into buckets. Each series is one list: a count per bucket, one above the last, and the sum."""

    __slots__ = ("bounds", "cells")

    def __init__(self, family: Family, series_max: int, folded: Callable[[str], None]) -> None:
        super().__init__(family, series_max, folded)
        self.bounds = family.bounds
        self.cells: dict[Labels, list[int]] = {}

    def observe_us(self, labels: Labels, us: int) -> None:
        """Count one duration of `us` microseconds."""
        try:
            row = self.cells[labels]
        except KeyError:
            row = self._row(labels)
        row[bisect_left(self.bounds, us)] += 1
        row[-1] += us

    def observer(self, labels: Labels) -> Callable[[int], None]:
        """`observe_us` of one series, with the series looked up once."""
        bounds, row = self.bounds, self.cells.get(labels) or self._row(labels)

        def observe(us: int) -> None:
            row[bisect_left(bounds, us)] += 1
            row[-1] += us

        return observe

    def _row(self, labels: Labels) -> list[int]:
        return self.cells.setdefault(self._admit(labels, len(self.cells)), [0] * (len(self.bounds) + 2))


class Dump(msgspec.Struct, frozen=True, array_like=True):
    """The published counts of one process. `mono_ns` dates the gauges (one boot of one machine)."""

    format: int
    slot: str
    pid: int
    mono_ns: int
    counters: dict[str, list[tuple[Labels, int]]]
    gauges: dict[str, list[tuple[Labels, int]]]
    histograms: dict[str, tuple[tuple[int, ...], list[tuple[Labels, list[int]]]]]
    """Family name -> (bounds, series): bounds go along, so that other buckets of an older version are not mixed in."""


DUMP_FORMAT = 1
encode_dump = msgspec.msgpack.Encoder().encode
decode_dump = msgspec.msgpack.Decoder(Dump).decode
