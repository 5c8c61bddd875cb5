"""Checkpoints that the auditor kept from before: the tree of the export must grow through each of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.findings import Findings
from interlock.ledger.proof.trust import Trust


class Seen:
    """Kept checkpoints, held against those of the export. `uncompared` counts those it cannot be held to."""

    def __init__(self, notes: Sequence[str], trust: Trust, findings: Findings) -> None:
        self._findings = findings
        self.uncompared = 0
        self._names: dict[int, list[tuple[str, Checkpoint]]] = defaultdict(list)
        kept: list[tuple[str, Checkpoint]] = []
        for number, note in enumerate(notes, 1):
            name = f"kept checkpoint {number}"
            try:
                kept.append((name, trust.kept(note)))
            except ProofError as error:
                self.uncompared += 1
                findings.remark(f"{name}: cannot be used: {error}")
        kept.sort(key=lambda each: each[1].at)
        for name, each in kept:
            self._names[each.size].append((name, each))
        self._kept = kept
        self._times = [each.at for _, each in kept]
        self._most = list(accumulate((each.size for _, each in kept), max))
        self._least = list(accumulate((each.size for _, each in reversed(kept)), min))[::-1]

    def sizes(self, start: int, end: int) -> list[int]:
        """The sizes within [start, end] at which the root must be compared. Those outside are counted and named,

        but for the empty tree, which every tree begins with.
        """
        for size, kept in sorted(self._names.items()):
            if size and not start <= size <= end:
                self.uncompared += len(kept)
                where = "before the start" if size < start else "after the end"
                for name, _ in kept:
                    self._findings.remark(f"{name}: is of size {size}, {where} of this export, and was not compared")
        return [size for size in self._names if start <= size <= end]

    def root(self, size: int, root: bytes) -> None:
        """The tree of the export has this root at this size."""
        for name, each in self._names.get(size, ()):
            if each.root != root:
                self._findings.altered(f"{name}: the tree had another root at size {size} (a fork)")

    def checkpoint(self, name: str, found: Checkpoint) -> None:
        """A checkpoint of the export: of the same log, neither shrinking nor growing backwards in time."""
        before, after = bisect_left(self._times, found.at), bisect_right(self._times, found.at)
        if before and self._most[before - 1] > found.size:
            self._findings.altered(f"{name}: is smaller than a checkpoint that you kept from before (a fork)")
        if after < len(self._kept) and self._least[after] < found.size:
            self._findings.altered(f"{name}: is larger than a checkpoint that you kept from later (a fork)")
        for other, each in self._kept[before:after]:
            if each.size == found.size and each != found:
                self._findings.altered(f"{name}: differs from {other}, of the same time and size (a fork)")

    def origin(self, origin: str) -> None:
        """The origin of the export's checkpoints."""
        for name, each in self._kept:
            if each.origin != origin:
                self._findings.altered(f"{name}: is of {each.origin}, this export of {origin}")
