"""Which name the ledger has as the alias of a call: one that somebody configured, never a caller's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest

from interlock.ledger.sums import decode_leaf, key_of
from interlock.testing import answers
from interlock.types.record import Refusal
from interlock.types.snapshot import Alias, AliasSlo, AliasTarget
from tests.gateway import World, model, source
from tests.integration.gateway.client import CHAT, ask, serving
from tests.integration.gateway.test_slo import CHEAP, Served, leaf_of


def world(url: str) -> World:
    aliases = [
        Alias("fast", targets=(AliasTarget("m"),)),
        Alias("free", targets=(AliasTarget("m"),), slo=AliasSlo(cost_nusd=0, strict=True)),
        Alias("ended", targets=(AliasTarget("m"),), sunset_s=1),
    ]
    return World([source("s", url, model("m", quality_milli=500, price=CHEAP))], aliases=aliases)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(world) as made:
        yield made


@pytest.mark.parametrize(
    ("asked", "status", "alias"),
    [
        ("fast", 200, "fast"), ("m", 200, ""), ("s::m", 200, ""), ("auto", 200, ""), ("free", 503, "free"),
        ("ended", 404, ""), ("fast ", 404, ""), ("my own words", 404, ""),
    ],
)  # fmt: skip
def test_sums_are_by_the_alias_that_was_found(served: Served, asked: str, status: int, alias: str) -> None:
    gateway, engine = served
    engine.script(answers.answer())
    answer = ask(gateway, {**CHAT, "model": asked})
    assert answer.status == status, answer.body
    leaf = leaf_of(gateway, "refusal" if gateway.records_of(Refusal) else "call")
    key = key_of(decode_leaf(json.dumps(leaf).encode()), ZoneInfo("UTC"))
    assert (key.alias, key.model) == (alias, "m" if status in (200, 503) else "")
