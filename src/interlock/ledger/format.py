"""Bytes of the record log, format 1. Pure: no I/O. All integers are little-endian.

    segment  =  header, then frames and marks, back to back
    header   =  64 bytes, see `SegmentHeader`
    frame    =  u32 length | u32 crc32(seq, body) | u64 seq | body            `length` bytes of body
    mark     =  u32 0xFFFFFFFF | u32 crc32(seq, start=salt) | u64 seq         "all up to seq is durable"

The body of a frame is one record (`interlock.types.record.Record`) as a msgpack array whose first element is its
kind and, for the records of a call, whose second is the call's number. A mark carries no record: it is written
with the first batch after an fdatasync and lets a reader tell a lost tail, which was never promised to anyone,
from damage to records that were. The salt is random per segment and never leaves it, so that no caller can place
a valid mark in a request body. CRC-32 is that of zlib (ISO 3309).
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

import msgspec
from isal.isal_zlib import crc32 as crc32_of_large

from interlock.types.record import Record

MAGIC = b"ILOCKLOG"
FORMAT = 1
MARK = 0xFFFF_FFFF
MARK_BYTES = b"\xff\xff\xff\xff"
LARGE_BYTES = 512
"""From so many bytes on ISA-L computes the same checksum in a fraction of the time; of few it takes longer."""
BODY_BYTES_MAX = 1 << 30
"""A longer length field is damage, whatever the settings of the writer were."""

_HEADER = struct.Struct("<8sII16sQQQII")
_HEAD = struct.Struct("<IIQ")
_SEQ = struct.Struct("<Q")

HEADER_BYTES = _HEADER.size
HEAD_BYTES = _HEAD.size

pack_head = _HEAD.pack
unpack_head = _HEAD.unpack_from
pack_seq = _SEQ.pack

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
decode_record = _decoder.decode
"""`decode`, but for its errors, which are msgspec's."""


class SegmentHeader(NamedTuple):
    """First 64 bytes of a segment.

    `first_seq` numbers its first frame. `previous_last_seq` is the last frame of the segment before (0: none); it is
    smaller than `first_seq - 1` only where frames were given up on a full disk. `created_ns` Unix nanoseconds.
    """

    segment: int
    epoch: str
    first_seq: int
    previous_last_seq: int
    created_ns: int
    salt: int


def encode_header(header: SegmentHeader) -> bytes:
    """The 64 bytes of a segment header, its CRC-32 over the first 60 last."""
    epoch = header.epoch.encode()
    fields = (header.segment, epoch, header.first_seq, header.previous_last_seq, header.created_ns, header.salt)
    draft = _HEADER.pack(MAGIC, FORMAT, *fields, 0)
    return draft[:-4] + struct.pack("<I", crc32(draft[:-4]))


def decode_header(data: bytes) -> SegmentHeader:
    """Raises ValueError saying what is wrong with it."""
    if len(data) < HEADER_BYTES:
        raise ValueError(f"the header has {len(data)} of {HEADER_BYTES} bytes")
    magic, version, segment, epoch, first, previous, created, salt, crc = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("this is not a record log segment")
    if crc32(data[: HEADER_BYTES - 4]) != crc:
        raise ValueError("the checksum of the header does not match")
    if version != FORMAT:
        raise ValueError(f"segment format {version} is not known, only {FORMAT}")
    return SegmentHeader(segment, epoch.decode("ascii"), first, previous, created, salt)


def frame(seq: int, body: bytes) -> bytes:
    """One frame. (The log's hot path does the same inline.)"""
    return pack_head(len(body), checksum(seq, body), seq) + body


def checksum(seq: int, body: bytes) -> int:
    """What a frame's head says of the rest."""
    return (crc32 if len(body) < LARGE_BYTES else crc32_of_large)(body, crc32(pack_seq(seq)))


def mark(seq: int, salt: int) -> bytes:
    """A sync mark: everything up to `seq` is durable."""
    return pack_head(MARK, crc32(pack_seq(seq), salt), seq)


def decode(body: bytes) -> Record:
    """The record of a frame's body. Raises ValueError when it is none that this version knows."""
    try:
        return decode_record(body)
    except msgspec.MsgspecError as e:
        raise ValueError(not_known(e)) from None


def not_known(error: msgspec.MsgspecError) -> str:
    """What is wrong with a body that `decode_record` does not take."""
    return f"not a record that this version knows: {error}"


def record_kind(body: bytes) -> int:
    """The kind (tag) of an encoded record, without decoding it."""
    return body[1] if body[0] < 0xA0 else body[3]


def call_prefix(body: bytes) -> bytes:
    """What follows the kind in an encoded record; starts with `encode(call)` in the records of a call."""
    return body[2:11] if body[0] < 0xA0 else body[4:13]


def record_call(body: bytes) -> int:
    """The call number of an encoded record of a call, without decoding the rest."""
    at = 2 if body[0] < 0xA0 else 4
    first = body[at]
    if first < 0x80:
        return first
    return int.from_bytes(body[at + 1 : at + 1 + (1 << (first - 0xCC))], "big")


def whole_frames(data: bytes) -> tuple[int, int, list[tuple[int, bytes]]]:
    """Walk frames and marks that this process made itself: (bytes of whole ones, last seq or 0, frames)."""
    offset, last, frames = 0, 0, []
    while offset + HEAD_BYTES <= len(data):
        length, _, seq = unpack_head(data, offset)
        if length == MARK:
            offset += HEAD_BYTES
            continue
        end = offset + HEAD_BYTES + length
        if end > len(data):
            break
        frames.append((seq, data[offset + HEAD_BYTES : end]))
        offset, last = end, seq
    return offset, last, frames


def find_mark(data: bytes, start: int, salt: int, seq_min: int) -> tuple[int, int] | None:
    """The first valid mark at or after `start` that vouches for `seq_min` or later: (offset, its seq)."""
    at = data.find(MARK_BYTES, start)
    while at >= 0:
        if at + HEAD_BYTES <= len(data):
            _, crc, seq = unpack_head(data, at)
            if seq >= seq_min and crc == crc32(pack_seq(seq), salt):
                return at, seq
        at = data.find(MARK_BYTES, at + 1)
    return None
