"""Entries of the control plane: commitments to rows, numbers, and rows that are joined in one entry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.ledger.control_entry import EPOCH, ROWS_MAX, Row, change_leaf, numbered, together
from interlock.ledger.entry import encode_leaf

ROW = Row(
    id=7,
    at=datetime(2026, 3, 1, 12, 0, 0, 5, UTC),
    tenant_id="ten_1",
    actor_id="prn_1",
    actor="alice",
    reason="because",
    request_id="r",
    action="team.update",
    object_kind="team",
    object_id="team_1",
    before={"name": "a", "limits": {"x": 1}},
    after=None,
    salt=bytes(range(32)),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 8),
        ("at", datetime(2026, 3, 1, 12, 0, 0, 6, UTC)),
        ("tenant_id", ""),
        ("actor_id", "prn_2"),
        ("actor", "bob"),
        ("reason", "because "),
        ("request_id", ""),
        ("action", "team.create"),
        ("object_kind", "key"),
        ("object_id", "team_2"),
        ("before", {"name": "a", "limits": {"x": 2}}),
        ("before", None),
        ("after", {}),
        ("salt", bytes(32)),
    ],
)
def test_a_commitment_is_to_every_field(field: str, value: Any) -> None:
    assert msgspec.structs.replace(ROW, **{field: value}).digest() != ROW.digest()


def test_a_commitment_is_the_same_however_the_row_was_read() -> None:
    later = msgspec.structs.replace(ROW, before={"limits": {"x": 1}, "name": "a"}, at=ROW.at.astimezone())
    assert later.digest() == ROW.digest()


@pytest.mark.parametrize(
    ("object_id", "shown"),
    [
        ("team_1", "team_1"),
        ("req_01m8bvt0mtmxd3pe_12", "req_01m8bvt0mtmxd3pe_12"),
        ("margarethe", ""),
        ("req_margarethe@example.com", ""),
        ("team_1\n", ""),
    ],
)
def test_what_was_typed_in_the_place_of_an_id_is_not_in_a_leaf(object_id: str, shown: str) -> None:
    leaf = change_leaf("ten_1", msgspec.structs.replace(ROW, object_id=object_id), 5)
    assert leaf["rows"][0]["object"] == shown
    text = encode_leaf(leaf).decode()
    for hidden in ("alice", "because", "limits", object_id if not shown else "alice"):
        assert hidden not in text


def leaf(actor: int, action: int, at: int, rows: int = 1) -> bytes:
    row = msgspec.structs.replace(ROW, actor_id=f"prn_{actor}", action=f"ledger.{action}", id=at)
    value = change_leaf("ten_1", row, at)
    return encode_leaf({**value, "rows": value["rows"] * rows})


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 99), st.integers(1, 300)), max_size=12))
@example([(0, 0, 9, 1), (0, 0, 5, 1), (1, 0, 7, 1)])
@example([(0, 0, 9, 300), (0, 0, 5, 300)])
def test_what_is_joined_loses_nothing(given_leaves: list[tuple[int, int, int, int]]) -> None:
    leaves = [leaf(*each) for each in given_leaves]
    made = together(leaves)
    assert sorted(index for which, _ in made for index in which) == list(range(len(leaves)))
    for which, data in made:
        value = msgspec.json.decode(data)
        parts = [msgspec.json.decode(leaves[index]) for index in which]
        assert value["rows"] == [row for part in parts for row in part["rows"]]
        assert len(value["rows"]) <= ROWS_MAX
        assert value["at"] == min(part["at"] for part in parts)
        assert all((part["who"], part["what"]) == (value["who"], value["what"]) for part in parts)
        assert value["request"] == parts[0]["request"]
    keys = [(part["who"]["principal"], part["what"]["operation"]) for part in map(msgspec.json.decode, leaves)]
    if sum(each[3] for each in given_leaves) <= ROWS_MAX:
        assert len(made) == len(set(keys))


def test_a_number_is_given_and_what_was_there_is_replaced() -> None:
    data = numbered(numbered(leaf(0, 0, 1), 3), 4)
    value = msgspec.json.decode(data)
    assert (value["epoch"], value["n"]) == (EPOCH, 4) and data == encode_leaf(value)
