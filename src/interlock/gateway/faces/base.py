"""The shape of a face. Between its two sides a call is in OpenAI's form, the pivot (see `interlock.wire.speech`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Sink
    from interlock.wire.errors import Answer
    from interlock.wire.openai import Limits, Parsed


class Face(Protocol):
    """One dialect. `name` is recorded with each call; `keepalive` keeps a silent stream open, b"" where the dialect
    has nothing for that."""

    name: str
    keepalive: bytes

    def parse(self, call: Call, limits: Limits) -> Parsed:
        """The caller's body as a checked request of the pivot: whatever is translated passes
        `interlock.wire.openai.parse`, so that each of its checks holds. Raises BadRequest."""

    def error(self, error: InterlockError) -> Answer:
        """A whole error answer."""

    def error_event(self, error: InterlockError) -> bytes:
        """An error in a stream that has begun."""

    def answer(self, call: Call) -> Sink:
        """What takes the pivot's answer and writes the dialect's to `call.sink`: whole ones with status 200, or streams
        of whole events, and comments that keep the connection alive. Errors do not come this way."""
