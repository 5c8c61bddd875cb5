"""Lists as PostgreSQL's binary arrays, for statements that bring many rows at once: `unnest(%b::text[], ...)`.

The driver asks each element for its type and converts it alone, which takes longer than most of what is brought. Here a
column's type is known from its statement, and what repeats in a column is converted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from struct import Struct
from struct import error as StructError
from typing import Any, TypeVar

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

BYTEA, BIGINT, INTEGER, TEXT = 17, 20, 23, 25
"""Object ids of the types of elements (`pg_type.oid`)."""
_HEAD = Struct("!iiIii").pack
"""Dimensions, whether there are NULLs, type of the elements, how many, index of the first."""
_EMPTY = Struct("!iiI").pack
_LENGTH = Struct("!i").pack
_BIGINT = Struct("!iq").pack
_INTEGER = Struct("!ii").pack
_NULL = _LENGTH(-1)

T = TypeVar("T")


class Column:
    """An array in PostgreSQL's binary format, as `array_recv` reads it. The statement casts it to its type."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        return obj.data


psycopg.adapters.register_dumper(Column, _ColumnDumper)


Kind = Callable[[Sequence[Any]], Column]
"""How the values of one column are brought."""


def texts(values: Sequence[str]) -> Column:
    """text[]. Raises psycopg.DataError for a text that PostgreSQL cannot hold."""
    return _repeating(TEXT, values, _text)


def bigints(values: Sequence[int]) -> Column:
    """bigint[]. Raises psycopg.DataError for a number that does not fit."""
    return _numbers(BIGINT, values, lambda value: _BIGINT(8, value))


def integers(values: Sequence[int | None]) -> Column:
    """integer[]. Raises psycopg.DataError for a number that does not fit."""
    return _numbers(INTEGER, values, lambda value: _INTEGER(4, value))


def bytestrings(values: Sequence[Any]) -> Column:
    """bytea[] of bytes and None. Nothing is taken to repeat."""
    if None in values:
        return _column(BYTEA, len(values), True, [_NULL if each is None else _bytes(each) for each in values])
    lengths = map(_LENGTH, map(len, values))
    return _column(BYTEA, len(values), False, chain.from_iterable(zip(lengths, values, strict=True)))


def columns(rows: Iterable[tuple[Any, ...]], *kinds: Kind) -> list[Column]:
    """The columns of rows, of which there is at least one, each of its kind."""
    return [kind(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]


def _numbers(type_: int, values: Sequence[int | None], element: Callable[[int], bytes]) -> Column:
    try:
        return _repeating(type_, values, element)
    except StructError:
        raise psycopg.DataError("a number is out of the range of its column") from None


def _repeating(type_: int, values: Sequence[T | None], element: Callable[[T], bytes]) -> Column:
    made = {value: _NULL if value is None else element(value) for value in set(values)}
    each = map(made.__getitem__, values) if len(made) > 1 else list(made.values()) * len(values)
    return _column(type_, len(values), None in made, each)


def _text(value: str) -> bytes:
    data = value.encode()
    if b"\x00" in data:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return _bytes(data)


def _bytes(value: bytes) -> bytes:
    return _LENGTH(len(value)) + value


def _column(type_: int, count: int, nulls: bool, elements: Iterable[bytes]) -> Column:
    if not count:
        return Column(_EMPTY(0, 0, type_))
    return Column(_HEAD(1, nulls, type_, count, 1) + b"".join(elements))
