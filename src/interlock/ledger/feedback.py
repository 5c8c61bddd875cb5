"""Feedback in the ledger: its entry, and whether it is the caller's of the call that it names. Pure.

An entry of kind `feedback` says who said what of which call. Whether it counts is known when the entry of that call is
there too: see `judge`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from interlock.ledger.entry import VERSION, Draft, recording_name
from interlock.ledger.sums import Leaf
from interlock.ledger.vault import SubjectKey
from interlock.types.feedback import CORRECTED, NO_SCORE, SCORE, THUMB, reward
from interlock.types.identity import Recording
from interlock.types.record import Feedback, request_id

KIND = "feedback"
CONTENT = "feedback"
"""Role of the content that has the texts."""
_KEEPING = ("", Recording.full.name)


class Judged(NamedTuple):
    """What comes of a feedback whose call is known. `counts`: it is the caller's. `keeps`: its texts may stay; else
    they are under another person's key than the call's, or the call was recorded without contents."""

    counts: bool
    keeps: bool


class Row(NamedTuple):
    """One kind of a feedback that counts. `reward_micro`: in [0, 1e6]; None: it says nothing."""

    kind: str
    thumb: str
    score_micro: int | None
    reward_micro: int | None


def content_of(record: Feedback) -> bytes:
    """What is encrypted of a feedback, b"" for nothing. The request's id makes it no other feedback's content."""
    said = {name: text for name, text in (("corrected", record.text), ("comment", record.comment)) if text}
    return msgspec.json.encode({"request": record.request, **said}) if said else b""


def feedback_entry(record: Feedback, epoch: str, at_ns: int, key: SubjectKey | None) -> Draft:
    """The entry of a feedback. `key`: of its subject; None where nothing is kept of its texts."""
    contents, references = [], []
    plain = content_of(record)
    if key is not None and plain:
        sealed = key.seal(plain)
        contents.append(sealed)
        references.append(
            {"role": CONTENT, "id": sealed.id.hex(), "sha256": sealed.sha256.hex(), "bytes": len(sealed.data)}
        )
    said: dict[str, Any] = {
        "id": request_id(epoch, record.call),
        "corrected": record.corrected,
        "comment": record.commented,
        "status": record.status,
    }
    if record.thumb:
        said["thumb"] = record.thumb
    if record.score_micro != NO_SCORE:
        said["score_micro"] = record.score_micro
    if record.reason:
        said["reason"] = record.reason
    leaf = {
        "v": VERSION,
        "tree": record.tenant_id,
        "kind": KIND,
        "at": at_ns,
        "clock": record.wall_ns,
        "request": record.request,
        "who": {
            "subject": record.subject,
            "team": record.team_id,
            "principal": record.principal_id,
            "delegator": record.delegator_id,
            "auth": record.auth_method,
            "credential": record.credential_id,
        },
        "what": {
            "operation": KIND,
            "data_class": record.data_class,
            "recording": recording_name(record.recording),
        },
        "feedback": said,
        "contents": references,
    }
    return Draft(record.tenant_id, at_ns, leaf, record.subject, contents, [])


def giver_of(leaf: Leaf) -> str:
    """Who gives a feedback: the user that a service or agent acts for, else the caller."""
    return leaf.who.delegator or leaf.who.principal


def judge(call: Leaf, given: Leaf) -> Judged:
    """What comes of a feedback on this call."""
    # INVARIANT: only the call's principal or its delegator is heard, and of calls that somebody made.
    counts = given.tree == call.tree and giver_of(given) in (call.who.principal, call.who.subject) and not call.beside
    return Judged(counts, call.who.subject == given.who.subject and call.what.recording in _KEEPING)


def rows(given: Leaf) -> list[Row]:
    """The kinds that an entry of kind `feedback` has."""
    said = given.feedback
    out = []
    if said.thumb:
        out.append(Row(THUMB, said.thumb, None, reward(said.thumb, NO_SCORE)))
    if said.score_micro != NO_SCORE:
        out.append(Row(SCORE, "", said.score_micro, reward("", said.score_micro)))
    if said.corrected:
        out.append(Row(CORRECTED, "", None, None))
    return out
