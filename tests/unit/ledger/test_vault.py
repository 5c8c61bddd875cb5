"""Keys and contents: the same bytes give the same content, and only under the same key."""

from __future__ import annotations

import hashlib
import hmac
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.ledger import vault
from interlock.ledger.entry import call_entry
from interlock.ledger.fold import records_of
from interlock.ledger.proof.opening import content_id
from interlock.ledger.vault import (
    LIST_START,
    KeyWrapper,
    SealedLately,
    SubjectKey,
    VaultError,
    subject_context,
    tenant_context,
)
from tests.unit.ledger.compressors import by_a_mac, by_the_text, compressing, level_of
from tests.unit.ledger.support import attempt, intent, outcome

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
    assert key.seal(plains[0]) is first[0] and key.seal(plains[2]) is first[2]
    assert key.seal(plains[1]) is not first[1]
    lately.clear()
    again = [key.seal(plain) for plain in plains[:3]]
    assert again == first and not any(one is other for one, other in zip(again, first, strict=True))


def test_what_was_sealed_lately_is_not_compressed_again() -> None:
    made = 0

    def counted(plain: bytes) -> bytes:
        nonlocal made
        made += 1
        return level_of(9)(plain)

    key = SubjectKey(bytes(32), SealedLately(1 << 20))
    with compressing(counted):
        first = key.seal(TEXT)
        assert key.seal(TEXT) is first and made == 1


def test_answers_and_records_take_no_room_among_what_is_remembered() -> None:
    """They do not come again; what does is found as long as nothing else pushes it out."""
    said = b'{"messages":[{"role":"user","content":"hello"}],"model":"m"}'
    lately = SealedLately(1 << 20)
    key = SubjectKey(bytes(32), lately)
    ended = outcome(1, body=b'{"choices":[]}')
    made = call_entry(records_of("0" * 16, 1, [intent(1, body=said), attempt(1), ended]), 5, key)
    bare = call_entry(records_of("0" * 16, 1, [intent(1, body=said), attempt(1), ended]), 5, SubjectKey(bytes(32)))
    assert made == bare
    roles = {each["role"]: each.get("id") for each in made.leaf["contents"]}
    assert set(roles) == {"messages", "request", "answer", "record"}
    remembered = {each.id.hex() for each in lately._known.values()}
    assert len(remembered) == 2 and roles["request"] in remembered
    assert remembered.isdisjoint((roles["answer"], roles["record"]))


@given(PLAIN)
def test_salts_are_macs_of_the_form_under_a_key_of_their_own(plain: bytes) -> None:
    sealed = KEY.seal(plain)
    opened = KEY.opened(sealed.id, sealed.data, bytes_max=len(plain))
    form = vault._form_of(plain)
    key = hmac.digest(bytes(32), b"interlock content salt of a form", "sha256")
    assert opened == (plain, hmac.digest(key, form, "sha256"))
    assert opened.salt is not None and content_id(opened.salt, plain) == sealed.id


# -- compressors that give other bytes of the same text

TEXT = b'{"role":"user","content":"' + b"now this and now that, and this again; " * 30 + bytes(range(32, 127)) + b'"}'


@given(st.integers(1, 40).map(lambda times: TEXT * times), st.integers(0, 9))
def test_one_name_is_one_ciphertext_whoever_compresses(plain: bytes, level: int) -> None:
    """What entries say of a name (its digest, its size, what opens it) holds for what anybody else stores under it."""
    ours = KEY.seal(plain)
    with compressing(level_of(level)):
        theirs = KEY.seal(plain)
        other_form = vault._form_of(plain)
    assert (ours.id == theirs.id) == (ours == theirs) == (vault._form_of(plain) == other_form)
    assert (ours.data[:12] == theirs.data[:12]) == (ours == theirs), "a nonce is of one form"
    for sealed in (ours, theirs):
        plain_again, salt = KEY.opened(sealed.id, sealed.data, bytes_max=len(plain))
        assert plain_again == plain and salt is not None and content_id(salt, plain) == sealed.id
        assert KEY.seal(plain) == ours
    if ours.id != theirs.id:
        for name, data in ((ours.id, theirs.data), (theirs.id, ours.data)):
            with pytest.raises(VaultError):
                KEY.open(name, data, bytes_max=len(plain))


