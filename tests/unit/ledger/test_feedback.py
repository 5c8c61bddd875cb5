"""Feedback in the log and the ledger: its entry, whose it must be, and how far an epoch's calls are told."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from interlock.ledger.entry import encode_leaf
from interlock.ledger.feedback import feedback_entry, judge, rows
from interlock.ledger.fold import EpochFold
from interlock.ledger.format import decode, encode
from interlock.ledger.proof import shape
from interlock.ledger.segment import Frame
from interlock.ledger.sums import Leaf, decode_leaf
from interlock.ledger.vault import SubjectKey
from interlock.types.record import Alive, Feedback, Record
from tests.unit.ledger.support import intent, outcome, refusal

GIVEN = Feedback(
    *(7, 1000, "ten_1", "team_1", "prn_bot", "prn_ann", "api_key", "key_1", "req_0123456789abcdef_1", "prn_ann"),
    *(2, 0, 200, "up", 800_000, True, True, "wrong", "the right answer", "a comment"),
)


def leaf_of(record: Feedback, key: SubjectKey | None = None) -> tuple[Leaf, bytes]:
    draft = feedback_entry(record, "fedcba9876543210", 2000, key)
    data = encode_leaf({**draft.leaf, "epoch": "fedcba9876543210", "n": 1})
    return decode_leaf(data), data


def test_an_entry_has_who_said_what_and_no_word_of_it() -> None:
    key = SubjectKey(os.urandom(32))
    leaf, data = leaf_of(GIVEN, key)
    assert (leaf.kind, leaf.request, leaf.feedback.id) == ("feedback", GIVEN.request, "req_fedcba9876543210_7")
    assert (leaf.who.subject, leaf.who.principal, leaf.who.delegator) == ("prn_ann", "prn_bot", "prn_ann")
    assert b"right answer" not in data and b"a comment" not in data
    (sealed,) = feedback_entry(GIVEN, "fedcba9876543210", 2000, key).contents
    assert msgspec.json.decode(key.open(sealed.id, sealed.data, bytes_max=1000)) == {
        "request": GIVEN.request,
        "corrected": "the right answer",
        "comment": "a comment",
    }
    assert shape.read(data + b"\n") is not None, "verifiers know its shape"
    assert [(row.kind, row.reward_micro) for row in rows(leaf)] == [
        ("thumb", 1_000_000),
        ("score", 800_000),
        ("corrected", None),
    ]


def test_what_is_not_kept_is_not_there() -> None:
    bare = msgspec.structs.replace(GIVEN, text="", comment="", score_micro=-1, thumb="", reason="")
    for record, key in ((GIVEN, None), (bare, SubjectKey(os.urandom(32)))):
        draft = feedback_entry(record, "fedcba9876543210", 2000, key)
        assert draft.contents == [] and draft.leaf["contents"] == []
    assert draft.leaf["feedback"] == {
        "id": "req_fedcba9876543210_7",
        "corrected": True,
        "comment": True,
        "status": 200,
    }
    assert decode(encode(GIVEN)) == GIVEN


def call(principal: str = "prn_bot", subject: str = "prn_ann", tree: str = "ten_1", recording: str = "full") -> Leaf:
    who = {"principal": principal, "subject": subject}
    what = {"recording": recording}
    return msgspec.convert({"tree": tree, "at": 1, "kind": "call", "who": who, "what": what}, Leaf)


@pytest.mark.parametrize(
    ("of", "principal", "delegator", "counts"),
    [
        (call(), "prn_bot", "", True),
        (call(), "prn_ann", "", True),
        (call(), "prn_other", "prn_ann", True),
        (call(), "prn_bot", "prn_bob", False),
        (call(), "prn_bob", "", False),
        (call("prn_ann"), "prn_ann", "", True),
        (call(tree="ten_2"), "prn_ann", "", False),
    ],
)
def test_only_the_principal_of_a_call_and_whom_it_acted_for_are_heard(
    of: Leaf, principal: str, delegator: str, counts: bool
) -> None:
    given, _ = leaf_of(msgspec.structs.replace(GIVEN, principal_id=principal, delegator_id=delegator))
    assert judge(of, given).counts is counts


@pytest.mark.parametrize("field", ["shadow_of", "judge_of", "challenger_of"])
def test_nobody_is_heard_on_a_call_that_nobody_made(field: str) -> None:
    given, _ = leaf_of(msgspec.structs.replace(GIVEN, principal_id="prn_ann", delegator_id=""))
    assert judge(call(), given).counts
    assert not judge(msgspec.structs.replace(call(), **{field: "req_1"}), given).counts


def test_texts_stay_under_the_key_of_whose_call_it_is_where_contents_are_recorded() -> None:
    own, _ = leaf_of(GIVEN)
    others, _ = leaf_of(msgspec.structs.replace(GIVEN, subject="prn_bot"))
    assert judge(call(), own).keeps and not judge(call(), others).keeps
    assert not judge(call(recording="metadata"), own).keeps
    assert not judge(call(recording="prompt_only"), own).keeps


def fed(*records: Record) -> tuple[EpochFold, list[Any]]:
    fold = EpochFold("0123456789abcdef", lambda _: None, floor_ns=0, bytes_max=1 << 20)
    found: list[Any] = []
    for seq, record in enumerate(records, 1):
        completed = fold.feed(Frame(0, seq, 0, encode(record)))
        if completed is not None:
            found.append(completed[1])
    return fold, found


def test_feedback_is_handed_over_once_and_in_its_place() -> None:
    _, found = fed(intent(1), GIVEN, outcome(1), GIVEN)
    assert [type(each).__name__ for each in found] == ["Feedback", "CallRecords", "Feedback"]


def test_how_far_calls_are_told_is_what_the_worker_says_and_no_further_than_the_oldest_that_runs() -> None:
    assert fed()[0].calls_through == 0
    assert fed(intent(1), outcome(1))[0].calls_through == 0, "others with smaller numbers may wait for their intent"
    assert fed(intent(1), outcome(1), Alive(1, 4))[0].calls_through == 4
    assert fed(intent(2), Alive(1, 4))[0].calls_through == 1
    assert fed(intent(2), Alive(1, 4), outcome(2))[0].calls_through == 4
    assert fed(refusal(3), Alive(1, 5), Alive(2, 3))[0].calls_through == 5
