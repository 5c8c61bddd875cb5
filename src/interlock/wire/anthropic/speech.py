"""Sources of the Messages API: spoken to in translation, and natively by callers of the same dialect."""

from __future__ import annotations

from typing import Annotated

import msgspec

from interlock.errors import NotImplementedYet, UpstreamError
from interlock.wire.anthropic.ask import messages_request
from interlock.wire.anthropic.listen import MessagesListener, chat_completion
from interlock.wire.speech import Ask, Asked, Heard

VERSION = b"2023-06-01"
"""Of the API, the only one since then."""
_VERSION_HEADER = (b"anthropic-version", VERSION)
EVENT_BYTES_MAX = 8_000_000
"""Bytes of one event. The provider's are small; the pivot's bound holds for what is made of them as well."""


class Messages:
    """See Speech. `native`: the caller's own fields go up, and the source's own events come down."""

    stream_type = b"text/event-stream"

    def __init__(self, *, native: bool) -> None:
        self.native = native

    def ask(self, ask: Ask) -> Asked:
        """See Speech."""
        parsed, model = ask.parsed, ask.offer.model.name
        native = parsed.native
        if self.native and native is not None:
            body = msgspec.json.encode({**native.fields, "model": model})
            return Asked("/messages", body, (_VERSION_HEADER, *native.headers))
        bound = parsed.max_tokens or ask.bound or ask.completion_tokens_max
        return Asked("/messages", msgspec.json.encode(messages_request(parsed, model, bound)), (_VERSION_HEADER,))

    def whole(self, body: bytes, operation: str) -> Heard:  # noqa: ARG002
        """See Speech."""
        pivot = chat_completion(body)
        return Heard(pivot, body if self.native else pivot)

    def listen(self, ask: Ask) -> MessagesListener:  # noqa: ARG002
        """See Speech."""
        return MessagesListener(EVENT_BYTES_MAX, native=self.native)


class _Count(msgspec.Struct):
    input_tokens: Annotated[int, msgspec.Meta(ge=0)]


class TokenCount:
    """See Speech. Asks a source how many tokens a request has, in the API's own way: vLLM and llama.cpp have it too.

    What it costs is nothing, so the pivot's answer reports no tokens."""

    native = True
    stream_type = b"text/event-stream"

    def ask(self, ask: Ask) -> Asked:
        """See Speech."""
        native = ask.parsed.native
        assert native is not None  # noqa: S101 - only such calls come here
        body = msgspec.json.encode({**native.fields, "model": ask.offer.model.name})
        return Asked("/messages/count_tokens", body, (_VERSION_HEADER, *native.headers))

    def whole(self, body: bytes, operation: str) -> Heard:  # noqa: ARG002
        """See Speech."""
        try:
            count = msgspec.json.decode(body, type=_Count).input_tokens
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("The source sent no count of tokens.", code="upstream_malformed") from None
        pivot = {"object": "count", "data": [count], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
        return Heard(msgspec.json.encode(pivot), msgspec.json.encode({"input_tokens": count}))

    def listen(self, ask: Ask) -> MessagesListener:
        """Never: a count is not streamed."""
        raise NotImplementedError


class _NoCount(TokenCount):
    """For sources whose API counts no tokens: a guess with the look of a count is not given."""

    def ask(self, ask: Ask) -> Asked:
        """Raises NotImplementedYet."""
        words = f"The source {ask.source.name!r} does not count tokens."
        raise NotImplementedYet(words, code="uncountable")


NO_COUNT = _NoCount()
