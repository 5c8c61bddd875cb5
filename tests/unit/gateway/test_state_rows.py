"""What a state remembers of where the sources of offers stand on the board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from interlock.gateway.state import ROWS_MAX, State
from interlock.routing.catalog import offers_of
from interlock.sources.board import Board
from interlock.types.source import Model, Offer, Source, SourceKind


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board.create(tmp_path / "board.shm", rows=8, workers=1) as made:
        yield made


def state(links: Mapping[str, int]) -> State:
    """With no more than the links to these rows."""
    view = SimpleNamespace(version=1, root="")
    made = {source_id: SimpleNamespace(row=row) for source_id, row in links.items()}
    return State(cast("Any", view), cast("Any", None), cast("Any", made), b"salt", 1)


def offers(*names: str, models: int = 1) -> tuple[Offer, ...]:
    """Of so many models at each source."""
    return offers_of(
        Source(
            id=f"src_{name}",
            name=name,
            kind=SourceKind.vllm,
            base_url="http://x.example",
            models=tuple(Model(name=f"m{n}") for n in range(models)),
        )
        for name in names
    )


def test_each_source_of_some_offers_is_looked_at_once_under_its_own_id(board: Board) -> None:
    one = state({"src_a": 3, "src_b": 0, "src_c": 5})
    asked = offers("a", "b", models=2)
    assert len(asked) == 4
    ids, rows = one.rows(asked, board)
    assert dict(zip(ids, rows.numbers, strict=True)) == {"src_a": 3, "src_b": 0}
    assert one.rows(asked, board)[1] is rows


def test_the_rows_of_an_earlier_snapshot_are_not_those_of_the_next(board: Board) -> None:
    """Between them a source may have gone and come back, and its row be another's."""
    asked = offers("a", "b")
    before, after = state({"src_a": 0, "src_b": 1}), state({"src_a": 2, "src_b": 1})
    assert before.rows(asked, board)[1].numbers == (0, 1)
    assert after.rows(asked, board)[1].numbers == (1, 2) and after.rows(asked, board)[0] == ("src_b", "src_a")


def test_rows_of_a_list_of_offers_are_looked_up_each_time(board: Board) -> None:
    """A tuple cannot change; of anything else the next call may find something else in the same place."""
    one = state({"src_a": 3, "src_b": 0, "src_c": 5})
    asked = list(offers("a", "b"))
    assert one.rows(asked, board)[1].numbers == (0, 3)
    asked[:] = offers("c")
    ids, rows = one.rows(asked, board)
    assert ids == ("src_c",) and rows.numbers == (5,)


def test_what_is_remembered_of_rows_is_bounded(board: Board) -> None:
    one, many = state({"src_a": 3}), [offers("a") for _ in range(ROWS_MAX + 5)]
    for each in many:
        assert one.rows(each, board)[1].numbers == (3,)
        assert len(one._rows) <= ROWS_MAX
