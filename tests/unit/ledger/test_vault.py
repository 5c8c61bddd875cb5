"""Keys and contents: the same bytes give the same content, and only under the same key."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.ledger.vault import (
    LIST_START,
    KeyWrapper,
    SealedLately,
    SubjectKey,
    VaultError,
    subject_context,
    tenant_context,
)

KEY, OTHER = SubjectKey(bytes(32)), SubjectKey(bytes(31) + b"\x01")
PLAIN = st.one_of(st.binary(max_size=400), st.binary(max_size=40).map(lambda piece: piece * 2000))


@given(PLAIN)
def test_a_content_opens_to_what_was_sealed_and_is_always_the_same(plain: bytes) -> None:
    sealed = KEY.seal(plain)
    assert KEY.open(sealed.id, sealed.data, bytes_max=len(plain)) == plain
    assert KEY.seal(plain) == sealed
    assert sealed.sha256 == hashlib.sha256(sealed.data).digest()
    other = OTHER.seal(plain)
    assert other.id != sealed.id and other.data[:12] != sealed.data[:12]


@given(st.lists(PLAIN, max_size=12), st.integers(0, 2_000))
def test_what_was_sealed_lately_is_what_would_be_sealed(plains: list[bytes], bytes_max: int) -> None:
    """Whatever is remembered and forgotten, and whoever else's contents are remembered beside them."""
    lately = SealedLately(bytes_max)
    key, other = SubjectKey(bytes(32), lately), SubjectKey(bytes(31) + b"\x01", lately)
    for plain in [*plains, *plains, *reversed(plains)]:
        assert key.seal(plain) == KEY.seal(plain)
        assert other.seal(plain) == OTHER.seal(plain)


def test_a_content_is_sealed_once_as_long_as_it_is_remembered() -> None:
    size = len(KEY.seal(b"0" * 100).data)
    lately = SealedLately(3 * size)
    key = SubjectKey(bytes(32), lately)
    plains = [b"%d" % number * 100 for number in range(4)]
    first = [key.seal(plain) for plain in plains[:3]]
    assert [key.seal(plain) is sealed for plain, sealed in zip(plains, first, strict=False)] == [True] * 3
    key.seal(plains[0])
    key.seal(plains[3])
    assert [lately.get(sealed.id) is sealed for sealed in first] == [True, False, True]
    lately.clear()
    assert key.seal(plains[0]) is not first[0]
    assert [lately.get(each.id) for each in first[1:]] == [None, None]


@given(st.binary(max_size=300))
def test_salts_are_macs_under_a_key_of_their_own(plain: bytes) -> None:
    key = hmac.digest(bytes(32), b"interlock content salt", "sha256")
    assert KEY.salt(plain) == hmac.digest(key, plain, "sha256")


@given(PLAIN, st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_content_that_was_changed_or_is_anothers_does_not_open(plain: bytes, at: int, flip: int) -> None:
    sealed = KEY.seal(plain)
    changed = bytearray(sealed.data)
    changed[at % len(changed)] ^= flip
    for key, name, data in (
        (KEY, sealed.id, bytes(changed)),
        (OTHER, sealed.id, sealed.data),
        (KEY, OTHER.seal(plain).id, sealed.data),
        (KEY, sealed.id, b""),
    ):
        with pytest.raises(VaultError):
            key.open(name, data, bytes_max=1 << 20)


def test_a_content_that_inflates_beyond_the_limit_is_refused() -> None:
    sealed = KEY.seal(b"\0" * 10_000_000)
    assert len(sealed.data) < 100_000
    with pytest.raises(VaultError, match="more than 1000000 bytes"):
        KEY.open(sealed.id, sealed.data, bytes_max=1_000_000)


@given(st.lists(PLAIN, min_size=1, max_size=6), st.lists(PLAIN, min_size=1, max_size=3))
def test_a_list_shares_the_nodes_of_what_it_begins_with(first: list[bytes], more: list[bytes]) -> None:
    items = [KEY.seal(each) for each in first]
    rest = [KEY.seal(each) for each in more]
    short, long = KEY.chain(items), KEY.chain(items + rest)
    assert long[: len(short)] == short
    assert [node.depth for node in long] == list(range(1, len(long) + 1))
    assert [node.previous for node in long] == [b"", *(node.id for node in long[:-1])]
    digest = LIST_START
    for item, node in zip(items + rest, long, strict=True):
        digest = hashlib.sha256(digest + item.sha256).digest()
        assert node.digest == digest
    assert {node.id for node in OTHER.chain([OTHER.seal(each) for each in [*first, *more]])}.isdisjoint(
        node.id for node in long
    )


def test_a_wrapped_key_opens_under_its_wrapper_and_context_only() -> None:
    wrapper = KeyWrapper(bytes(32), os.urandom)
    key = os.urandom(32)
    wrapped = wrapper.wrap(key, tenant_context("ten_1"))
    assert wrapper.unwrap(wrapped, tenant_context("ten_1")) == key
    assert key not in wrapped and wrapper.wrap(key, tenant_context("ten_1")) != wrapped
    for unwrapper, data, context in (
        (wrapper, wrapped, tenant_context("ten_2")),
        (wrapper, wrapped, subject_context("ten_1", "")),
        (KeyWrapper(b"\x01" * 32, os.urandom), wrapped, tenant_context("ten_1")),
        (wrapper, wrapped[:-1], tenant_context("ten_1")),
        (wrapper, b"", tenant_context("ten_1")),
    ):
        with pytest.raises(VaultError):
            unwrapper.unwrap(data, context)
    for size in (0, 31, 33):
        with pytest.raises(VaultError):
            KeyWrapper(bytes(size), os.urandom)
        with pytest.raises(VaultError):
            SubjectKey(bytes(size))
