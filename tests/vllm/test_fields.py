"""What the engine is really sent, as a tap before it sees it."""

from __future__ import annotations

from typing import Any

from .engines import MODEL
from .site import Site

EXTRA: dict[str, Any] = {"top_k": 5, "mirostat": 2, "colour": "red", "interlock": {"purpose": "test"}}
"""Of vLLM itself, of another kind of engine, of nobody, our own."""


def sent(site: Site, source: str, **fields: Any) -> dict[str, Any]:
    site.tap.bodies()
    answer = site.chat("initech", f"{source}::{MODEL}", **fields)
    assert answer.status == 200, answer.body
    return site.tap.bodies()[-1]


def test_pass(site: Site) -> None:
    body = sent(site, "tapped-pass", **EXTRA)
    assert {"top_k", "mirostat", "colour"} <= set(body)
    assert "interlock" not in body


def test_drop(site: Site) -> None:
    body = sent(site, "tapped-drop", **EXTRA)
    assert set(body) == {"model", "messages", "max_tokens", "top_k", "cache_salt"}


def test_refuse(site: Site) -> None:
    site.tap.bodies()
    answer = site.chat("initech", f"tapped-refuse::{MODEL}", **EXTRA)
    assert (answer.status, answer.error["code"]) == (400, "unknown_field")
    assert answer.error["param"] in ("mirostat", "colour")
    assert site.tap.bodies() == [], "nothing was sent"
    assert site.chat("initech", f"tapped-refuse::{MODEL}", top_k=5).status == 200


def test_names_that_this_version_ignores_are_refused_too(site: Site) -> None:
    """vLLM 0.32 takes `guided_choice` without a word to the caller and constrains nothing."""
    answer = site.chat("initech", f"tapped-refuse::{MODEL}", guided_choice=["yes", "no"])
    assert (answer.status, answer.error["param"]) == (400, "guided_choice")


def test_the_name_of_the_model_and_usage_are_ours_to_set(site: Site) -> None:
    body = sent(site, "tapped-pass", stream=True)
    assert body["model"] == MODEL
    assert body["stream_options"] == {"include_usage": True}
