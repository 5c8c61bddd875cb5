"""What an offer cannot do, and what its source is not fit for now."""

from __future__ import annotations

import pytest

from interlock.routing.constraints import may_not_fit, out_of_service, unable
from interlock.types.request import Target
from interlock.types.source import LoadReading, Model

from .samples import features, idle, offers, source

MODEL = Target(kind="model", model="m")


@pytest.mark.parametrize(
    ("model", "operation", "needs", "code"),
    [
        (Model(name="m", abilities=("chat",)), "chat", (), None),
        (Model(name="m", abilities=("embeddings",)), "chat", (), "chat"),
        (Model(name="m", abilities=("chat",)), "embeddings", (), "embeddings"),
        (Model(name="m", abilities=("chat", "tools")), "chat", ("tools",), None),
        (Model(name="m", abilities=("chat", "tools")), "chat", ("tools", "vision"), "vision"),
    ],
)
def test_abilities(model: Model, operation: str, needs: tuple[str, ...], code: str | None) -> None:
    reason = unable(features(operation=operation, needs=needs), MODEL, offers(source("s", model))[0])
    assert (reason.code if reason else None) == code
    assert reason is None or (reason.stage == "capability" and reason.offer == "s::m")


@pytest.mark.parametrize(
    ("served", "asked", "able"), [("v1", "", True), ("v1", "v1", True), ("v1", "v2", False), ("", "v1", False)]
)
def test_version(served: str, asked: str, able: bool) -> None:
    offer = offers(source("s", Model(name="m", version=served)))[0]
    reason = unable(features(), Target(kind="model", model="m", version=asked), offer)
    assert (reason is None) is able
    assert reason is None or reason.code == "version"


@pytest.mark.parametrize(
    ("context", "prompt_bytes", "able", "tight"),
    [
        (0, 10_000_000, True, False),  # unknown context: the engine will say
        (2048, 1_000, True, False),
        (2048, 6_000, True, True),  # about 2,000 tokens of 2,048: it may not fit
        (2048, 16_383, True, True),
        (2048, 16_384, False, True),  # 2,048 tokens even at eight bytes each
    ],
)
def test_context(context: int, prompt_bytes: int, able: bool, tight: bool) -> None:
    offer = offers(source("s", Model(name="m", context_length=context)))[0]
    asked = features(prompt_bytes=prompt_bytes)
    assert (unable(asked, MODEL, offer) is None) is able
    assert may_not_fit(asked, offer) is tight


def test_a_default_bound_on_the_answer_does_not_make_a_small_model_tight() -> None:
    offer = offers(source("s", Model(name="m", context_length=2048)))[0]
    assert not may_not_fit(features(prompt_bytes=300, completion=4096), offer)


def test_out_of_service() -> None:
    offer = offers(source("s", "m"))[0]
    drained = offers(source("s", "m", drained=True))[0]
    assert out_of_service(offer, idle(), False) is None
    found = [
        out_of_service(drained, idle(), True),
        out_of_service(offer, LoadReading(healthy=False), True),
        out_of_service(offer, idle(), True),
    ]
    assert [r.stage for r in found if r] == ["drained", "health", "breaker"]
