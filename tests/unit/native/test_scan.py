"""Each variant of the native part that runs here: hashes and lines are those of the code in Python."""

from __future__ import annotations

import random

import pytest

from interlock.ledger.proof.merkle import leaf_hashes, subtrees
from interlock.native.scan import Native
from tests.native import expected, variants

SIZES = (0, 1, 2, 31, 32, 33, 53, 54, 55, 56, 57, 61, 62, 63, 64, 65, 118, 119, 120, 126, 127, 128, 183, 2_000, 70_000)
"""Of leaves; with the prefix and the padding of SHA-256, blocks end at some of them."""


@pytest.fixture(params=variants() or [None], ids=lambda each: each.name if each else "none")
def native(request: pytest.FixtureRequest) -> Native:
    if request.param is None:
        pytest.skip(expected() or "test_library fails for it")
    made: Native = request.param
    return made


def _lines(rng: random.Random, count: int, sizes: tuple[int, ...]) -> bytes:
    return b"".join(rng.randbytes(rng.choice(sizes)).replace(b"\n", b"\r") + b"\n" for _ in range(count))


@pytest.mark.parametrize("seed", range(20))
def test_roots_are_those_of_the_tree(native: Native, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        data = _lines(rng, rng.randrange(40), SIZES[:-2]) + rng.choice((b"", b"no newline"))
        start = rng.choice((0, 1, rng.randrange(64), rng.randrange(1 << rng.randrange(1, 62))))
        made = native.roots(start, data)
        assert made is None if native.name.endswith("x86_64") else made == subtrees(start, leaf_hashes(data))


def test_leaves_of_every_size_beside_every_other(native: Native) -> None:
    """Two are hashed at a time; each may be the longer one."""
    if native.name in {"linux-x86_64", "linux-aarch64"}:
        pytest.skip("hashlib is faster there")
    rng = random.Random(3)
    for one in SIZES:
        for other in SIZES:
            data = _lines(rng, 1, (one,)) + _lines(rng, 1, (other,))
            assert native.roots(1, data) == subtrees(1, leaf_hashes(data))


def test_what_has_no_place_in_a_tree_is_left_to_others(native: Native) -> None:
    assert native.roots(-1, b"a\n") is None
    assert native.roots((1 << 63) - 1, b"a\n") is None
    assert native.roots(1 << 64, b"a\n") is None


def test_newlines_are_counted(native: Native) -> None:
    rng = random.Random(4)
    for size in (*range(70), 1_000, 100_000):
        data = bytes(rng.choice(b"\n\x00\x0b\x8aab") for _ in range(size))
        assert native.lines(data) == data.count(b"\n")


def _entry(n: int, epoch: str = "e" * 16, at: int = 5, more: str = "") -> bytes:
    return f'{{"at":{at},"epoch":"{epoch}","kind":"call","n":{n},"tree":"t","v":1{more}}}\n'.encode()


def test_epochs_have_runs_in_the_order_in_which_they_begin(native: Native) -> None:
    a, b = "a" * 16, "b" * 16
    data = _entry(7, b, 50) + _entry(1, a, 60) + _entry(8, b, 40) + _entry(9, b, 40) + _entry(2, a, 61)
    found = native.heads(data, 0, "t", 41, 61)
    assert (found.lines, found.size, found.in_range) == (5, len(data), 2)
    assert found.runs == [(b, 7, 9, 40, 2), (a, 1, 2, 60, 1)]
    behind = native.heads(data, len(_entry(7, b, 50)), "t", -(1 << 70), 1 << 70)
    assert (behind.lines, behind.in_range) == (4, 4)
    assert behind.runs == [(a, 1, 2, 60, 0), (b, 8, 9, 40, 1)]


def test_many_epochs_at_once(native: Native) -> None:
    names = [f"{number:016}" for number in range(300)]
    data = b"".join(_entry(n, name) for n in (1, 2) for name in names[:256])
    found = native.heads(data, 0, "t", 0, 9)
    assert found.lines == 512
    assert [(each.epoch, each.last) for each in found.runs] == [(name, 2) for name in names[:256]]
    assert native.heads(b"".join(_entry(1, name) for name in names), 0, "t", 0, 9).lines == 256


def test_it_stops_at_what_is_not_certain(native: Native) -> None:
    """And takes what stands before it."""
    good = _entry(1) + _entry(2)
    for bad in (_entry(4), _entry(3, more=',"w":1.5'), _entry(3, more=',"w":"\u00e9"'), b"\n", _entry(3)[:-1], b""):
        found = native.heads(good + bad + _entry(3), 0, "t", 0, 9)
        assert (found.lines, found.size) == ((3, len(good + _entry(3))) if not bad else (2, len(good)))
    assert native.heads(b"", 0, "t", 0, 9) == (0, 0, 0, [])
    assert native.heads(good, 0, "u", 0, 9).lines == native.heads(good, 0, "\ud800", 0, 9).lines == 0


def test_an_offset_outside_is_refused(native: Native) -> None:
    for offset in (-1, 3):
        with pytest.raises(IndexError):
            native.heads(b"ab", offset, "t", 0, 9)
