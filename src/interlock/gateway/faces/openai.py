"""OpenAI's dialect, which is the pivot: nothing is translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.wire import openai
from interlock.wire.errors import error_answer, error_event

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Sink
    from interlock.wire.errors import Answer

COMMENT = b": keep-alive\n\n"
"""A comment of server-sent events (WHATWG HTML, section 9.2): clients pass over it."""


class OpenAI:
    """See Face."""

    name = "openai"
    keepalive = COMMENT

    def parse(self, call: Call, limits: openai.Limits) -> openai.Parsed:
        """See Face."""
        return openai.parse(call.operation, call.request.body, limits)

    def error(self, error: InterlockError) -> Answer:
        """See Face."""
        return error_answer(error, "openai")

    def error_event(self, error: InterlockError) -> bytes:
        """See Face."""
        return error_event(error, "openai")

    def answer(self, call: Call) -> Sink:
        """See Face."""
        return call.sink


OPENAI = OpenAI()
