"""The leaf: canonical JSON of one entry. Here many are read at once, into what must be held against the coverage.

Canonical means as msgspec writes it with sorted keys: no blanks, each key once, shortest escapes, no floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from interlock.ledger.proof import shape
from interlock.ledger.proof.coverage import EPOCH_CHARS
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import SIZE_MAX, leaf_hashes, subtrees
from interlock.native.scan import NativeRun, native

LEAF_BYTES_MAX = 16 << 20
"""Longest leaf, and longest line of an export."""

CONTENT_ID = re.compile(r"[0-9a-f]{4,128}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_CALLS = ("call", "refusal")
_NAMES = ("epoch", "n", "at", "kind", "tree", "v")
_FIELDS = itemgetter(*_NAMES)
_HEAD = attrgetter(*_NAMES)
_PIECE_BYTES = 64 << 10


def _no_floats(text: str) -> None:
    raise ValueError(f"a number that is not an integer: {text[:40]}")


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=_no_floats)


class Rules(NamedTuple):
    """What entries are held against: their tree, the range [from_ns, to_ns), whether references are wanted.
    `wanted`: requests whose entries are looked for."""

    tree: str
    from_ns: int
    to_ns: int
    payloads: bool
    wanted: frozenset[str] = frozenset()


class Run(NamedTuple):
    """Entries of one epoch in a block: the first and last `n`, and the earliest `at` with the place that has it."""

    first: int
    last: int
    earliest: int
    place: int


class Reference(NamedTuple):
    """A ciphertext, or list of them, that the entry at index `place` names. `size`: its bytes, or the list's items."""

    place: int
    is_list: bool
    id: str
    digest: str
    size: int
    subject: str | None


class Block(NamedTuple):
    """What the consecutive entries from index `start` come to.

    `roots` are their `merkle.subtrees`, `epochs` a run for each epoch, `erased` the subjects of entries that tell of an
    erasure, `problems` (index, what is wrong with the entry), `found` entries of the wanted requests: (request, the
    commitment to its body, or "").
    """

    start: int
    roots: list[tuple[int, bytes]]
    epochs: dict[str, Run]
    in_range: int
    references: list[Reference]
    erased: list[str]
    problems: list[tuple[int, str]]
    found: list[tuple[str, str]]


class _Seen(NamedTuple):
    """The last fields of a block, as they are filled."""

    references: list[Reference]
    erased: list[str]
    problems: list[tuple[int, str]]
    found: list[tuple[str, str]]


def encode_leaf(value: dict[str, Any]) -> bytes:
    """The leaf of an entry. ProofError if it holds what a leaf cannot: floats, other types, keys that are not str."""
    try:
        data = _ENCODER.encode(value)
        same = _DECODER.decode(data) == value
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise ProofError(f"not a leaf: {str(error)[:200]}") from None
    if not same or len(data) > LEAF_BYTES_MAX:
        raise ProofError("not a leaf: its JSON does not read as the same value, or is too long")
    return data


def decode_leaf(leaf: bytes) -> dict[str, Any]:
    """The entry of a leaf. ProofError unless the leaf is its canonical JSON."""
    try:
        value = _DECODER.decode(leaf)
        same = _ENCODER.encode(value) == leaf
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProofError(f"not a leaf: {str(error)[:200]}") from None
    if not same:
        raise ProofError("not written as canonical JSON")
    return value


