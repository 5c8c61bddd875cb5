"""The search for many needles finds what a search for each finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.ledger.haystack import PREFIX, Needles

FEW = st.sampled_from(b"ab\0").map(lambda each: bytes([each]))


def string(min_size: int, max_size: int) -> st.SearchStrategy[bytes]:
    return st.lists(FEW, min_size=min_size, max_size=max_size).map(b"".join)


@given(st.lists(string(PREFIX, 9), max_size=8), string(0, 80))
def test_what_is_there_is_found_and_nothing_else(needles: list[bytes], data: bytes) -> None:
    found = Needles(needles).within(data)
    assert sorted(found) == sorted({needle for needle in needles if needle in data})


@given(st.binary(min_size=PREFIX, max_size=70), st.binary(max_size=40), st.binary(max_size=40))
def test_a_needle_is_found_wherever_it_begins(needle: bytes, before: bytes, after: bytes) -> None:
    assert Needles([bytes(64), needle, b"x" * 70]).within(before + needle + after).count(needle) == 1


def test_a_needle_that_is_too_short_to_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 bytes"):
        Needles([b"abc"])
