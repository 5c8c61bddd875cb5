"""What the coverage said so far, held against the entries and against itself.

INVARIANT: at a checkpoint, each epoch with entries in the tree is either in its coverage, with exactly as many entries,
or in the settled chain, with exactly as many entries and none to follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from interlock.ledger.proof.coverage import (
    SETTLED_START,
    Coverage,
    NodeSeen,
    OpenEpoch,
    Settled,
    SettledHead,
    settled_digest,
)
from interlock.ledger.proof.entry import Block
from interlock.ledger.proof.findings import Findings, instant
from interlock.ledger.proof.receipts import Known


class Epochs:
    """Counts entries by epoch and checks one coverage after another. Memory: O(epochs).

    `counts` are those at the start of the export, `settled` its lines of the settled chain with their bytes.
    """

    def __init__(
        self, counts: dict[str, int], settled: Sequence[tuple[bytes, Settled]], findings: Findings, first_line: int
    ) -> None:
        self._counts = {epoch: n for epoch, n in counts.items() if n}
        self._lines = settled
        self._findings = findings
        self._first_line = first_line
        self._done = 0
        self._base: int | None = None
        self._digest = SETTLED_START
        self._settled: set[str] = set()
        self._open: dict[str, OpenEpoch] = {}
        self._nodes: dict[str, int] = {}
        self._fresh: dict[str, tuple[int, int]] = {}
        self._damaged: dict[str, str] = {}
        self._retired: dict[str, int] = {}
        self._losses: list[Settled] = []
        self._keys: dict[str, str] = {}
        self._lines_of: dict[str, Settled] = {}
        self._before = set(self._counts)

    def begin_at(self, head: SettledHead) -> None:
        """Take the settled chain up to here as given: it is that of the start checkpoint."""
        self._base = head.count
        self._digest = bytes.fromhex(head.digest)

    def entries(self, block: Block) -> None:
        """Entries that were appended to the tree."""
        for epoch, run in block.epochs.items():
            expected = self._counts.get(epoch, 0) + 1
            if run.first != expected:
                self._findings.altered(
                    f"entries.jsonl: the first entry of epoch {epoch} from index {block.start} on is number "
                    f"{run.first}, but number {expected} is next"
                )
            self._counts[epoch] = run.last
            if epoch in self._settled:
                self._findings.altered(
                    f"entries.jsonl: an entry of the settled epoch {epoch} at or after {block.start}"
                )
            listed = self._open.get(epoch)
            if listed is None:
                earliest = self._fresh.get(epoch)
                if earliest is None or run.earliest < earliest[0]:
                    self._fresh[epoch] = (run.earliest, run.place)
            elif run.earliest < listed.watermark:
                self._findings.altered(
                    f"entries.jsonl: index {run.place} of epoch {epoch} was admitted at {run.earliest}, but an earlier "
                    f"checkpoint had everything before {listed.watermark}"
                )

    def pruned(self, name: str, counts: dict[str, int]) -> None:
        """How many entries of each epoch there are behind those that lost their text."""
        ended = {line.epoch: line.n for _, line in self._lines if line.epoch in self._settled}
        for epoch, n in counts.items():
            if n < self._counts.get(epoch, 0):
                self._findings.altered(f"{name}: epoch {epoch} has fewer entries than before")
            elif n != ended.get(epoch, n):
                self._findings.altered(f"{name}: the settled epoch {epoch} has another number of entries")
        for epoch in self._counts.keys() - counts.keys():
            self._findings.altered(f"{name}: epoch {epoch} has entries in the tree, but is not counted")
        self._counts = {epoch: n for epoch, n in counts.items() if n and epoch not in ended}
        self._before |= {epoch for epoch, n in counts.items() if n}

    def checkpoint(self, name: str, coverage: Coverage) -> None:
        """The coverage of a checkpoint whose size has been reached."""
        self._settle(name, coverage.settled)
        listed = {each.epoch: each for each in coverage.epochs}
        for each in coverage.epochs:
            self._check_open(name, each)
            self._check_key(name, each)
        for epoch in self._open.keys() - listed.keys():
            self._findings.altered(f"{name}: epoch {epoch} has vanished without being settled")
        for epoch in self._counts.keys() - listed.keys() - self._open.keys():
            self._findings.altered(f"{name}: epoch {epoch} has entries in the tree, but is not covered")
        self._open = listed
        self._fresh.clear()
        self._see_nodes(name, coverage.nodes)

    def finish(self, from_ns: int, to_ns: int) -> None:
        """The end: lines of the chain that no checkpoint reached, damage, and losses that touch [from_ns, to_ns)."""
        if self._done < len(self._lines):
            self._findings.altered(f"{self._line(self._done)}: no checkpoint of the export reaches this line")
        for epoch, name in sorted(self._damaged.items()):
            self._findings.incomplete(f"{name}: records of epoch {epoch} were damaged and cannot be read")
        for line in self._losses:
            after, until = line.lost or (0, 0)
            if after < to_ns and until > from_ns:
                self._findings.incomplete(
                    f"complete but for node {line.node}'s epoch {line.epoch}, lost after {instant(after)}, retired by "
                    f"an administrator on {instant(until)}: calls may be missing"
                )
        for node, ns in sorted(self._retired.items()):
            if ns < to_ns:
                self._findings.remark(
                    f"that node {node} admitted nothing from {instant(ns)} on is the word of the administrator who "
                    "retired it"
                )

    def until(self, empty: int) -> int:
        """Through which instant (Unix ns) the last coverage promises everything; `empty` if it names no one.

        A node that was listed once and no longer is still bounds it, unless it was retired: nothing is known of what it
        began since. An open epoch of a node that was never listed bounds it to 0.
        """
        bounds = [each.watermark for each in self._open.values()]
        bounds += [ns for node, ns in self._nodes.items() if node not in self._retired]
        bounds += [self._nodes.get(each.node, 0) for each in self._open.values()]
        return min(bounds, default=empty)

    def _check_open(self, name: str, each: OpenEpoch) -> None:
        epoch, found = each.epoch, self._counts.get(each.epoch, 0)
        if found != each.n:
            self._findings.altered(f"{name}: epoch {epoch} has {each.n} entries in the tree, but {found} were found")
        if epoch in self._settled:
            self._findings.altered(f"{name}: epoch {epoch} was settled before")
        if each.damaged:
            self._damaged.setdefault(epoch, name)
        before = self._open.get(epoch)
        if before is None:
            self._check_begun(name, epoch, each.node)
            return
        if each.watermark < before.watermark:
            self._findings.altered(f"{name}: the watermark of epoch {epoch} goes back")
        if each.node != before.node:
            self._findings.altered(f"{name}: epoch {epoch} is of another node than before")

    def _check_key(self, name: str, each: OpenEpoch | Settled) -> None:
        """The key of an epoch's receipts appears once, and stays."""
        known, key = self._keys.get(each.epoch, ""), each.key if isinstance(each.key, str) else ""
        if known and key != known:
            self._findings.altered(f"{name}: epoch {each.epoch} has another key for its receipts than before")
        self._keys[each.epoch] = known or key

    def known(self) -> dict[str, Known]:
        """What was said of each epoch. After `finish`."""
        return {
            epoch: Known(key, epoch in self._before, self._lines_of.get(epoch), epoch in self._damaged)
            for epoch, key in self._keys.items()
        }

    def _check_begun(self, name: str, epoch: str, node: str) -> None:
        """A new epoch must not hold entries from before an instant by which all epochs of its node were listed."""
        earliest = self._fresh.get(epoch)
        promised = self._nodes.get(node, 0)
        if earliest is not None and earliest[0] < promised:
            self._findings.altered(
                f"{name}: epoch {epoch} has an entry (index {earliest[1]}) admitted at {earliest[0]}, but an earlier "
                f"checkpoint had every epoch that node {node} began before {promised}"
            )

    def _settle(self, name: str, head: SettledHead) -> None:
        """Follow the settled chain to where this coverage says it is."""
        base = self._base or 0
        if head.count < base + self._done:
            self._findings.altered(f"{name}: the settled chain is shorter than before")
            return
        if head.count > base + len(self._lines):
            self._findings.altered(f"{name}: settled.jsonl lacks lines up to line {head.count} of the chain")
            return
        while base + self._done < head.count:
            data, line = self._lines[self._done]
            self._settle_one(self._line(self._done), line)
            self._digest = settled_digest(self._digest, data)
            self._done += 1
        if self._digest.hex() != head.digest:
            self._findings.altered(f"{name}: the settled chain has another digest at line {head.count}")

    def _settle_one(self, name: str, line: Settled) -> None:
        found = self._counts.pop(line.epoch, 0)
        before = self._open.pop(line.epoch, None)
        if found != line.n:
            self._findings.altered(f"{name}: epoch {line.epoch} has {line.n} entries, but {found} were found")
        if line.epoch in self._settled:
            self._findings.altered(f"{name}: epoch {line.epoch} is settled a second time")
        if before is not None and before.node != line.node:
            self._findings.altered(f"{name}: epoch {line.epoch} is of another node than before")
        if before is None:
            self._check_begun(name, line.epoch, line.node)
        self._check_key(name, line)
        self._lines_of[line.epoch] = line
        if line.damaged:
            self._damaged.setdefault(line.epoch, name)
        if line.lost is not None:
            self._losses.append(line)
            if before is not None and line.lost[0] < before.watermark:
                self._findings.altered(f"{name}: the watermark of epoch {line.epoch} goes back")
        self._settled.add(line.epoch)

    def _see_nodes(self, name: str, nodes: Sequence[NodeSeen]) -> None:
        for each in nodes:
            before = self._nodes.get(each.node)
            if before is not None and each.registered < before:
                self._findings.altered(f"{name}: the registration of node {each.node} goes back")
            self._see_retired(name, each, known=before is not None)
            self._nodes[each.node] = each.registered

    def _see_retired(self, name: str, node: NodeSeen, *, known: bool) -> None:
        """A node stops bounding what is complete only by a loss on record, from its last registration on."""
        if not isinstance(node.retired, int):
            self._retired.pop(node.node, None)
            return
        if known and node.node not in self._retired and not self._tells_of(node, node.retired):
            self._findings.altered(f"{name}: node {node.node} is retired, and no line of the chain says what was lost")
        self._retired[node.node] = node.retired

    def _tells_of(self, node: NodeSeen, retired: int) -> bool:
        lost = [each.lost for each in self._losses if each.node == node.node]
        told = any(each is not None and each[0] <= node.registered and each[1] >= retired for each in lost)
        return told or any(each.node == node.node and each.watermark <= node.registered for each in self._open.values())

    def _line(self, number: int) -> str:
        return f"settled.jsonl:{self._first_line + number}"
