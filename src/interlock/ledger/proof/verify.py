"""verify_export: whether an export is all of a tree in a range of time, unchanged. One pass, memory O(epochs).

The roots of the checkpoints are computed from the entries; the coverage of each is held against the entries counted so
far. What the signatures cannot vouch for (the manifest's range and names) only says what is asked.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.contents import Contents
from interlock.ledger.proof.coverage import SETTLED_START, Coverage, Settled, settled_digest
from interlock.ledger.proof.entry import Rules
from interlock.ledger.proof.epochs import Epochs
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.findings import Findings, Report, words
from interlock.ledger.proof.folder import (
    CHECKPOINTS,
    CONTENTS,
    ENTRIES,
    LISTS,
    MANIFEST,
    OPENED,
    OPENINGS,
    PRUNED,
    PRUNED_STATE,
    ROTATIONS,
    SETTLED,
    START,
    Manifest,
    Start,
    checkpoint_name,
    decode_json,
)
from interlock.ledger.proof.note import NOTE_BYTES_MAX, Verifier
from interlock.ledger.proof.parts import Lines, count_lines, cut_lines, scanned, scanned_by
from interlock.ledger.proof.pruned import Pruned, PrunedState
from interlock.ledger.proof.pruned import parse as parse_pruned
from interlock.ledger.proof.receipt import Signed
from interlock.ledger.proof.receipts import Receipts
from interlock.ledger.proof.rotation import LINE_BYTES_MAX, ROTATIONS_MAX, Told, open_told
from interlock.ledger.proof.seen import Seen
from interlock.ledger.proof.source import Missing, Source
from interlock.ledger.proof.trust import Trust

Progress = Callable[[int, int], None]
_NAME = re.compile(r"([0-9]{20}-[0-9]{20})\.(note|coverage\.json)")


class Place(NamedTuple):
    """What the names of a checkpoint's files say."""

    name: str
    at: int
    size: int


def verify_export(
    path: Path,
    keys: Sequence[Verifier],
    *,
    seen: Sequence[str] = (),
    receipts: Sequence[Signed] = (),
    progress: Progress | None = None,
    processes: int = 1,
) -> Report:
    """Verify an export folder and say what it proves.

    `keys` are those the auditor trusts, from which changes of keys lead to others (see `trust`); without any,
    signatures are not checked and the report says so. `seen` are checkpoint notes kept from before: they must lie on
    this tree. `receipts` are held against it, and do not change the verdict on the export. `progress(done, total)`
    counts entries. With `processes` above 1, entries are read by as many processes, this one among them. Never raises
    for what is in the folder; InterlockError when one of the others is killed.
    """
    findings, held = Findings(), Receipts(receipts)
    try:
        with Source(path) as source, tempfile.TemporaryDirectory(prefix="interlock-verify-") as scratch:
            manifest = _manifest(source)
            return _Export(path, source, manifest, keys, findings, held, Path(scratch)).verify(
                seen, progress, processes
            )
    except ProofError as error:
        findings.altered(str(error))
    report = Report("altered", "", findings.listed(), 0, 0, 0, bool(keys), 0, "", 0, 0)
    report.words = words(report, 0)
    report.receipts = held.judge(report, {})
    return report


def _manifest(source: Source) -> Manifest:
    data = source.read(MANIFEST)
    try:
        return Manifest.decode(data)
    except ProofError as error:
        raise ProofError(f"{MANIFEST}: {error}") from None


