"""A model name becomes a target: precedence, aliases, pins, versions, and what a tenant may not know of."""

from __future__ import annotations

from collections import Counter

import pytest

from interlock.errors import ModelNotFound
from interlock.routing.draws import mix
from interlock.routing.resolve import draw, resolve
from interlock.types.request import Target
from interlock.types.snapshot import Alias, AliasTarget
from interlock.types.source import Model

from .samples import catalog, source

NOW_S = 1_800_000_000


def test_an_exact_name_wins_over_alias_and_auto() -> None:
    names = catalog(
        source("s", "fast", "auto", "x@1", "s::y"),
        source("s2", Model(name="x", version="1")),
        aliases=(Alias(name="fast", targets=(AliasTarget("x"),)),),
    )
    for name in ("fast", "auto", "x@1", "s::y"):
        assert resolve(name, names, now_s=NOW_S, seed=1) == Target(kind="model", model=name)


def test_an_alias_wins_over_auto_pin_and_version() -> None:
    aliases = tuple(Alias(name=name, targets=(AliasTarget("x"),)) for name in ("auto", "s::x", "x@1"))
    names = catalog(source("s", Model(name="x", version="1")), aliases=aliases)
    for alias in aliases:
        assert resolve(alias.name, names, now_s=NOW_S, seed=1) == Target(kind="alias", model="x", alias=alias.name)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("auto", Target(kind="auto", mode="balanced")),
        ("auto:eco", Target(kind="auto", mode="eco")),
        ("auto:balanced", Target(kind="auto", mode="balanced")),
        ("auto:quality", Target(kind="auto", mode="quality")),
        ("s::x", Target(kind="pin", model="x", source="s")),
        ("x@sha-1", Target(kind="model", model="x", version="sha-1")),
        ("s::x@sha-1", Target(kind="pin", model="x", source="s", version="sha-1")),
        ("org/model:7b", Target(kind="model", model="org/model:7b")),
    ],
)
def test_the_other_forms(asked: str, target: Target) -> None:
    names = catalog(source("s", "x", "org/model:7b"), source("s2", "x"))
    assert resolve(asked, names, now_s=NOW_S, seed=1) == target


@pytest.mark.parametrize(
    "asked", ["", "nope", "auto:fast", "s::nope", "nope::x", "x@", "@1", "nope@1", "X", "s:x", "::"]
)
def test_a_name_of_nothing_is_not_found(asked: str) -> None:
    names = catalog(source("s", "x"))
    with pytest.raises(ModelNotFound) as caught:
        resolve(asked, names, now_s=NOW_S, seed=1)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_a_long_unknown_name_is_shortened_in_the_error() -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve("x" * 100_000, catalog(), now_s=NOW_S, seed=1)
    assert len(caught.value.message) < 400


def test_offers_of_each_kind_of_target() -> None:
    names = catalog(
        source("a", "x", "y"),
        source("b", "x"),
        aliases=(Alias(name="any"), Alias(name="here", targets=(AliasTarget("x", source="b"),))),
    )

    def keys(asked: str) -> list[str]:
        return [o.key for o in names.offers_for(resolve(asked, names, now_s=NOW_S, seed=1))]

    assert keys("x") == ["a::x", "b::x"]
    assert keys("b::x") == keys("here") == ["b::x"]
    assert keys("auto") == keys("any") == ["a::x", "a::y", "b::x"]
    assert names.offers_for(Target(kind="pin", model="y", source="b")) == ()


def test_offers_keep_their_identity_so_that_it_can_key_a_cache() -> None:
    names = catalog(source("a", "x"), source("b", "x"))
    for asked in ("x", "a::x", "auto"):
        target = resolve(asked, names, now_s=NOW_S, seed=1)
        assert names.offers_for(target) is names.offers_for(target)


def test_a_source_that_is_not_granted_is_named_but_never_offered_with_others() -> None:
    names = catalog(source("open", "x"), source("closed", "x", "secret", granted_to=("ten_b",)))
    assert [o.key for o in names.offers] == ["open::x"]
    assert [o.key for o in names.offers_for(resolve("x", names, now_s=NOW_S, seed=1))] == ["open::x"]
    secret = resolve("secret", names, now_s=NOW_S, seed=1)
    assert [o.key for o in names.offers_for(secret)] == ["closed::secret"]
    with pytest.raises(ModelNotFound):
        resolve("closed::x", names, now_s=NOW_S, seed=1)


def test_a_name_of_another_tenant_shadows_nothing() -> None:
    foreign = source("theirs", "auto", "fast", tenant_id="ten_b")
    names = catalog(source("s", "x"), foreign, aliases=(Alias(name="fast", targets=(AliasTarget("x"),)),))
    assert resolve("auto", names, now_s=NOW_S, seed=1).kind == "auto"
    assert resolve("fast", names, now_s=NOW_S, seed=1).kind == "alias"


@pytest.mark.parametrize("own_first", [True, False])
def test_own_sources_and_aliases_hide_the_platforms(own_first: bool) -> None:
    sources = [source("s", "mine", tenant_id="ten_a"), source("s", "mine", "platforms")]
    aliases = [Alias(name="a", tenant_id="ten_a", mode="eco"), Alias(name="a", mode="quality")]
    foreign = Alias(name="b", tenant_id="ten_b")
    if not own_first:
        sources.reverse()
        aliases.reverse()
    names = catalog(*sources, aliases=(*aliases, foreign))
    assert [(o.key, o.source.tenant_id) for o in names.offers] == [("s::mine", "ten_a")]
    assert names.aliases["a"].mode == "eco" and "b" not in names.aliases


def test_an_alias_ends_at_its_sunset() -> None:
    alias = Alias(name="old", targets=(AliasTarget("x"),), sunset_s=NOW_S)
    names = catalog(source("s", "x"), aliases=(alias,))
    assert resolve("old", names, now_s=NOW_S - 1, seed=1).alias == "old"
    with pytest.raises(ModelNotFound, match="ended on 2027-01-15") as caught:
        resolve("old", names, now_s=NOW_S, seed=1)
    assert caught.value.code == "alias_sunset"


def test_an_alias_without_a_weight_above_zero_is_refused() -> None:
    alias = Alias(name="off", targets=(AliasTarget("x", weight=0), AliasTarget("y", weight=-3)))
    with pytest.raises(ModelNotFound) as caught:
        resolve("off", catalog(source("s", "x", "y"), aliases=(alias,)), now_s=NOW_S, seed=1)
    assert caught.value.code == "alias_without_target"


def test_an_alias_may_target_a_version() -> None:
    alias = Alias(name="stable", targets=(AliasTarget("x@v2"),), mode="eco")
    names = catalog(source("s", "x"), aliases=(alias,))
    target = resolve("stable", names, now_s=NOW_S, seed=1)
    assert target == Target(kind="alias", model="x", version="v2", alias="stable", mode="eco")


def test_weights_are_kept_to_and_drawn_the_same_for_the_same_seed() -> None:
    targets = (AliasTarget("a", weight=90), AliasTarget("b", weight=10), AliasTarget("c", weight=0))
    drawn = Counter(t.model for seed in range(10_000) if (t := draw(targets, mix(7, seed))) is not None)
    assert set(drawn) == {"a", "b"} and abs(drawn["b"] - 1000) < 120
    assert [draw(targets, s) for s in range(50)] == [draw(targets, s) for s in range(50)]


def test_mix_is_splitmix64() -> None:
    assert mix(0, 1) == 0xE220A8397B1DCDAF  # first output of the published generator for seed 0
    assert [mix(1, 2), mix(2**64 - 1, 3)] == [13757245211066428519, 4048727598324417001]
