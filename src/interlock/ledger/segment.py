"""Read the frames of one segment file, which may be growing meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
from isal.isal_zlib import crc32 as crc32_of_large

from interlock.errors import LogCorrupt
from interlock.ledger.format import (
    BODY_BYTES_MAX,
    HEAD_BYTES,
    HEADER_BYTES,
    LARGE_BYTES,
    MARK,
    SegmentHeader,
    decode_header,
    find_mark,
    pack_seq,
    unpack_head,
)

READ_BYTES = 1 << 20


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One whole frame: the segment it is in, its sequence number, where it begins in that file, and its body, an
    encoded record. (A struct, for there is one of each record and a named tuple takes three times as long to make.)"""

    segment: int
    seq: int
    offset: int
    body: bytes


class Stop(NamedTuple):
    """Why and where a pass over a segment ended. `whole`: exactly at the end of the file, after a whole frame."""

    offset: int
    whole: bool
    words: str


class SegmentReader:
    """Frames of one segment, in passes: each continues where the last stopped. Close it, or use it in a `with`.

    `header` is None until it could be read. `last_seq`: last frame seen, in this segment or before it; give None to
    begin in the middle of an epoch, where the header's word is taken for it.
    `durable_seq`: what the marks seen so far vouch for. No mmap: the writer may cut off a torn frame at the end.
    """

    def __init__(self, path: Path, *, epoch: str, segment: int, last_seq: int | None) -> None:
        self.path = path
        self.header: SegmentHeader | None = None
        self.last_seq = last_seq or 0
        self._continues = last_seq is not None
        self._skipped = False
        self._expected = 0
        self.durable_seq = 0
        self.offset = 0
        self.stop = Stop(0, False, "the segment was not read yet")
        self._epoch, self._segment = epoch, segment
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def frames(self) -> Iterator[Frame]:
        """Whole frames from where the last pass stopped up to the first place that is not one; then see `stop`.

        Raises LogCorrupt only for a header that is valid and belongs elsewhere.
        """
        if self.header is None and not self._read_header():
            return
        buffer, at = b"", 0  # nothing is kept from the last pass: what lies behind its stop may have changed
        while True:
            if len(buffer) - at < HEAD_BYTES:
                buffer, at = self._pread(self.offset, READ_BYTES), 0
                if len(buffer) < HEAD_BYTES:
                    self.stop = Stop(self.offset, not buffer, f"{len(buffer)} of {HEAD_BYTES} bytes of a frame's head")
                    return
            length, crc, seq = unpack_head(buffer, at)
            if length == MARK:
                if crc != crc32(pack_seq(seq), self.salt):
                    self.stop = Stop(self.offset, False, "the checksum of a mark does not match")
                    return
                self.durable_seq = max(self.durable_seq, seq)
                at += HEAD_BYTES
                self.offset += HEAD_BYTES
                continue
            if (seq != self._expected and not (self._skipped and seq > self.last_seq)) or length > BODY_BYTES_MAX:
                self.stop = Stop(self.offset, False, f"no frame with sequence number {self._expected}")
                return
            size = HEAD_BYTES + length
            if len(buffer) - at < size:
                buffer, at = self._pread(self.offset, max(size, READ_BYTES)), 0
                if len(buffer) < size:
                    self.stop = Stop(self.offset, False, f"a frame of {length} bytes is cut off")
                    return
            body = buffer[at + HEAD_BYTES : at + size]
            summed = (crc32 if length < LARGE_BYTES else crc32_of_large)(body, crc32(buffer[at + 8 : at + HEAD_BYTES]))
            if summed != crc:
                self.stop = Stop(self.offset, False, "the checksum of a frame does not match")
                return
            frame = Frame(self._segment, seq, self.offset, body)
            at += size
            self.offset += size
            self.last_seq = seq
            self._expected = seq + 1
            self._skipped = False
            yield frame

    @property
    def salt(self) -> int:
        """The salt of this segment's marks; 0 without a header."""
        return self.header.salt if self.header else 0

    def size(self) -> int:
        """Bytes of the file now."""
        return os.fstat(self._fd).st_size

    def mark_after(self, start: int, seq_min: int) -> int | None:
        """Offset of the first mark at or after `start` that vouches for `seq_min` or later."""
        if self.header is None:
            return None
        found = find_mark(self._pread(start, self.size() - start), 0, self.header.salt, seq_min)
        return start + found[0] if found else None

    def skip_to(self, offset: int) -> None:
        """Go on reading at the mark at `offset`, behind damage, with whatever later frame is there."""
        self.offset = offset
        self._skipped = True

    def _read_header(self) -> bool:
        try:
            header = decode_header(self._pread(0, HEADER_BYTES))
        except ValueError as e:
            self.stop = Stop(0, False, str(e))
            return False
        if (header.epoch, header.segment) != (self._epoch, self._segment):
            raise LogCorrupt(
                f"{self.path} holds segment {header.segment} of epoch {header.epoch}; it was moved or copied.",
                param=f"{self._segment}:0",
            )
        if not self._continues:
            self.last_seq = header.previous_last_seq
        if header.previous_last_seq != self.last_seq or header.first_seq <= self.last_seq:
            raise LogCorrupt(
                f"{self.path} follows record {header.previous_last_seq}, but the last one read is {self.last_seq}.",
                param=f"{self._segment}:0",
            )
        self.header = header
        self.offset = HEADER_BYTES
        self._expected = header.first_seq
        return True

    def _pread(self, offset: int, count: int) -> bytes:
        parts = []
        count = min(count, self.size() - offset)
        while count > 0:
            part = os.pread(self._fd, count, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return b"".join(parts)
