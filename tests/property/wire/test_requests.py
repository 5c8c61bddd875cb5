"""Whatever a request names how often: what was checked is what a source reads."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import BadRequest
from interlock.wire import fields, openai, strict

LIMITS = openai.Limits(messages_max=10, template_tokens_per_message=16)
NAMES = st.sampled_from(
    [
        "model",
        "n",
        "stream",
        "store",
        "max_tokens",
        "Model",
        "N",
        "priority",
        "x",
        "interlock",
        "stream_options",
        "seed",
    ]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10), st.text(max_size=3), st.just({}), st.just({"include_usage": True})
)


def escaped(name: str, hidden: bool) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if hidden else c for c in name) + '"'


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=8), st.randoms())
def test_the_source_reads_what_was_checked(given_fields: list[tuple[str, Any, bool]], random: Any) -> None:
    pairs = [("model", "m", False), ("messages", [{"role": "user", "content": "x"}], False), *given_fields]
    random.shuffle(pairs)
    body = "{" + ",".join(f"{escaped(name, hidden)}:{json.dumps(value)}" for name, value, hidden in pairs) + "}"
    try:
        parsed = openai.parse("chat", body.encode(), LIMITS)
    except BadRequest as error:
        assert error.message
        return
    sent_pairs: list[tuple[str, Any]] = json.loads(
        openai.build_body(parsed.fields, model=parsed.model), object_pairs_hook=lambda found: found
    )
    names = [name for name, _ in sent_pairs]
    assert len({name.casefold() for name in names}) == len(names)
    sent = dict(sent_pairs)
    assert (sent.get("n") or 1, bool(sent.get("stream"))) == (parsed.n, parsed.stream)
    assert (sent.get("max_tokens") or 0) == parsed.max_tokens
    for name, action in fields.FIELD_ACTIONS.items():
        if name in sent and json.dumps(sent[name]).encode() not in (b"null", *fields.HARMLESS.get(name, ())):
            assert action in parsed.actions


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


TREES = st.recursive(
    st.one_of(st.integers(0, 9), st.text(alphabet='[]{}"\\a', max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(alphabet='[{"', max_size=2), inner)),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.integers(1, 6))
def test_the_depth_is_counted_exactly(tree: Any, depth_max: int) -> None:
    try:
        strict.check_depth(json.dumps(tree).encode(), depth_max)
        deep = False
    except BadRequest:
        deep = True
    assert deep == (depth_of(tree) > depth_max)
