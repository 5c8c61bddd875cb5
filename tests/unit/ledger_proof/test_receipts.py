"""Receipts held against exports: an honest log has each call, and one that left a call out is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.receipt import GUARD_NS, Receipt, Signed, commit, issue, read_receipts

from .exports import E1, E2, E3, TREE, Log, check

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
THIEF = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
BLIND = bytes(range(32))
BODY = b'{"model":"m"}'
SECOND = 1_000_000_000
FROM, AT, TO = 100 * SECOND, 150 * SECOND, 200 * SECOND


def text(call: int = 1, *, epoch: str = E1, key: Ed25519PrivateKey = KEY, body: bytes = BODY, **more: Any) -> str:
    fields: dict[str, Any] = {
        "request": f"req_{epoch}_{call:x}",
        "tenant": TREE,
        "at": AT,
        "operation": "chat",
        "dialect": "openai",
        "status": 200,
        "body": commit(BLIND, b"request", body),
        **more,
    }
    return issue(key, Receipt(**fields), BLIND)


def log_with(calls: list[int], *, key: str = PUBLIC, settled: bool = False, watermark: int = 250 * SECOND) -> Log:
    """An epoch with these calls, each with its receipt's commitment, under checkpoints before and after the range."""
    log = Log()
    log.nodes = {"node_a": 1}
    if key:
        log.keys[E1] = key
    log.begin(E1, "node_a", 1)
    log.checkpoint(50 * SECOND)
    for call in calls:
        log.entry(E1, AT, request=f"req_{E1}_{call:x}", receipt=commit(BLIND, b"request", BODY))
    log.watermarks(watermark)
    if settled:
        log.settle(E1)
    log.checkpoint(watermark)
    return log


def judged(log: Log, path: Path, *given: str, **how: Any) -> tuple[str, list[str]]:
    """(verdict on the export, on each receipt)."""
    made = log.export(path / "out", from_ns=FROM, to_ns=how.pop("to_ns", TO), **how)
    report = check(made, receipts=[Signed.parse(each) for each in given])
    return report.verdict, [each.verdict for each in report.receipts]


def test_a_call_that_is_there_is_recorded_and_one_that_was_left_out_is_proven_omitted(tmp_path: Path) -> None:
    log = log_with([1, 3])
    assert judged(log, tmp_path, text(1), text(2), text(3)) == ("complete", ["recorded", "omitted", "recorded"])


def test_a_receipt_that_another_key_signed_proves_nothing(tmp_path: Path) -> None:
    forged, changed = text(2, key=THIEF), text(2).split(".")
    changed[0] = text(4).split(".")[0]
    assert judged(log_with([1]), tmp_path, forged, ".".join(changed)) == ("complete", ["not genuine"] * 2)


def test_an_entry_of_another_request_under_its_id_contradicts_a_receipt(tmp_path: Path) -> None:
    log = log_with([1])
    assert judged(log, tmp_path, text(1, body=b"another")) == ("complete", ["contradicted"])


@pytest.mark.parametrize(
    ("at", "verdict"),
    [
        (FROM, "omitted"),
        (FROM - 1, "undecided"),
        (TO - GUARD_NS - 1, "omitted"),
        (TO - GUARD_NS, "undecided"),
        (TO + SECOND, "undecided"),
    ],
)
def test_of_what_an_export_does_not_reach_it_says_nothing(tmp_path: Path, at: int, verdict: str) -> None:
    assert judged(log_with([1]), tmp_path, text(2, at=at))[1] == [verdict]


def test_an_open_tail_is_held_to_what_it_claims(tmp_path: Path) -> None:
    log = log_with([1], watermark=160 * SECOND)
    log.nodes["node_a"] = 160 * SECOND
    assert judged(log, tmp_path, text(2), text(3, at=170 * SECOND)) == ("open tail", ["omitted", "undecided"])


def test_a_settled_epoch_has_all_its_calls_whatever_their_instants(tmp_path: Path) -> None:
    log = log_with([1], settled=True)
    assert judged(log, tmp_path, text(2, at=TO + SECOND), start=None)[1] == ["omitted"]


def test_calls_from_before_the_export_are_not_missed(tmp_path: Path) -> None:
    log = log_with([1])
    log.settle(E1)
    log.checkpoint(260 * SECOND)
    assert judged(log, tmp_path, text(1, at=FROM - 1), start=1)[1] == ["undecided"]


def test_what_was_lost_with_its_node_on_record_is_no_omission(tmp_path: Path) -> None:
    log = log_with([1], watermark=140 * SECOND)
    log.settle(E1, lost=(140 * SECOND, 240 * SECOND))
    log.nodes, log.retired = {"node_a": 140 * SECOND}, {"node_a": 240 * SECOND}
    log.checkpoint(250 * SECOND)
    verdict, said = judged(log, tmp_path, text(2), text(3, at=FROM), to_ns=TO)
    assert (verdict, said) == ("not complete", ["undecided", "undecided"])


