"""The entries of an export, scanned by several processes: who reads what of the file, and in which order it is told.

This process reads the file once, counts its lines, and gives parts of it to worker processes, which read them again:
what is sent is where they lie. While these have enough to do, it scans what it read itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from interlock.errors import InterlockError
from interlock.ledger.proof.entry import Block, Rules, scan
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.folder import ENTRIES
from interlock.ledger.proof.source import Source
from interlock.native.scan import native

PART_BYTES = 2 << 20
"""What a process is given at a time, about."""
GIVEN_MAX = 2
"""Parts that each worker process has been given at a time: one that it scans, and the next."""
AHEAD_MAX = 8
"""Parts for each process that may be scanned while one before them is not."""


class Lines(NamedTuple):
    """Consecutive entries: the index of the first, how many, and their lines."""

    first: int
    number: int
    data: bytes


class Piece(NamedTuple):
    """How many lines become a block, and their bytes."""

    number: int
    size: int


@dataclass(slots=True)
class Part:
    """Consecutive entries of `entries.jsonl`: the index of the first, where its line begins, and the blocks that they
    become."""

    first: int
    offset: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(piece.size for piece in self.pieces)


def scanned(blocks: Iterator[Lines], rules: Rules) -> Iterator[Block]:
    """Scan blocks, in order, in this process."""
    for first, _, data in blocks:
        yield scan(first, data, rules)


def scanned_by(processes: int, path: Path, blocks: Iterator[Lines], ends: Set[int], rules: Rules) -> Iterator[Block]:
    """The same by so many processes, at least two, this one among them. `ends`: after so many entries a block must end.

    INVARIANT: what a worker says is of the bytes that it read itself, and of as many entries as were counted here. A
    file that is changed meanwhile is one that was changed. ProofError then. InterlockError when one is killed.
    """
    ahead: deque[Future[list[Block] | str] | list[Block]] = deque()
    try:
        with ProcessPoolExecutor(processes - 1, mp_context=get_context("spawn")) as pool:
            for part, lines in _parts(blocks, ends):
                given = sum(isinstance(each, Future) and not each.done() for each in ahead)
                if given < GIVEN_MAX * (processes - 1):
                    ahead.append(pool.submit(scan_part, str(path), part, rules))
                else:
                    ahead.append([scan(first, data, rules) for first, _, data in lines])
                while ahead and (len(ahead) > AHEAD_MAX * processes or _is_done(ahead[0])):
                    yield from _blocks(ahead.popleft())
            while ahead:
                yield from _blocks(ahead.popleft())
    except BrokenProcessPool:
        raise InterlockError("A process that reads the export was killed; try again with one process.") from None


def _parts(blocks: Iterator[Lines], ends: Set[int]) -> Iterator[tuple[Part, list[Lines]]]:
    """Blocks joined to parts of about `PART_BYTES`. Of a part, those that follow each other are one, but for `ends`."""
    part, lines = Part(0, 0), list[Lines]()
    size = 0
    joined = False
    for block in blocks:
        if not lines:
            part, size, joined = Part(block.first, part.offset + size), 0, False
        piece = Piece(block.number, len(block.data))
        if joined:
            before = part.pieces.pop()
            piece = Piece(before.number + piece.number, before.size + piece.size)
        part.pieces.append(piece)
        lines.append(block)
        size += len(block.data)
        joined = block.first + block.number not in ends
        if size >= PART_BYTES:
            yield part, lines
            lines = []
    if lines:
        yield part, lines


def scan_part(path: str, part: Part, rules: Rules) -> list[Block] | str:
    """In a worker process: the blocks of a part, or what is wrong with the file as a whole."""
    try:
        with Source(Path(path)) as source:
            data = source.read_at(part.offset, part.size, ENTRIES)
    except ProofError as error:
        return str(error)
    blocks, index, begin = [], part.first, 0
    for number, size in part.pieces:
        lines = data if len(part.pieces) == 1 else data[begin : begin + size]
        if len(lines) != size or not lines.endswith(b"\n"):
            return f"{ENTRIES} was changed while it was read"
        block = scan(index, lines, rules)
        if sum(1 << level for level, _ in block.roots) != number:
            return f"{ENTRIES} was changed while it was read"
        blocks.append(block)
        index += number
        begin += size
    return blocks


def _is_done(scanned: Future[list[Block] | str] | list[Block]) -> bool:
    return not isinstance(scanned, Future) or scanned.done()


def _blocks(scanned: Future[list[Block] | str] | list[Block]) -> list[Block]:
    result = scanned.result() if isinstance(scanned, Future) else scanned
    if isinstance(result, str):
        raise ProofError(result)
    return result


def count_lines(data: bytes) -> int:
    """How many lines. `bytes.count` looks at each byte alone, which takes three times as long for lines of entries."""
    fast = native()
    if fast is not None:
        return fast.lines(data)
    count, end = 0, -1
    while (end := data.find(b"\n", end + 1)) >= 0:
        count += 1
    return count


def cut_lines(data: bytes, lines: int) -> tuple[bytes, bytes]:
    """The first lines, and the rest. IndexError if there are not so many."""
    end = 0
    for _ in range(lines):
        end = data.find(b"\n", end) + 1
        if not end:
            raise IndexError(lines)
    return data[:end], data[end:]
