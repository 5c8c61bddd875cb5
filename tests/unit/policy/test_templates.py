"""Templates render valid Cedar that says what its words say, and no value gets out of its quotes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import ConfigError
from interlock.policy.schema import validate
from interlock.policy.templates import TEMPLATES, render
from interlock.policy.text import statements
from interlock.types.identity import DataClass
from tests.unit.policy.acme import ALICE, BOB, EVERYTHING, OFFERS, asks, caller, engine, made


def allowed(who: Any, policies: Any, **features: Any) -> tuple[str, ...]:
    return engine(*policies).authorize(caller(who), asks(**features), OFFERS).allowed


@pytest.mark.parametrize(
    ("models", "keys"),
    [
        ("*", ("local::small", "local::large", "local::embed", "cloud::large")),
        (["small"], ("local::small",)),
        (["large"], ("local::large", "cloud::large")),
        (["cloud::large"], ("cloud::large",)),
        (["small", "cloud::large"], ("local::small", "cloud::large")),
        (["*l"], ("local::small",)),
        (["local::*"], ("local::small", "local::large", "local::embed")),
        (["l*e", "emb*"], ("local::large", "local::embed", "cloud::large")),
        (["nothing"], ()),
    ],
)
def test_a_team_may_use_models(models: object, keys: tuple[str, ...]) -> None:
    policy = made("p", "team-may-use-models", team="research", models=models)
    assert allowed(ALICE, [policy]) == keys
    assert allowed(BOB, [policy]) == ()


def test_a_team_may_use_features_only_when_they_are_named() -> None:
    plain = made("p", "team-may-use-models", team="research", models="*")
    images = made("p", "team-may-use-models", team="research", models="*", features=["use_images"])
    assert allowed(ALICE, [plain], actions=("use_images",)) == ()
    assert len(allowed(ALICE, [images], actions=("use_images",))) == 4
    assert allowed(ALICE, [images], actions=("use_images", "store")) == ()


def test_everyone_may() -> None:
    policy = made("p", "team-may-use-models", team="*", models=["small"])
    assert allowed(BOB, [policy]) == ("local::small",)


def test_a_data_class_stays_on_the_premises() -> None:
    policy = made("p", "data-class-stays-on-prem", data_class="internal")
    assert "cloud::large" not in allowed(ALICE, [EVERYTHING, policy])
    assert "cloud::large" in allowed(ALICE, [EVERYTHING, policy], data_class=DataClass.public)
    assert "local::large" in allowed(ALICE, [EVERYTHING, policy])
    one = made("p", "data-class-stays-on-prem", data_class="internal", teams=["research"])
    assert "cloud::large" not in allowed(ALICE, [EVERYTHING, one])
    assert "cloud::large" in allowed(BOB, [EVERYTHING, one])


def test_a_region_stays_in_its_region() -> None:
    policy = made("p", "region-stays-in-region", regions=["eu", "de"], teams=["research", "law"])
    assert "cloud::large" not in allowed(ALICE, [EVERYTHING, policy])
    assert "local::large" in allowed(ALICE, [EVERYTHING, policy])
    assert "cloud::large" in allowed(BOB, [EVERYTHING, policy])


def test_words_and_annotations() -> None:
    cedar, words = render("data-class-stays-on-prem", {"data_class": "confidential"}, policy_id="acme/x")
    assert words == "confidential data and above of everyone stays on the premises"
    assert cedar.startswith('@id("acme/x")\n@template("data-class-stays-on-prem")\n@words("confidential data')


@pytest.mark.parametrize(
    ("template", "parameters", "says"),
    [
        ("no-such", {}, "no policy template"),
        ("team-may-use-models", {"models": "*"}, "team is missing"),
        ("team-may-use-models", {"team": "a"}, "models is missing"),
        ("team-may-use-models", {"team": "a", "models": []}, "at least one"),
        ("team-may-use-models", {"team": "a", "models": "x"}, "must be a list"),
        ("team-may-use-models", {"team": 3, "models": "*"}, "must be a name"),
        ("team-may-use-models", {"team": "a\nb", "models": "*"}, "unprintable"),
        ("team-may-use-models", {"team": "a", "models": ["x" * 300]}, "more than 256"),
        ("team-may-use-models", {"team": "a", "models": [str(i) for i in range(201)]}, "more than 200"),
        ("team-may-use-models", {"team": "a", "models": [f"{i}*" for i in range(31)]}, "more than 30 patterns"),
        ("team-may-use-models", {"team": "a", "models": "*", "features": ["tools"]}, "knows no 'tools'"),
        ("team-may-use-models", {"team": "a", "models": "*", "model": "x"}, "model is not a parameter"),
        ("data-class-stays-on-prem", {"data_class": "secret"}, "must be one of"),
        ("data-class-stays-on-prem", {"data_class": 2}, "must be one of"),
        ("region-stays-in-region", {"regions": "eu"}, "must be a list"),
        ("region-stays-in-region", {"regions": ["eu"], "teams": []}, "at least one"),
    ],
)
def test_wrong_parameters_are_told(template: str, parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        render(template, parameters)


NAMES = st.text(
    alphabet=st.one_of(st.sampled_from('"\\*{}();:|&'), st.characters(exclude_categories=["C", "Z"])),
    min_size=1,
    max_size=40,
)
LISTS = st.lists(NAMES, min_size=1, max_size=5)


@given(
    st.one_of(
        st.tuples(st.just("team-may-use-models"), st.fixed_dictionaries({"team": NAMES, "models": LISTS})),
        st.tuples(st.just("region-stays-in-region"), st.fixed_dictionaries({"regions": LISTS, "teams": LISTS})),
        st.tuples(
            st.just("data-class-stays-on-prem"),
            st.fixed_dictionaries({"data_class": st.sampled_from(["public", "restricted"]), "teams": LISTS}),
        ),
    )
)
@settings(deadline=None)
def test_any_names_render_to_exactly_one_valid_statement(made_of: tuple[str, dict[str, object]]) -> None:
    cedar = render(*made_of).cedar
    assert len(statements(cedar)) == 1
    assert validate(cedar) == []


def test_the_longest_lists_stay_within_the_limits_of_a_statement() -> None:
    models = [f"{i}*::{i}*" for i in range(30)] + [f"m{i}" for i in range(100)] + [f"s::m{i}" for i in range(70)]
    assert validate(render("team-may-use-models", {"team": "a", "models": models}).cedar) == []


def test_every_template_has_words() -> None:
    assert all(t.words and all(p.words for p in t.parameters.values()) for t in TEMPLATES.values())