def test_another_compressor_gives_another_content() -> None:
    """The property above is not about equal bytes only."""
    with compressing(level_of(9)):
        theirs = KEY.seal(TEXT)
    assert theirs.id != KEY.seal(TEXT).id and theirs.sha256 != KEY.seal(TEXT).sha256


def test_lists_of_other_forms_are_other_lists() -> None:
    plains = [TEXT, TEXT * 2, b"short"]
    ours = KEY.chain([KEY.seal(plain) for plain in plains])
    with compressing(level_of(9)):
        theirs = KEY.chain([KEY.seal(plain) for plain in plains])
    assert {node.id for node in ours}.isdisjoint(node.id for node in theirs)
    assert {node.digest for node in ours}.isdisjoint(node.digest for node in theirs)


# -- contents from before names were of the form: sealed by those versions under the key of bytes 0 to 31

SHORT, LONG = b'{"role":"user","content":"hello"}', b'{"role":"user","content":"' + b"so it goes, " * 14 + b'"}'
OF_THE_TEXT = {
    SHORT: (
        "a52f3b796ac73f619d23dc670f8a51082a141fce70d9e5dc11ec6d56ff3a815a",
        "875bd3c71dc314bc267a06d1ba85f93be1cdb0f664d4e056ffcb33472fd7c0990d1b32c5efcb71be75b66c90dbbbb99e628c35bdd1d07b78"
        "83fc9679e0ed",
    ),
    LONG: (
        "b5a9df3781598a4e0f8cc8f5ddceb829b28c2546b1cfa572c745ab706c9f85c7",
        "e1d01bcb752850a642a1ab54c16480d0ee65f8fe516c9f8b18821cfc49dbe3b76455d7d72abdb3b3cd6b54b8a82761ae9aa7aead434ab2cf"
        "e0291da0c36a30c435ccd9e420d76312",
    ),
}
FIRST = {
    SHORT: (
        "b47cc78e869026da43fe790e192be5df33e9ca6b2db0f8b3a88d008d83071e02",
        "875bd3c71dc314bc267a06d1ba85f93be1cdb0f664d4e056ffcb33472fd7c0990d1b32c5efcb71be75b66c90dbbb2b10073b9ba1f23b40c2"
        "a70c1cd6902e",
    ),
    LONG: (
        "26ab30d0414129d1c7f3d7411e00f0a96ecaebba2d9f40072f103b5927db14b1",
        "e1d01bcb752850a642a1ab54c16480d0ee65f8fe516c9f8b18821cfc49dbe3b76455d7d72abdb3b3cd6b54b8a82761ae9aa7aead434ab2cf"
        "6f01833e16ad7d9029de357dae0920da",
    ),
}


@pytest.mark.parametrize("plain", [SHORT, LONG])
def test_names_from_before_open_and_are_given_no_more(plain: bytes) -> None:
    key = SubjectKey(bytes(range(32)))
    before, first = (tuple(map(bytes.fromhex, made[plain])) for made in (OF_THE_TEXT, FIRST))
    opened = key.opened(*before, bytes_max=1 << 10)
    assert opened.plain == plain and opened.salt is not None and content_id(opened.salt, plain) == before[0]
    assert key.opened(*first, bytes_max=1 << 10) == (plain, None)
    assert (by_the_text(key, plain), by_a_mac(key, plain)) == (before[0], first[0])
    now = key.seal(plain)
    assert now.id not in (before[0], first[0])
    assert now.data[:12] not in (before[1][:12], first[1][:12]), "the same form under another name has another nonce"
    assert key.opened(now.id, now.data, bytes_max=1 << 10).salt != opened.salt
    for name in (before[0], first[0]):
        with pytest.raises(VaultError):
            key.open(name, now.data, bytes_max=1 << 10)


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


@pytest.mark.parametrize("size", [127, 128, 129, 4_096, 65_535, 65_536, 1_000_000])
def test_contents_of_any_size_open(size: int) -> None:
    """What does not compress, what does, and both in turn: zlib reads what another library writes."""
    noise = random.Random(size).randbytes(size)
    for plain in (noise, b"word " * (size // 5), noise[: size // 2] + TEXT * (size // len(TEXT))):
        sealed = KEY.seal(plain)
        assert KEY.open(sealed.id, sealed.data, bytes_max=len(plain)) == plain
        assert len(sealed.data) <= len(plain) + 29, "nothing grows but by nonce, tag and the byte of its form"


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
