"""Receipts held against an export: is the call there, or is it missing although the export says it has everything?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from interlock.ledger.proof.coverage import Settled
from interlock.ledger.proof.findings import Judged, ReceiptVerdict, Report, instant, plain
from interlock.ledger.proof.receipt import GUARD_NS, Receipt, Signed


class Known(NamedTuple):
    """What an export says of an epoch. `key` signs its receipts. `before`: it has entries before those of the export.
    `settled`: its line of the settled chain. `damaged`: records of it cannot be read."""

    key: str
    before: bool
    settled: Settled | None
    damaged: bool


class Receipts:
    """Receipts that wait for their entries. `wanted`: the requests they are of."""

    def __init__(self, given: Sequence[Signed]) -> None:
        self._given = given
        self._found: dict[str, set[str]] = {}
        self.wanted = frozenset(each.receipt.request for each in given)

    def entries(self, found: Sequence[tuple[str, str]]) -> None:
        """Entries of wanted requests: (request, the commitment in the leaf, or "")."""
        for request, commitment in found:
            self._found.setdefault(request, set()).add(commitment)

    def judge(self, report: Report, epochs: Mapping[str, Known]) -> list[Judged]:
        """What the export says to each."""
        out = []
        for each in self._given:
            verdict, words = self._one(each, report, epochs.get(each.receipt.epoch))
            out.append(Judged(each.receipt.request, verdict, plain(words)))
        return out

    def _one(self, signed: Signed, report: Report, epoch: Known | None) -> tuple[ReceiptVerdict, str]:
        receipt = signed.receipt
        if report.verdict == "altered":
            return "undecided", "the export is altered: nothing can be held against it"
        if receipt.tenant != report.tree:
            return "undecided", f"the receipt is of {receipt.tenant}, the export of {report.tree}"
        if epoch is None:
            return "undecided", f"the export says nothing of the epoch {receipt.epoch}"
        if not epoch.key:
            return "undecided", f"no checkpoint of the export names a key of the epoch {receipt.epoch}"
        if not signed.genuine(bytes.fromhex(epoch.key)):
            return "not genuine", "the key of its epoch has not signed this receipt"
        found = self._found.get(receipt.request)
        if found is not None:
            if found == {receipt.body}:
                return "recorded", "the entry of this call is in the export"
            return "contradicted", "the entry under this id is of another request than the receipt"
        return _missing(receipt, report, epoch)


def _missing(receipt: Receipt, report: Report, epoch: Known) -> tuple[ReceiptVerdict, str]:
    """A genuine receipt without an entry: whether there should be one."""
    settled = epoch.settled
    if epoch.damaged:
        return "undecided", "it is on record that records of its epoch were damaged and cannot be read"
    if settled is not None and settled.lost is not None:
        if receipt.at + GUARD_NS >= settled.lost[0]:
            return "undecided", "it is on record that its epoch was lost with its node: this call may have been, too"
    elif settled is not None and not epoch.before:
        return "omitted", "every entry of its epoch is in the export, by the signed count, and this call is not"
    if report.pruned and epoch.before:
        return "undecided", "its entry may be among the oldest ones, whose text was removed"
    if report.verdict not in ("complete", "open tail"):
        return "undecided", "the export is not complete: the entry may be among what is missing"
    if report.from_ns <= receipt.at and receipt.at + GUARD_NS < report.until:
        return "omitted", f"the export has every call admitted at {instant(receipt.at)}, and this one is not there"
    return "undecided", f"the call was admitted at {instant(receipt.at)}, which the export does not reach"
