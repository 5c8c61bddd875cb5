"""The grid of what a draft would change: bounded as its settings say, and saying what it left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from interlock.control.console.policy_compare import Group, grid_of


def group(who: str, model: str, becomes: str = "denied") -> Group:
    return Group("acme", who, "", model, "local", becomes, [], [], [], [], 1, 3)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 30), st.integers(1, 10))
def test_the_grid_is_no_larger_than_wanted_and_says_what_it_left_out(
    callers: int, offers: int, callers_max: int, offers_max: int
) -> None:
    grid = grid_of((group(f"p{n}", f"m{k}") for n in range(callers) for k in range(offers)), callers_max, offers_max)
    assert len(grid.rows) == min(callers, callers_max) and len(grid.offers) == min(offers, offers_max)
    assert grid.left_callers == callers - len(grid.rows) and grid.left_offers == offers - len(grid.offers)
    assert all(cells == [(3, 0)] * len(grid.offers) for _, cells in grid.rows)
