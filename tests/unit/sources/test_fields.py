"""Which request fields each kind of source understands."""

from __future__ import annotations

import pytest

from interlock.sources.fields import ENGINE, STANDARD, FieldClass, classify, uninterpreted
from interlock.types.source import SourceKind
from interlock.wire.fields import FIELD_ACTIONS, FOREIGN

VLLM, LLAMACPP, OPENAI = SourceKind.vllm, SourceKind.llamacpp, SourceKind.openai


@pytest.mark.parametrize(
    ("kind", "operation", "field", "expected"),
    [
        (OPENAI, "chat", "temperature", FieldClass.standard),
        (VLLM, "chat", "structured_outputs", FieldClass.engine),
        (VLLM, "chat", "guided_json", FieldClass.unknown),
        (VLLM, "chat", "cache_salt", FieldClass.engine),
        (LLAMACPP, "chat", "structured_outputs", FieldClass.foreign),
        (LLAMACPP, "completions", "mirostat", FieldClass.engine),
        (OPENAI, "chat", "top_k", FieldClass.foreign),
        (OPENAI, "chat", "colour", FieldClass.unknown),
        (VLLM, "embeddings", "temperature", FieldClass.unknown),
        (OPENAI, "embeddings", "dimensions", FieldClass.standard),
    ],
)
def test_classes(kind: SourceKind, operation: str, field: str, expected: FieldClass) -> None:
    assert classify(kind, operation, field) is expected


def test_uninterpreted_keeps_the_order_and_knows_our_own_field() -> None:
    fields = {"messages": b"", "top_k": b"", "interlock": b"", "colour": b"", "model": b""}
    assert uninterpreted(OPENAI, "chat", fields) == ("top_k", "colour")
    assert uninterpreted(VLLM, "chat", fields) == ("colour",)


@pytest.mark.parametrize("kind", list(SourceKind))
@pytest.mark.parametrize("operation", list(STANDARD))
def test_what_a_policy_let_pass_is_not_asked_about_again(kind: SourceKind, operation: str) -> None:
    assert uninterpreted(kind, operation, dict.fromkeys(FIELD_ACTIONS)) == ()


def test_what_is_refused_at_the_door_passes_nowhere() -> None:
    own = {"messages", "prompt", "input"}
    for kind in SourceKind:
        for operation in STANDARD:
            assert uninterpreted(kind, operation, set(FOREIGN) - own) != ()
            for field in FOREIGN.keys() - own:
                assert classify(kind, operation, field) is FieldClass.unknown


def test_every_kind_and_operation_is_there() -> None:
    for kind in SourceKind:
        assert set(ENGINE[kind]) == set(STANDARD) == {"chat", "completions", "embeddings", "rerank", "score"}
        for operation, fields in ENGINE[kind].items():
            assert "model" not in fields
            assert fields.isdisjoint(STANDARD[operation]) or kind is not OPENAI


def test_every_policy_action_is_about_a_field_that_some_source_knows() -> None:
    known = set().union(*STANDARD.values(), *(f for engine in ENGINE.values() for f in engine.values()))
    assert set(FIELD_ACTIONS) <= known
