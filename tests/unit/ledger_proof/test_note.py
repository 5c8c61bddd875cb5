"""Signed notes: a known answer, several keys, and what is refused."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.note import Ed25519Signer, VerifierKey, open_note, sign_note, split_note

OLD = Ed25519Signer("cell.example/old", bytes(range(32)))
NEW = Ed25519Signer("cell.example/new", bytes(range(1, 33)))
TEXT = "cell.example/ten_abc\n3\nand more\n"

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_published_example() -> None:
    """The example in the documentation of golang.org/x/mod/sumdb/note."""
    key = VerifierKey.parse(GO_KEY)
    assert key.text == GO_KEY
    assert open_note(GO_NOTE, [key]) == GO_NOTE.split("\n\n")[0] + "\n"


def test_the_example_computed_by_hand() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    hash_ = hashlib.sha256(b"cell.example/old" + b"\n\x01" + public).digest()[:4]
    line = base64.b64encode(hash_ + private.sign(TEXT.encode())).decode()
    assert sign_note(TEXT, [OLD]) == f"{TEXT}\n\u2014 cell.example/old {line}\n"
    expected = f"cell.example/old+{hash_.hex()}+{base64.b64encode(bytes([1]) + public).decode()}"
    assert OLD.verifier_key.text == expected
    assert VerifierKey.parse(f"  {expected}\n") == OLD.verifier_key


def test_several_signatures() -> None:
    note = sign_note(TEXT, [OLD, NEW])
    for keys in ([OLD.verifier_key], [NEW.verifier_key], [NEW.verifier_key, OLD.verifier_key]):
        assert open_note(note, keys) == TEXT
    third = Ed25519Signer("cell.example/third", bytes(32))
    for keys in ([], [third.verifier_key]):
        with pytest.raises(ProofError, match="no trusted key"):
            open_note(note, keys)


def test_a_wrong_signature_of_a_trusted_key_is_not_made_good_by_another() -> None:
    good, bad = sign_note(TEXT, [OLD, NEW]), sign_note(TEXT + "x\n", [NEW])
    forged = good[: good.index("\u2014 cell.example/new")] + bad[bad.index("\u2014 ") :]
    assert open_note(forged, [OLD.verifier_key]) == TEXT
    with pytest.raises(ProofError, match=r"signature of cell\.example/new is wrong"):
        open_note(forged, [OLD.verifier_key, NEW.verifier_key])


def test_a_key_of_the_same_name_is_another_key() -> None:
    other = Ed25519Signer(OLD.name, bytes(32))
    with pytest.raises(ProofError, match="no trusted key"):
        open_note(sign_note(TEXT, [other]), [OLD.verifier_key])


def test_every_changed_byte_is_noticed() -> None:
    note = sign_note(TEXT, [OLD])
    for at in range(len(note)):
        changed = note[:at] + chr(ord(note[at]) ^ 1) + note[at + 1 :]
        with pytest.raises(ProofError):
            open_note(changed, [OLD.verifier_key])


def test_a_text_may_hold_blank_lines() -> None:
    text = "a\n\n\u2014 b AAAA\n\nc\n"
    assert open_note(sign_note(text, [OLD]), [OLD.verifier_key]) == text


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        "text\n",
        "text\n\n",
        "\n\n\u2014 a AAAAAAAA\n",
        "text\n\n\u2014 a AAAAAAAA",
        "text\n\n- a AAAAAAAA\n",
        "text\n\n\u2014 AAAAAAAA\n",
        "text\n\n\u2014 a b AAAAAAAA\n",
        "text\n\n\u2014 a+b AAAAAAAA\n",
        "text\n\n\u2014 a AAAAAAA\n",
        "text\n\n\u2014 a AAAAAA==\n",
        "text\n\n\u2014 a AAAAAAB=\n",
        "text\n\n\u2014 a AAAA AAA=\n",
        "text\n\n\u2014 a \u00e4\u00e4\u00e4\u00e4\n",
        "te\rxt\n\n\u2014 a AAAAAAA=\n",
        "te\x00xt\n\n\u2014 a AAAAAAA=\n",
        "te\ud800xt\n\n\u2014 a AAAAAAA=\n",
        "text\n\n\u2014 \ud800 AAAAAAA=\n",
        "text\n\n" + "\u2014 a AAAAAAA=\n" * 65,
        "x" * (1 << 20) + "\n\n\u2014 a AAAAAAA=\n",
    ],
)
def test_what_is_no_note(note: str) -> None:
    with pytest.raises(ProofError):
        split_note(note)
    with pytest.raises(ProofError):
        open_note(note, [OLD.verifier_key])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a+b",
        "a+12345678",
        GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("c74f20a3", "C74F20A3"),
        GO_KEY.replace("Peter", "Paul"),
        GO_KEY.replace("Peter", "Peter "),
        GO_KEY[:-4],
        GO_KEY + "=",
        "PeterNeumann+c74f20a3+AhpcAAAA",
        "\ud800+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "P+c74f20a3+\ud800",
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ProofError):
        VerifierKey.parse(text)


def test_what_cannot_be_signed() -> None:
    for text in ("", "\n", "a", "a\tb\n", "a\ud800\n"):
        with pytest.raises(ProofError):
            sign_note(text, [OLD])
    with pytest.raises(ProofError):
        sign_note(TEXT, [])
    for name in ("", "a b", "a+b", "a\n", "x" * 256, "a\u2003b"):
        with pytest.raises(ProofError):
            Ed25519Signer(name, bytes(32))
    with pytest.raises(ProofError):
        Ed25519Signer("a", bytes(31))