class _Export:
    """One verification."""

    def __init__(
        self,
        path: Path,
        source: Source,
        manifest: Manifest,
        keys: Sequence[Verifier],
        findings: Findings,
        receipts: Receipts,
        scratch: Path,
    ) -> None:
        self._path = path
        self._source = source
        self._manifest = manifest
        self._keys = keys
        self._findings = findings
        self._receipts = receipts
        self._places: deque[Place] = deque()
        self._contents = Contents(source, findings, scratch, manifest.opened) if manifest.payloads else None
        self._origin: str | None = None
        self._roots_match = True
        self._last_at = 0
        self._in_range = 0

    def verify(self, seen: Sequence[str], progress: Progress | None, processes: int) -> Report:
        manifest, findings = self._manifest, self._findings
        try:
            start = decode_json(self._source.read(START), Start)
            self._range = start.range()
            if start.size != manifest.start_size:
                raise ProofError(f"is of size {start.size}, the manifest starts at {manifest.start_size}")
        except ProofError as error:
            raise ProofError(f"{START}: {error}") from None
        self._trust = Trust(self._keys, list(self._read_rotations()), findings)
        self._seen = Seen(seen, self._trust, findings)
        self._pruned = self._read_pruned()
        self._settled = list(self._read_settled())
        self._places.extend(self._read_places())
        self._check_ends()
        self._epochs = Epochs(start.counts, self._settled, findings, 1)
        self._begin()
        self._read_entries(progress, processes)
        self._epochs.finish(manifest.from_ns, manifest.to_ns)
        if self._trust.last_is_old:
            findings.remark(
                "the last checkpoint is signed by a key that was replaced since: who has that key can have made it. "
                "Export to a later end, or keep checkpoints"
            )
        checked = self._check_contents()
        return self._report(checked)

    def _report(self, checked: int) -> Report:
        manifest, findings = self._manifest, self._findings
        until = 0 if findings.is_altered else min(manifest.to_ns, self._epochs.until(self._last_at))
        report = Report(
            verdict=findings.verdict(until, manifest.to_ns),
            words="",
            problems=findings.listed(),
            entries=max(0, self._range.size - manifest.first),
            in_range=self._in_range,
            until=until,
            signed=bool(self._keys),
            contents=checked,
            tree=manifest.tree,
            from_ns=manifest.from_ns,
            to_ns=manifest.to_ns,
            keys=self._trust.met,
        )
        if self._pruned is not None:
            said = self._pruned[0]
            report.pruned, report.pruned_at, report.pruned_reason = said.to, said.at, said.reason
        if self._contents is not None and manifest.opened is not None:
            report.opened = self._contents.opened
        report.words = words(report, self._seen.uncompared)
        report.receipts = self._receipts.judge(report, self._epochs.known())
        return report

    def _read_pruned(self) -> tuple[Pruned, PrunedState] | None:
        """The statement that the first entries lost their text. Its absence is told where the manifest names it."""
        manifest = self._manifest
        if manifest.pruned is None:
            for name in (PRUNED, PRUNED_STATE):
                try:
                    self._source.read(name)
                except Missing:
                    continue
                except ProofError:
                    pass
                self._findings.altered(f"{name}: is there, but the manifest names no pruned range")
            return None
        try:
            note = _text(self._source.read(PRUNED, limit=NOTE_BYTES_MAX))
            said = parse_pruned(self._trust.statement(note, lambda text: parse_pruned(text).at))
            data = self._source.read(PRUNED_STATE)
            if hashlib.sha256(data).digest() != said.state:
                raise ProofError("its state is not the one that was signed")
            state = PrunedState.decode(data)
            state.roots()
            if (state.tree, state.start, state.to) != (manifest.tree, manifest.start_size, said.to):
                raise ProofError("its state is of another tree or range")
            if said.to != manifest.pruned:
                raise ProofError(f"is of the first {said.to} entries, those of the export begin at {manifest.pruned}")
        except ProofError as error:
            self._findings.altered(f"{PRUNED}: {error}")
            return None
        return said, state

    def _skip_pruned(self) -> None:
        """Go on behind the entries that lost their text, by the hashes and counts that were signed."""
        if self._pruned is None:
            return
        said, state = self._pruned
        self._range.add(state.roots())
        if self._range.root() != said.root:
            self._findings.altered(f"{PRUNED}: the hashes of the first {said.to} entries do not give its root")
        self._check_origin(PRUNED, said.origin)
        self._epochs.pruned(PRUNED, state.counts)
        self._reached()

    def _read_rotations(self) -> Iterator[Told]:
        """Changes of the signing key; an export from before there was any has no such file."""
        number = 0
        try:
            for line in self._source.lines(ROTATIONS):
                number += 1
                if number > ROTATIONS_MAX or len(line) > LINE_BYTES_MAX:
                    raise ProofError("is more than can be")
                yield open_told(line)
        except Missing:
            return
        except ProofError as error:
            self._findings.altered(f"{ROTATIONS}:{number}: {error}")

    def _read_settled(self) -> Iterator[tuple[bytes, Settled]]:
        number = 0
        try:
            for line in self._source.lines(SETTLED):
                number += 1
                yield line, Settled.decode(line)
        except ProofError as error:
            self._findings.altered(f"{SETTLED}:{number}: {error}")

    def _read_places(self) -> Iterator[Place]:
        """The checkpoints in order, by their names. Those that are out of place are reported and left out."""
        kinds: dict[str, set[str]] = {}
        try:
            names = self._source.names(CHECKPOINTS)
        except ProofError as error:
            self._findings.altered(str(error))
            return
        for name in names:
            matched = _NAME.fullmatch(name)
            if matched is None:
                self._findings.altered(f"{CHECKPOINTS}/{name}: is no checkpoint of an export")
            else:
                kinds.setdefault(matched[1], set()).add(matched[2])
        if self._manifest.checkpoints not in {None, len(kinds)}:
            self._findings.altered(f"{CHECKPOINTS}: holds {len(kinds)}, the manifest {self._manifest.checkpoints}")
        size = self._manifest.start_size
        for name, found in sorted(kinds.items()):
            place = Place(name, int(name[:20]), int(name[21:]))
            if len(found) != 2:
                self._findings.altered(
                    f"{CHECKPOINTS}/{name}: its {'note' if 'note' not in found else 'coverage'} is missing"
                )
            elif not size <= place.size <= self._manifest.end_size:
                self._findings.altered(f"{CHECKPOINTS}/{name}: its size is out of order, or outside the export")
            else:
                size = place.size
                yield place

    def _check_ends(self) -> None:
        """There must be a checkpoint at the end, and at the start unless the export begins with an empty tree."""
        manifest, findings = self._manifest, self._findings
        if not self._places:
            findings.altered(f"{CHECKPOINTS}: there is none, so nothing is signed")
            return
        first, last = self._places[0], self._places[-1]
        if last.size != manifest.end_size:
            findings.altered(f"{CHECKPOINTS}: the last is of size {last.size}, the export ends at {manifest.end_size}")
        if manifest.start_size == 0:
            return
        if first.size != manifest.start_size:
            findings.altered(f"{CHECKPOINTS}: the first is of size {first.size}, not {manifest.start_size}")
        elif first.at > manifest.from_ns and manifest.pruned is None:
            findings.incomplete(
                f"{CHECKPOINTS}/{first.name}: the export starts with a checkpoint from after the range begins"
            )

    def _begin(self) -> None:
        """The checkpoints at the start, where the settled chain is taken as given unless its first lines are there."""
        if self._places and self._places[0].size == self._manifest.start_size:
            opened = self._open(self._places[0], quiet=True)
            if opened is not None and not self._chain_from_nothing(opened[1]):
                self._epochs.begin_at(opened[1].settled)

    def _chain_from_nothing(self, coverage: Coverage) -> bool:
        """Whether settled.jsonl begins with the first line of the chain and reaches this coverage."""
        head = coverage.settled
        if self._manifest.start_size or head.count > len(self._settled):
            return False
        digest = SETTLED_START
        for data, _ in self._settled[: head.count]:
            digest = settled_digest(digest, data)
        return digest.hex() == head.digest

    def _open(self, place: Place, *, quiet: bool = False) -> tuple[Checkpoint, Coverage] | None:
        """Read a checkpoint and its coverage. What is wrong with them is reported unless `quiet`."""
        name = f"{CHECKPOINTS}/{place.name}"
        try:
            note = self._source.read(CHECKPOINTS, f"{place.name}.note", limit=NOTE_BYTES_MAX)
            data = self._source.read(CHECKPOINTS, f"{place.name}.coverage.json")
            made = self._trust.open(_text(note))
            if checkpoint_name(made.at, made.size) != place.name:
                raise ProofError("its name is not that of its time and size")
            if hashlib.sha256(data).digest() != made.coverage:
                raise ProofError("its coverage is not the one that was signed")
            coverage = Coverage.decode(data)
            if coverage.tree != self._manifest.tree:
                raise ProofError(f"is of the tree {coverage.tree}, the manifest of {self._manifest.tree}")
        except ProofError as error:
            if not quiet:
                self._findings.altered(f"{name}: {error}")
            return None
        return made, coverage

    def _reached(self) -> None:
        """Check every checkpoint, of the export and kept, at the size the tree has now."""
        size = self._range.size
        root = self._range.root()
        while self._places and self._places[0].size <= size:
            place = self._places.popleft()
            opened = self._open(place)
            if opened is None:
                continue
            made, coverage = opened
            name = f"{CHECKPOINTS}/{place.name}"
            if made.root != root and self._roots_match:
                self._roots_match = False
                self._findings.altered(f"{name}: the first {size} entries do not give the root that was signed")
            self._check_origin(name, made.origin)
            self._seen.checkpoint(name, made)
            self._epochs.checkpoint(name, coverage)
            self._last_at = made.at
        self._seen.root(size, root)
        for head in self._trust.heads:
            if head.size == size and head.root != root:
                self._findings.altered(
                    f"{ROTATIONS}: the tree was another one at size {size}, when its key was replaced"
                )

    def _check_origin(self, name: str, origin: str) -> None:
        if self._origin is None:
            self._origin = origin
            self._seen.origin(origin)
        elif origin != self._origin:
            self._findings.altered(f"{name}: is of {origin}, those before of {self._origin}")

    def _read_entries(self, progress: Progress | None, processes: int) -> None:
        manifest, findings = self._manifest, self._findings
        total = manifest.end_size - manifest.first
        sizes = {each.size for each in self._places} | set(self._seen.sizes(manifest.first, manifest.end_size))
        sizes |= {each.size for each in self._trust.heads if manifest.first <= each.size <= manifest.end_size}
        rules = Rules(manifest.tree, manifest.from_ns, manifest.to_ns, manifest.payloads, self._receipts.wanted)
        self._reached()
        self._skip_pruned()
        blocks = self._blocks(sorted(sizes))
        if processes > 1:
            read = scanned_by(processes, self._path, blocks, sizes, rules)
        else:
            read = scanned(blocks, rules)
        for block in read:
            for index, problem in block.problems:
                line = index - manifest.first + 1
                findings.altered(f"{ENTRIES}:{line}: the entry at index {index} {problem}")
            self._range.add(block.roots)
            self._epochs.entries(block)
            self._receipts.entries(block.found)
            self._in_range += block.in_range
            if self._contents is not None:
                self._contents.add(block.references, block.erased)
            if self._range.size in sizes:
                self._reached()
            if progress is not None:
                progress(self._range.size - manifest.first, total)
        if self._range.size != manifest.end_size:
            found = self._range.size - manifest.first
            findings.altered(f"{ENTRIES}: has {found} entries, the manifest says {total}")

    def _blocks(self, sizes: Sequence[int]) -> Iterator[Lines]:
        """The entries in blocks that end where a root must be compared."""
        index, end = self._manifest.first, self._manifest.end_size
        bounds = deque(size for size in [*sizes, end] if size > index)
        try:
            for chunk in self._source.chunks(ENTRIES):
                rest, count = chunk, count_lines(chunk)
                while count:
                    if index >= end:
                        raise ProofError(f"has more entries than the {end - self._manifest.first} of the manifest")
                    take = min(bounds[0] - index, count)
                    block, rest = (rest, b"") if take == count else cut_lines(rest, take)
                    yield Lines(index, take, block)
                    count -= take
                    index += take
                    while bounds and bounds[0] <= index:
                        bounds.popleft()
        except ProofError as error:
            self._findings.altered(f"{ENTRIES}: {error}")

    def _check_contents(self) -> int:
        """The ciphertexts; without payloads there must be none. Returns how many files were checked."""
        if self._contents is not None:
            return self._contents.check()
        names, read = self._source.names, self._source.read
        for name, look in ((CONTENTS, names), (LISTS, read), (OPENED, names), (OPENINGS, read)):
            try:
                look(name)
            except Missing:
                continue
            except ProofError:
                pass
            self._findings.altered(f"{name}: is there, but the manifest says that the export has no payloads")
        return 0


def _text(note: bytes) -> str:
    try:
        return note.decode()
    except UnicodeDecodeError:
        raise ProofError("is not UTF-8") from None
