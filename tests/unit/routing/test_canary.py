"""Which calls a canary gets: by the recorded seed, time and caller alone."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import ModelNotFound
from interlock.routing.canary import BARRED, CANARY, OFF, STABLE, arm_of, share_milli
from interlock.routing.choose import decide
from interlock.routing.resolve import resolve
from interlock.types.snapshot import Alias, AliasTarget, Canary, CanaryStep
from interlock.types.source import Model

from .samples import catalog, features, idle, source

STEPS = (CanaryStep(100, 300), CanaryStep(200, 1000))


def canary(share: int = 200, **fields: object) -> Canary:
    return Canary("can_1", AliasTarget("new"), share, 1000, **fields)  # type: ignore[arg-type]


def test_the_share_is_that_of_the_last_step_begun() -> None:
    tried = canary(50, steps=STEPS)
    assert [share_milli(tried, at) for at in (0, 1000, 1099, 1100, 1199, 1200, 9999)] == [
        50, 50, 50, 300, 300, 1000, 1000,
    ]  # fmt: skip


@given(st.integers(0, 1000), st.integers(0, 1 << 62))
@example(1000, 3)
@example(0, 3)
def test_calls_are_drawn_by_share(share: int, start: int) -> None:
    arms = [arm_of(canary(share), 1000, start + n, "prn") for n in range(2000)]
    assert arms == [arm_of(canary(share), 1000, start + n, "other") for n in range(2000)]
    assert abs(arms.count(CANARY) - 2 * share) <= 130
    assert set(arms) <= {CANARY, STABLE}
    if share in (0, 1000):
        assert set(arms) == {CANARY if share else STABLE}


def test_a_sticky_canary_keeps_its_principals_and_another_one_has_others() -> None:
    tried = canary(300, sticky=True)
    people = [f"prn_{n}" for n in range(1000)]
    chosen = {p for p in people if arm_of(tried, 1000, 1, p) == CANARY}
    assert chosen == {p for p in people if arm_of(tried, 1000, 999, p) == CANARY}
    assert 230 <= len(chosen) <= 370
    grown = canary(600, sticky=True)
    assert chosen < {p for p in people if arm_of(grown, 1000, 5, p) == CANARY}
    other = Canary("can_2", AliasTarget("new"), 300, 1000, sticky=True)
    assert chosen != {p for p in people if arm_of(other, 1000, 1, p) == CANARY}


def test_what_the_node_and_the_call_add_to_the_draw_is_in_the_target() -> None:
    found = catalog(
        source("s", "old", "new"), aliases=(Alias("a", targets=(AliasTarget("old"),), canary=canary(1000)),)
    )
    drawn = resolve("a", found, now_s=1000, seed=4, principal_id="prn")
    assert (drawn.model, drawn.canary) == ("new", CANARY)
    for state in (OFF, BARRED):
        other = resolve("a", found, now_s=1000, seed=4, principal_id="prn", canary_state=state)
        assert (other.model, other.canary) == ("old", state)
    failed = Alias("a", targets=(AliasTarget("old"),), canary=canary(1000, state="failed"))
    ended = resolve("a", catalog(source("s", "old", "new"), aliases=(failed,)), now_s=1000, seed=4)
    assert (ended.model, ended.canary) == ("old", "")


def test_an_ended_alias_names_what_to_use_instead() -> None:
    ended = Alias("a", targets=(AliasTarget("old"),), sunset_s=10, successor="next")
    with pytest.raises(ModelNotFound, match="ended on 1970-01-01; ask for 'next'") as raised:
        resolve("a", catalog(source("s", "old"), aliases=(ended,)), now_s=10, seed=0)
    assert raised.value.code == "alias_sunset"


def test_a_preferred_version_comes_first_and_a_required_one_alone() -> None:
    one, two = Model("m", version="1", quality_milli=900), Model("m", version="2", quality_milli=100)
    for prefer in (False, True):
        wanted = Alias("a", targets=(AliasTarget("m@2", prefer_version=prefer),))
        found = catalog(source("x", one), source("y", two), source("z", one), aliases=(wanted,))
        target = resolve("a", found, now_s=0, seed=0)
        readings = {f"src_{name}": idle() for name in "xyz"}
        decision = decide(features(), target, found.offers_for(target), readings, seed=1)
        assert decision.candidates[0].offer == "y::m"
        assert len(decision.candidates) == (3 if prefer else 1)
    gone = Alias("a", targets=(AliasTarget("m@3", prefer_version=True),))
    found = catalog(source("x", one), source("y", two), aliases=(gone,))
    target = resolve("a", found, now_s=0, seed=0)
    assert len(decide(features(), target, found.offers_for(target), {}, seed=1).candidates) == 2
