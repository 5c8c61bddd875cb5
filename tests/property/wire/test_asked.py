"""Whatever the conversation: what is read of decoded messages is what the ledger's readers find in the same JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import BadRequest
from interlock.wire import openai
from interlock.wire.asked import asked_last, asked_text

LIMITS = openai.Limits(messages_max=10, template_tokens_per_message=16)
_text = st.text(max_size=8)
_image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
_part = st.one_of(_text.map(lambda text: {"type": "text", "text": text}), st.just(_image))
_message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("system", "user", "user", "assistant", "tool")),
        "content": st.one_of(st.none(), _text, st.lists(_part, max_size=3)),
    },
    optional={"name": _text, "text": _text},
)


@example([{"role": "user", "content": "word " * 4_000}])
@example([{"role": "user", "content": [{"type": "text", "text": "x" * 9_000}] * 3}])
@given(st.lists(_message, min_size=1, max_size=8))
def test_decoded_messages_say_what_their_json_says(messages: list[dict[str, Any]]) -> None:
    try:
        parsed = openai.parse("chat", json.dumps({"model": "m", "messages": messages}).encode(), LIMITS)
    except BadRequest:
        return
    assert asked_last(parsed.messages) == asked_text({"messages": json.loads(bytes(parsed.fields["messages"]))})
