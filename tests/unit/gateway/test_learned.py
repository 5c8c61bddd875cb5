"""A worker uses what was learned of its caller's tenant where there is a choice; what is not kept is not read."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from interlock.gateway.learned import Learned
from interlock.gateway.snapshot import SnapshotView
from interlock.types.identity import DataClass, Recording, Tenant
from interlock.types.learned import JudgeTrust, weights_part, words_part
from interlock.types.request import Features
from interlock.types.source import Model, Offer
from interlock.wire.openai import Message
from tests.unit.learning.test_published import taught

from .snapshots import TENANT, plain_source, small

STATE = taught(300).state(4, 1000)
SOURCE = plain_source("local")
LARGE, COOK = (Offer(SOURCE, Model(name=name), f"local::{name}") for name in ("large", "cook"))


def view_of(learning: str = "on", weights: Any = STATE[0], words: Any = STATE[1], tenant: str = TENANT) -> SnapshotView:
    compiler = small()
    compiler.put("tenants", [Tenant(id=TENANT, name="a", learning=learning)])
    compiler.put(weights_part(tenant), weights)
    compiler.put(words_part(tenant), words)
    return SnapshotView.from_parts(compiler.parts.values(), compiler.head(), cache_max=64)


def call_of(
    view: SnapshotView, recording: Recording = Recording.full, allowed: tuple[Offer, ...] = (LARGE, COOK)
) -> Any:
    message = {"role": "user", "content": "whisk the butter and roast the onion in the oven"}
    return SimpleNamespace(
        identity=SimpleNamespace(tenant_id=TENANT),
        parsed=SimpleNamespace(
            operation="chat", fields={"messages": msgspec.Raw(msgspec.json.encode([message]))}, messages=()
        ),
        features=Features("chat", "auto", DataClass.internal),
        state=SimpleNamespace(view=view),
        allowed=allowed,
        recording=int(recording),
    )


def test_a_prompt_is_read_and_what_is_expected_is_of_its_task() -> None:
    call = call_of(view_of())
    estimates = Learned(4).estimates(call)
    assert estimates is not None and estimates.version == 4 and estimates.task >= 0 and len(call.features.signals) == 54
    assert estimates.quality_micro["cook"] > estimates.quality_micro["small"] + 200_000


def test_messages_that_are_decoded_are_not_decoded_again() -> None:
    raw, decoded = call_of(view_of()), call_of(view_of())
    decoded.parsed.messages = msgspec.json.decode(decoded.parsed.fields.pop("messages"), type=list[Message])
    learned = Learned(4)
    assert learned.estimates(raw) == learned.estimates(decoded) is not None
    assert raw.features.signals == decoded.features.signals != b""


def test_what_was_expected_of_a_decided_call_is_told_again_without_its_prompt() -> None:
    call, learned = call_of(view_of()), Learned(4)
    estimates = learned.estimates(call)
    call.parsed.fields.clear()  # reading it again would find nothing
    assert learned.estimated(call) == estimates is not None and estimates.task >= 0
    assert learned.estimated(call_of(view_of(), allowed=(LARGE, LARGE))) is None
    assert learned.estimated(call_of(view_of("observe"))) is None


@pytest.mark.parametrize("recording", [Recording.full, Recording.prompt_only, Recording.metadata])
def test_a_prompt_that_may_not_be_kept_is_not_read(recording: Recording) -> None:
    call = call_of(view_of(), recording)
    estimates = Learned(4).estimates(call)
    assert estimates is not None
    assert bool(call.features.signals) is (recording is not Recording.metadata) is (estimates.task >= 0)


def test_without_a_choice_or_a_state_or_where_it_may_not_decide_nothing_is_expected() -> None:
    learned = Learned(4)
    assert learned.estimates(call_of(view_of(), allowed=(LARGE, LARGE))) is None
    assert learned.estimates(call_of(view_of("observe"))) is None
    assert learned.estimates(call_of(view_of("off"))) is None
    assert learned.estimates(call_of(view_of(weights=None, words=None))) is None
    assert learned.estimates(call_of(view_of(tenant="ten_other"))) is None, "another tenant's state"


def test_a_state_that_cannot_be_read_counts_as_none_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    broken = msgspec.structs.replace(STATE[0], centres=b"\1")
    with caplog.at_level(logging.ERROR):
        assert Learned(4).estimates(call_of(view_of(weights=broken))) is None
        assert Learned(4).estimates(call_of(view_of(weights={"x": 1}))) is None
    assert len(caplog.records) == 2


def test_words_of_another_version_are_not_used() -> None:
    assert STATE[1] is not None
    call = call_of(view_of(words=msgspec.structs.replace(STATE[1], version=3)))
    estimates = Learned(4).estimates(call)
    assert estimates is not None and estimates.task == -1 and call.features.signals == b""


def test_judges_that_agree_with_nobody_are_those_of_the_state_in_force() -> None:
    learned = Learned(2)
    judges = (JudgeTrust("wise@1", False, "chance"), JudgeTrust("other", True, "agrees"))
    lost = view_of(weights=msgspec.structs.replace(STATE[0], judges=judges))
    assert learned.unheeded(lost, TENANT) == {"wise@1"} and learned.unheeded(lost, "ten_other") == set()
    assert learned.unheeded(view_of(), TENANT) == set(), "the next state has it otherwise"
    assert learned.unheeded(view_of(weights=None), TENANT) == learned.unheeded(view_of(weights=[3]), TENANT) == set()
    for n in range(5):
        tenant = f"ten_{n}"
        assert learned.unheeded(view_of(weights=STATE[0], tenant=tenant), tenant) == set()
    assert len(learned._unheeded) <= 2


def test_few_states_are_held() -> None:
    learned = Learned(2)
    for view in (view_of(), view_of(weights=msgspec.structs.replace(STATE[0], version=5))):
        assert learned.estimates(call_of(view)) is not None
    assert len(learned._known) <= 2
