"""Feedback finds its call: done where entries are placed, whichever of the two comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from psycopg import Connection

from interlock.ledger import feedback as said
from interlock.ledger.sums import Leaf, decode_leaf, key_of
from interlock.storage import feedback, usage
from interlock.storage.sequencing import Placed


class _Content(msgspec.Struct, frozen=True):
    role: str
    id: str = ""


class _Key(msgspec.Struct, frozen=True):
    subject: str = ""
    key: str = ""


class _Contents(msgspec.Struct, frozen=True):
    """Of the leaf of a feedback: its content, and the key that this is under."""

    contents: list[_Content]
    who: _Key


_contents_of = msgspec.json.Decoder(_Contents).decode


def link(conn: Connection[Any], tenant_id: str, placed: Sequence[Placed], leaves: Sequence[Leaf]) -> None:
    """Let feedback count whose call is known now, among entries that are about to be placed and those that wait.

    In the transaction that places them, so that what counts and what is in the tree are the same at any time.
    """
    calls = {leaf.request: (at.position, leaf) for at, leaf in zip(placed, leaves, strict=True) if leaf.kind == "call"}
    given = [(at.position, at.leaf, leaf) for at, leaf in zip(placed, leaves, strict=True) if leaf.kind == said.KIND]
    if calls:
        waited = feedback.waiting_for(conn, tenant_id, list(calls))
        given = [*((each.entry, each.leaf, decode_leaf(each.leaf)) for each in waited), *given]
    if not given:
        return
    zone = ZoneInfo(usage.time_zone(conn, tenant_id))
    for entry, data, leaf in given:
        position, call = calls.get(leaf.request) or (-1, usage.call_leaf(conn, tenant_id, leaf.request))
        if call is None:
            feedback.wait(conn, tenant_id, entry, leaf.request, leaf.at, data)
            continue
        judged = said.judge(call, leaf)
        if judged.counts:
            feedback.count(conn, tenant_id, _counted(call, leaf, max(entry, position), entry, zone))
        if judged.counts and not judged.keeps:
            _drop(conn, tenant_id, entry, leaf.at, data)


def _counted(call: Leaf, leaf: Leaf, position: int, entry: int, zone: ZoneInfo) -> list[feedback.Counted]:
    key = key_of(call, zone)
    return [
        feedback.Counted(
            *(leaf.request, row.kind, leaf.feedback.id, call.who.subject, position, entry, leaf.at, key),
            *(call.where.version, row.thumb, row.score_micro, leaf.feedback.reason, row.reward_micro),
        )
        for row in said.rows(leaf)
    ]


def _drop(conn: Connection[Any], tenant_id: str, entry: int, at_ns: int, data: bytes) -> None:
    """The texts came before anybody knew whose call it was: they are not kept under another person's key than the
    call's, nor of a call that is recorded without contents."""
    leaf = _contents_of(data)
    for each in leaf.contents:
        if each.role == said.CONTENT:
            feedback.drop_later(conn, tenant_id, entry, at_ns, leaf.who.key or leaf.who.subject, bytes.fromhex(each.id))