def test_damage_on_record_is_no_omission(tmp_path: Path) -> None:
    log = log_with([1])
    log.settle(E1, damaged=True)
    log.checkpoint(260 * SECOND)
    assert judged(log, tmp_path, text(2))[1] == ["undecided"]


def test_another_tenant_another_epoch_and_an_epoch_without_a_key_decide_nothing(tmp_path: Path) -> None:
    log = log_with([1])
    log.begin(E2, "node_a", 250 * SECOND)
    log.checkpoint(260 * SECOND)
    given = (text(1, tenant="ten_other"), text(1, epoch=E3), text(1, epoch=E2))
    assert judged(log, tmp_path, *given)[1] == ["undecided"] * 3


def test_an_altered_export_decides_nothing(tmp_path: Path) -> None:
    folder = log_with([1, 2]).export(tmp_path / "out", from_ns=FROM, to_ns=TO)
    entries = folder / "entries.jsonl"
    entries.write_bytes(b"".join(entries.read_bytes().splitlines(keepends=True)[:1]))
    report = check(folder, receipts=[Signed.parse(text(2))])
    assert (report.verdict, [each.verdict for each in report.receipts]) == ("altered", ["undecided"])


@pytest.mark.parametrize("settled", [False, True])
def test_a_log_that_changes_the_key_of_an_epoch_contradicts_itself(tmp_path: Path, settled: bool) -> None:
    log = log_with([1])
    other = THIEF.public_key().public_bytes_raw().hex()
    log.open[E1] = msgspec.structs.replace(log.open[E1], key=other)
    if settled:
        log.settle(E1)
    log.checkpoint(260 * SECOND)
    verdict, said = judged(log, tmp_path, text(1, key=THIEF))
    assert (verdict, said) == ("altered", ["undecided"])


def test_a_key_may_appear_later_but_not_vanish(tmp_path: Path) -> None:
    log = log_with([1], key="")
    log.open[E1] = msgspec.structs.replace(log.open[E1], key=PUBLIC)
    log.checkpoint(260 * SECOND)
    assert judged(log, tmp_path / "a", text(1), text(2)) == ("complete", ["recorded", "omitted"])
    log.open[E1] = msgspec.structs.replace(log.open[E1], key=msgspec.UNSET)
    log.checkpoint(270 * SECOND)
    assert judged(log, tmp_path / "b")[0] == "altered"


def test_a_receipt_is_held_against_what_was_asked_and_answered() -> None:
    signed = Signed.parse(text(1, answer=commit(BLIND, b"answer", b"hello")))
    assert signed.is_of(body=BODY) and signed.is_of(answer=b"hello") and signed.is_of(body=BODY, answer=b"hello")
    assert not signed.is_of(body=b"other") and not signed.is_of(body=BODY, answer=b"other")
    assert not signed.is_of(answer=BODY), "an answer is no request"
    with pytest.raises(ProofError, match="streamed"):
        Signed.parse(text(1)).is_of(answer=b"hello")


def test_without_its_blind_a_receipt_is_as_genuine_and_tells_nothing_of_the_words() -> None:
    shown = text(1).rpartition(".")[0]
    signed = Signed.parse(shown)
    assert signed.genuine(bytes.fromhex(PUBLIC)) and not signed.genuine(bytes(32))
    with pytest.raises(ProofError, match="last part"):
        signed.is_of(body=BODY)


@given(st.data())
def test_no_receipt_with_a_changed_character_is_genuine(data: st.DataObject) -> None:
    whole = text(1).rpartition(".")[0]
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.sampled_from("ABab01-_").filter(lambda each: each != whole[place]))
    changed = whole[:place] + other + whole[place + 1 :]
    try:
        signed = Signed.parse(changed)
    except ProofError:
        return
    assert not signed.genuine(bytes.fromhex(PUBLIC))


@given(st.text(max_size=80))
@example("")
@example("..")
@example("e30.AA.AA")
@example("a" * 5000)
def test_junk_is_no_receipt(junk: str) -> None:
    with pytest.raises(ProofError):
        Signed.parse(junk)


@pytest.mark.parametrize("make", [lambda: "\n\n", lambda: "x\n", lambda: "\n".join([text(1)] * 1001)])
def test_a_file_of_no_or_too_many_receipts_is_refused(make: Callable[[], str]) -> None:
    with pytest.raises(ProofError):
        read_receipts(make())
    assert len(read_receipts(f"\n{text(1)}\n{text(2)}\n")) == 2
