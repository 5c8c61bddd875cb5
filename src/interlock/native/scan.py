"""The functions of the native part: counting and hashing lines, and reading the heads of entries."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import NamedTuple

from interlock.native import library

_RUNS_MAX = 256
_ROOTS_MAX = 128
_RUN = struct.Struct("=16sQQQQ")
_ROOT = struct.Struct("=Q32s")
_FOUND = struct.Struct("=QQQQ")
_U64_MAX = (1 << 64) - 1
_START_MAX = (1 << 63) - 1


class NativeRun(NamedTuple):
    """Entries of one epoch that follow each other: the first and last `n`, the earliest `at` in Unix ns, and how many
    lines stand before the one that has it."""

    epoch: str
    first: int
    last: int
    earliest: int
    place: int


class Heads(NamedTuple):
    """How many lines are certainly canonical entries of the tree, their bytes, how many are in the range of time, and
    a run for each epoch in the order in which they begin."""

    lines: int
    size: int
    in_range: int
    runs: list[NativeRun]


class Native:
    """The native part. Its methods may be called by several threads."""

    def __init__(self, name: str, loaded: ctypes.CDLL) -> None:
        """`name` says which file it is. AttributeError if a function is missing."""
        self.name = name
        self._lines = loaded.interlock_lines
        self._lines.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self._lines.restype = ctypes.c_size_t
        self._heads = loaded.interlock_heads
        self._heads.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t),
            *(ctypes.c_char_p, ctypes.c_size_t),
            *(ctypes.c_uint64, ctypes.c_uint64),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
        ]
        self._heads.restype = None
        self._roots = getattr(loaded, "interlock_roots", None)
        if self._roots is not None:
            self._roots.argtypes = [
                *(ctypes.c_char_p, ctypes.c_size_t),
                *(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t),
            ]
            self._roots.restype = ctypes.c_int64

    def lines(self, data: bytes) -> int:
        """How many newlines there are."""
        return int(self._lines(data, len(data)))

    def roots(self, start: int, data: bytes) -> list[tuple[int, bytes]] | None:
        """The lines, hashed as leaves that follow a tree of `start` leaves, as the largest complete subtrees: (level,
        root) in order. What stands behind the last newline is left out. None if hashlib is faster on this processor, or
        if there are too many leaves."""
        if self._roots is None or not 0 <= start <= _START_MAX - len(data):
            return None
        made = ctypes.create_string_buffer(_ROOTS_MAX * _ROOT.size)
        count = self._roots(data, len(data), start, made, _ROOTS_MAX)
        return None if count < 0 else list(_ROOT.iter_unpack(made.raw[: count * _ROOT.size]))

    def heads(self, data: bytes, offset: int, tree: str, from_ns: int, to_ns: int) -> Heads:
        """Read lines from `offset` on, for as long as each is certainly the canonical JSON of an entry of `tree` with
        all fields of a head, is no erasure, and follows the entry of its epoch before it, if that was read here.

        What stands behind them is not said to be wrong. IndexError unless 0 <= offset <= len(data).
        """
        if not 0 <= offset <= len(data):
            raise IndexError(offset)
        name = tree.encode("utf-8", "surrogatepass")
        made = ctypes.create_string_buffer(_FOUND.size + _RUNS_MAX * _RUN.size)
        at = ctypes.addressof(made)
        bounds = (min(max(each, 0), _U64_MAX) for each in (from_ns, to_ns))
        self._heads(data, len(data), offset, name, len(name), *bounds, at, at + _FOUND.size, _RUNS_MAX)
        lines, size, in_range, count = _FOUND.unpack_from(made)
        rows = made.raw[_FOUND.size : _FOUND.size + count * _RUN.size]
        runs = [NativeRun(epoch.decode(), *rest) for epoch, *rest in _RUN.iter_unpack(rows)]
        return Heads(lines, size, in_range, runs)


@functools.cache
def native() -> Native | None:
    """The native part, or None where everything is done without it."""
    found = library.load()
    try:
        return Native(found[0].name, found[1]) if found else None
    except AttributeError:
        return None
