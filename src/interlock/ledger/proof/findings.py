"""What the verifier found, and the verdict that follows from it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

Verdict = Literal["complete", "open tail", "not complete", "altered"]

PROBLEMS_MAX = 100
ReceiptVerdict = Literal["recorded", "undecided", "not genuine", "contradicted", "omitted"]


class KeyMet(msgspec.Struct, frozen=True):
    """A key that signed checkpoints of an export. `replaced`: when another took its place (Unix ns), if one did."""

    key: str
    replaced: int | None


class Judged(msgspec.Struct, frozen=True):
    """What an export says to a receipt.

    "recorded": its entry is there. "omitted": it is not, and the export claims to have everything of that instant, or
    all of that epoch: an omission is proven. "contradicted": the entry is there, but of another request. "undecided":
    this export cannot tell, and `words` says why.
    """

    request: str
    verdict: ReceiptVerdict
    words: str


class Report(msgspec.Struct):
    """What an export proves.

    `verdict` is the worst that holds, and `words` says it in one sentence. `problems` name the file, line or index at
    fault; at most 100 are listed. `entries` were read, `in_range` of them admitted in [from_ns, to_ns). Every entry of
    the tree admitted in the range and before `until` (Unix ns, at most to_ns) is there; it is 0 when nothing is proven.
    `signed` is False when no trusted key was given. `contents` counts the ciphertext files that were checked. `keys`
    signed checkpoints of the export. All of this is but for the first `pruned` entries of the tree: of them only the
    hashes are there, as was signed at `pruned_at`, for `pruned_reason`. `receipts`: what it says to those that were
    given. `opened`: how many plaintexts are there that are what was recorded; None: there are to be none. In JSON,
    from_ns and to_ns are `from` and `to`.
    """

    verdict: Verdict
    words: str
    problems: list[str]
    entries: int
    in_range: int
    until: int
    signed: bool
    contents: int
    tree: str
    from_ns: int = msgspec.field(name="from")
    to_ns: int = msgspec.field(name="to")
    keys: list[KeyMet] = msgspec.field(default_factory=list)
    pruned: int = 0
    pruned_at: int = 0
    pruned_reason: str = ""
    receipts: list[Judged] = msgspec.field(default_factory=list)
    opened: int | None = None


class Findings:
    """Collects problems; `is_altered` and `is_incomplete` say how bad they are."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.is_altered = False
        self.is_incomplete = False
        self._more = 0

    def altered(self, text: str) -> None:
        """Something contradicts a signature, a hash or another part of the export."""
        self.is_altered = True
        self.remark(text)

    def incomplete(self, text: str) -> None:
        """Something is not there that should be."""
        self.is_incomplete = True
        self.remark(text)

    def remark(self, text: str) -> None:
        """Something to know that does not change the verdict."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(plain(text))
        else:
            self._more += 1

    def listed(self) -> list[str]:
        """The problems, with a last line that counts those left out."""
        return [*self.problems, f"and {self._more} more"] if self._more else list(self.problems)

    def verdict(self, until: int, to_ns: int) -> Verdict:
        """The worst that holds."""
        if self.is_altered:
            return "altered"
        if self.is_incomplete:
            return "not complete"
        return "complete" if until >= to_ns else "open tail"


def plain(text: str) -> str:
    """Text that may hold what a hostile folder says, fit for a terminal: printable, at most 500 characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:500])


def words(report: Report, uncompared: int) -> str:
    """The report in one sentence. `uncompared` counts kept checkpoints that this export cannot be held to."""
    span = f"from {instant(report.from_ns)} to {instant(report.to_ns)}"
    first = report.problems[0] if report.problems else ""
    if report.verdict == "complete":
        said = f"Every entry of {report.tree} admitted {span} is in this export, unchanged: {report.in_range} of them"
    elif report.verdict == "open tail":
        said = (
            f"Every entry of {report.tree} admitted from {instant(report.from_ns)} to {instant(report.until)} is in "
            f"this export, unchanged; what was admitted after that, until {instant(report.to_ns)}, may not all be in it"
        )
    elif report.verdict == "not complete":
        said = f"What is here of {report.tree} {span} is unchanged, but it is not all: {first}"
    else:
        said = f"This export of {report.tree or 'an unknown tree'} is not what was signed: {first}"
    if report.pruned and report.verdict != "altered":
        said += (
            f"; complete but for the pruned range [0, {report.pruned}): of these entries the hashes are here, their "
            f"text was removed by {instant(report.pruned_at)} ({plain(report.pruned_reason)})"
        )
    if report.opened is not None and report.verdict != "altered":
        said += f"; what was said is here in plain text for {report.opened} contents, each as it was recorded"
    if uncompared:
        said += f" ({uncompared} of the checkpoints you kept could not be compared)"
    for key in report.keys:
        if key.replaced is not None:
            said += f" (signed until {instant(key.replaced)} by the key {key.key}, which was replaced then)"
    if not report.signed:
        said += " (signatures were not checked against a key you trust)"
    return said + "."


def instant(ns: int) -> str:
    """A time in Unix ns as UTC in ISO 8601, to the nanosecond where that matters; any integer is allowed."""
    seconds, rest = divmod(ns, 1_000_000_000)
    try:
        made = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns"
    return f"{made}.{rest:09}Z" if rest else f"{made}Z"