def scan(start: int, data: bytes, rules: Rules) -> Block:
    """Read leaves, one a line, the first of which has index `start`. What is wrong is in `problems`; never raises.

    This is where an export's time goes, so it is one loop. It is pure: blocks may be read by several processes.

    INVARIANT: what the native part takes would be taken here without a problem and give the same; what it leaves is
    read here. So it changes nothing but the time.
    """
    tree, from_ns, to_ns = rules.tree, rules.from_ns, rules.to_ns
    looks = rules.payloads or bool(rules.wanted)
    runs: dict[str, list[int]] = {}
    seen = _Seen([], [], [], [])
    problems = seen.problems
    in_range = done = left = 0
    place, end = start - 1, len(data)
    fast = native()
    while done < end:
        if fast is not None and not looks and done >= left:
            found = fast.heads(data, done, tree, from_ns, to_ns)
            if not _follow(runs, place + 1, found.runs):
                left = done + found.size
            else:
                place += found.lines
                in_range += found.in_range
                done += found.size
                if done == end:
                    break
        piece = _piece(data, done)
        done += len(piece)
        entries, heads = _read(piece, tree)
        first = place + 1
        if _joins(runs, first, heads, tree):
            place += len(heads)
            in_range += sum(from_ns <= head[2] < to_ns for head in heads)
            if looks:
                for at, (entry, head) in enumerate(zip(entries, heads, strict=True), first):
                    _look(at, head[3], entry, rules, seen)
            continue
        for place, (epoch, n, at, kind, of, v) in enumerate(heads, first):
            if of != tree or not (0 < n <= SIZE_MAX and 0 <= at <= SIZE_MAX) or v != 1:
                problems.append((place, kind if epoch is None else _wrong(of == tree)))
                continue
            run = runs.get(epoch)
            if run is None:
                if len(epoch) != EPOCH_CHARS:
                    problems.append((place, f"has an epoch that is not {EPOCH_CHARS} characters long"))
                runs[epoch] = [n, n, at, place]
            else:
                if n != run[1] + 1:
                    problems.append((place, f"is number {n} of epoch {epoch}, after number {run[1]}"))
                run[1] = n
                if at < run[2]:
                    run[2:] = at, place
            if from_ns <= at < to_ns:
                in_range += 1
            if looks or kind == "erasure":
                _look(place, kind, entries[place - first], rules, seen)
    roots = None if fast is None else fast.roots(start, data)
    if roots is None:
        roots = subtrees(start, leaf_hashes(data))
    made = {epoch: Run(*run) for epoch, run in runs.items()}
    return Block(start, roots, made, in_range, *seen)


def _read(piece: bytes, tree: str) -> tuple[Sequence[Any], list[Any]]:
    """The entries of some lines, and `_HEAD` of each.

    An entry is a `shape.Entry` or a dict, was written as canonical JSON, and its head has the right types. The head of
    a line that is none is `_no_entry`.
    """
    entries = shape.read(piece)
    if entries is not None:
        return entries, list(map(_HEAD, entries))
    read = [_one(line, tree) for line in piece[:-1].split(b"\n")]
    return [entry for entry, _ in read], [head for _, head in read]


def _follow(runs: dict[str, list[int]], first: int, found: list[NativeRun]) -> bool:
    """Whether the entries from index `first` go on where the epochs were. Then `runs` has them. False, and nothing was
    done, if not."""
    for each in found:
        run = runs.get(each.epoch)
        if run is not None and each.first != run[1] + 1:
            return False
    for epoch, n, last, at, place in found:
        run = runs.get(epoch)
        if run is None:
            runs[epoch] = [n, last, at, first + place]
        else:
            run[1] = last
            if at < run[2]:
                run[2:] = at, first + place
    return True


def _joins(runs: dict[str, list[int]], first: int, heads: list[Any], tree: str) -> bool:
    """Whether the entries from index `first` go on with one epoch and nothing of their heads is amiss. Then `runs` has
    them. False, and nothing was done, if they must be looked at one by one: also where that finds nothing.
    """
    epochs, ns, ats, kinds, trees, versions = zip(*heads, strict=True)
    count, epoch, n, at = len(heads), epochs[0], ns[0], min(ats)
    if not epochs.count(epoch) == trees.count(tree) == versions.count(1) == count or "erasure" in kinds:
        return False
    if n < 1 or ns[-1] > SIZE_MAX or at < 0 or max(ats) > SIZE_MAX or ns != tuple(range(n, n + count)):
        return False
    run = runs.get(epoch)
    if run is None:
        if len(epoch) != EPOCH_CHARS:
            return False
        runs[epoch] = [n, ns[-1], at, first + ats.index(at)]
        return True
    if n != run[1] + 1:
        return False
    run[1] = ns[-1]
    if at < run[2]:
        run[2:] = at, first + ats.index(at)
    return True


