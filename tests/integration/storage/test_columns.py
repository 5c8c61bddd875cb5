"""Columns: PostgreSQL reads them as the lists that they were made of."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from interlock.errors import BadRequest
from interlock.settings import Settings
from interlock.storage.columns import Column, bigints, bytestrings, columns, integers, texts
from interlock.storage.pool import Store

LETTERS = "ab,{}\"'\\ \n\té☃\U0001f600"
VALUES: dict[str, tuple[Callable[[Any], Column], Callable[[random.Random], Any]]] = {
    "text[]": (texts, lambda r: "".join(r.choices(LETTERS, k=r.randrange(6)))),
    "bigint[]": (bigints, lambda r: r.choice((0, 1, -1, 2**63 - 1, -(2**63), r.randrange(2**40)))),
    "integer[]": (integers, lambda r: r.choice((None, 0, -1, 2**31 - 1, -(2**31), r.randrange(30_000)))),
    "bytea[]": (bytestrings, lambda r: r.choice((None, b"", b"\x00\xff", r.randbytes(r.randrange(40))))),
}


@pytest.mark.parametrize("type_", VALUES)
def test_a_column_is_read_as_what_it_was_made_of(store: Store, type_: str) -> None:
    kind, value = VALUES[type_]
    random_ = random.Random(type_)
    with store.platform() as conn:
        for count in [0, 1, 2, *random_.choices(range(100), k=20)]:
            given = [value(random_) for _ in range(count)]
            found = conn.execute(f"SELECT %b::{type_}", (kind(given),)).fetchone()
            assert found == (given,)


def test_rows_become_columns_in_their_order(store: Store) -> None:
    rows = [("a", 3, b"\x00", None), ("b", 2, None, 7), ("a", 3, b"x", None)]
    with store.platform() as conn:
        found = conn.execute(
            "SELECT * FROM unnest(%b::text[], %b::bigint[], %b::bytea[], %b::integer[])",
            columns(rows, texts, bigints, bytestrings, integers),
        ).fetchall()
    assert found == rows


@pytest.mark.parametrize("name", ["LATIN1", "SQL_ASCII"])
def test_text_is_utf_8_whatever_the_environment_says(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", name)
    with Store(postgres_url, Settings()) as store, store.platform() as conn:
        assert conn.execute("SELECT %b::text[], %s::text", (texts(["é☃"]), "é☃")).fetchone() == (["é☃"], "é☃")


@pytest.mark.parametrize(
    "make",
    [lambda: texts(["a\x00b"]), lambda: bigints([2**63]), lambda: bigints([-(2**63) - 1]), lambda: integers([2**31])],
)
def test_what_a_column_cannot_hold_is_refused(store: Store, make: Callable[[], Column]) -> None:
    with pytest.raises(psycopg.DataError):
        make()
    with pytest.raises(BadRequest) as caught, store.platform():
        make()
    assert caught.value.code == "invalid_value"
