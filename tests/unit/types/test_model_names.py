"""What names of models give away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.types.model_names import (
    PARAMETERS_M_MAX,
    family_named,
    parameters_named,
    parameters_told,
    parameters_words,
)


@pytest.mark.parametrize(
    ("name", "millions", "family"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7000, "qwen"),
        ("qwen2.5:0.5b", 500, "qwen"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", 70_000, "meta-llama"),
        ("llama3.2:latest", 0, "llama"),
        ("Mixtral-8x7B-Instruct-v0.1", 56_000, "mixtral"),
        ("SmolLM2-135M-Instruct", 135, "smollm"),
        ("Qwen3-30B-A3B", 30_000, "qwen"),
        ("Phi-3-mini-4k-instruct", 0, "phi"),
        ("gpt-4o-mini", 0, "gpt"),
        ("gpt-oss-120b", 120_000, "gpt-oss"),
        ("o3", 0, "o3"),
        ("claude-sonnet-4-5", 0, "claude-sonnet"),
        ("c4ai-command-r-v01", 0, "c4ai"),
        ("command-r", 0, "command"),
        ("7B", 7000, "7b"),
        ("model-v2b", 0, "model"),
        ("abc12b", 0, "abc"),
        ("", 0, ""),
        ("/", 0, ""),
    ],
)
def test_size_and_family(name: str, millions: int, family: str) -> None:
    assert (parameters_named(name), family_named(name)) == (millions, family)


@given(st.text(max_size=300))
def test_any_name_is_read(name: str) -> None:
    assert 0 <= parameters_named(name) <= PARAMETERS_M_MAX
    assert family_named(name) == family_named(name).lower() and len(family_named(name)) <= 2 * len(name)


@pytest.mark.parametrize(
    ("told", "millions"),
    [
        (134_515_008, 135),
        (7_615_616_512, 7616),
        (1, 1),
        (0, 0),
        (-5, 0),
        (True, 0),
        ("7", 0),
        (None, 0),
        (1.5, 0),
        (10**30, 10**9),
    ],
)
def test_what_an_engine_tells(told: object, millions: int) -> None:
    assert parameters_told(told) == millions


@pytest.mark.parametrize(
    ("millions", "words"),
    [
        (0, ""),
        (135, "135M"),
        (7000, "7B"),
        (1543, "1.54B"),
        (56_000, "56B"),
        (405_000, "405B"),
        (2_000_000, "2,000,000M"),
    ],
)
def test_words(millions: int, words: str) -> None:
    assert parameters_words(millions) == words