def _piece(data: bytes, begin: int) -> bytes:
    """The lines from there on that a processor's cache holds, at least one; the last ends with its newline."""
    end = data.rfind(b"\n", begin, begin + _PIECE_BYTES) + 1 or data.index(b"\n", begin) + 1
    return data[begin:end]


def _one(line: bytes, tree: str) -> tuple[Any, Any]:
    """A line that may have any shape: (entry, its head)."""
    typed = shape.read(line + b"\n")
    if typed is not None:
        return typed[0], _HEAD(typed[0])
    try:
        value = _DECODER.decode(line)
        same = _ENCODER.encode(value) == line
        head = epoch, n, at, kind, of, v = _FIELDS(value)
    except KeyError:
        return _no_entry("lacks a field that every entry has")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _no_entry("is not the JSON of an entry")
    if not same:
        return _no_entry("is not written as canonical JSON")
    # Types are compared, not tested with isinstance: True is not the number 1.
    if not type(n) is type(at) is type(v) is int or not type(epoch) is type(kind) is str:
        return _no_entry(_wrong(of == tree))
    return value, head


def _no_entry(problem: str) -> tuple[None, Any]:
    """What stands for a line that is no entry: its head is that of no tree."""
    return None, (None, 0, 0, problem, None, 0)


def _wrong(of_tree: bool) -> str:
    return "has a field with a wrong value" if of_tree else "is of another tree"


def _look(place: int, kind: str, entry: Any, rules: Rules, seen: _Seen) -> None:
    """What is looked at of an entry beside its head."""
    collect: Callable[[int, Any, list[Reference]], bool]
    if type(entry) is dict:
        subject, request, receipt = entry.get("subject"), entry.get("request"), entry.get("receipt", "")
        contents, collect = entry.get("contents", UNSET), _collect
    else:
        subject, request, receipt = entry.subject, entry.request, entry.receipt
        contents, collect = entry.contents, _collect_typed
    if kind == "erasure" and type(subject) is str:
        seen.erased.append(subject)
    if kind in _CALLS and type(request) is str and request in rules.wanted:
        seen.found.append((request, "" if receipt is UNSET else str(receipt)))
    if rules.payloads and contents is not UNSET and not collect(place, entry, seen.references):
        seen.problems.append((place, "has contents that are not references"))


def _collect_typed(place: int, entry: Any, references: list[Reference]) -> bool:
    """As `_collect`, of an entry that has the usual shape: what is there has its type."""
    who = entry.who
    subject = None if who is UNSET or who.subject is UNSET else who.subject
    for each in entry.contents:
        is_list = each.list is not UNSET
        id_, digest, size = (each.list, each.digest, each.count) if is_list else (each.id, each.sha256, each.bytes)
        if id_ is UNSET or digest is UNSET or size is UNSET or not 0 <= size <= SIZE_MAX:
            return False
        if not CONTENT_ID.fullmatch(id_) or not _HEX32.fullmatch(digest):
            return False
        references.append(Reference(place, is_list, id_, digest, size, subject))
    return True


def _collect(place: int, value: dict[str, Any], references: list[Reference]) -> bool:
    """Add the references of an entry. False if its contents are malformed."""
    contents, who = value["contents"], value.get("who")
    subject = who.get("subject") if type(who) is dict else None
    if type(contents) is not list or type(subject) not in {str, type(None)}:
        return False
    for each in contents:
        if type(each) is not dict:
            return False
        is_list = "list" in each
        if is_list:
            id_, digest, size = each["list"], each.get("digest"), each.get("count")
        else:
            id_, digest, size = each.get("id"), each.get("sha256"), each.get("bytes")
        if type(id_) is not str or type(digest) is not str or type(size) is not int or not 0 <= size <= SIZE_MAX:
            return False
        if not CONTENT_ID.fullmatch(id_) or not _HEX32.fullmatch(digest):
            return False
        references.append(Reference(place, is_list, id_, digest, size, subject))
    return True
