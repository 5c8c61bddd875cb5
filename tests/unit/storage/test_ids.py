"""Ids: their form, their order, and what they are made of."""

from __future__ import annotations

import os
import re

import pytest

from interlock.storage.ids import ALPHABET, PREFIXES, make_id


def test_form() -> None:
    for kind, prefix in PREFIXES.items():
        made = make_id(kind, now_ms=1_772_366_400_000, random=os.urandom)
        assert re.fullmatch(rf"{prefix}_[{ALPHABET}]{{20}}", made)
    assert make_id("team", now_ms=0, random=bytes) == "team_" + "0" * 20
    assert make_id("team", now_ms=2**48 - 1, random=lambda n: b"\xff" * n) == "team_" + "z" * 19 + "z"


def test_order_is_that_of_time() -> None:
    made = [make_id("key", now_ms=ms, random=os.urandom) for ms in range(1_772_366_400_000, 1_772_366_400_200)]
    assert made == sorted(made)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({make_id("key", now_ms=1, random=os.urandom) for _ in range(1000)}) == 1000


def test_unknown_kind() -> None:
    with pytest.raises(KeyError):
        make_id("thing", now_ms=0, random=bytes)
