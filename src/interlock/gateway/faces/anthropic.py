"""Anthropic's Messages API for callers, in front of any source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.gateway.http.exchange import unchunked
from interlock.wire.anthropic import answers, errors, requests

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers, Request, Sink
    from interlock.wire.errors import Answer
    from interlock.wire.openai import Limits, Parsed

VERSION_HEADER = b"anthropic-version"
PREFIX = "/v1/messages"


class Anthropic:
    """See Face. `counting`: what is asked is how many tokens a request has."""

    keepalive = answers.PING

    def __init__(self, name: str, *, counting: bool = False) -> None:
        self.name = name
        self._counting = counting

    def parse(self, call: Call, limits: Limits) -> Parsed:
        """See Face."""
        beta = call.request.headers.get(b"anthropic-beta", b"")
        return requests.parse(call.request.body, limits, beta=beta, counting=self._counting)

    def error(self, error: InterlockError) -> Answer:
        """See Face."""
        return errors.error_answer(error)

    def error_event(self, error: InterlockError) -> bytes:
        """See Face."""
        return errors.error_event(error)

    def answer(self, call: Call) -> Sink:
        """See Face."""
        return _Answer(call)


class _Answer:
    """See Face.answer."""

    def __init__(self, call: Call) -> None:
        parsed = call.parsed
        assert parsed is not None  # noqa: S101 - stage order
        self._sink = call.sink
        self._id = "msg_" + call.id.removeprefix("req_")
        self._model = parsed.model
        self._thinking = requests.shows_thinking(parsed)
        self._writer = answers.Writer(self._id, self._model, thinking=self._thinking)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink."""
        self._sink.respond(status, headers, answers.whole(body, self._id, self._model, thinking=self._thinking))

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        self._sink.start(status, headers)

    def write(self, data: bytes) -> None:
        """See Sink."""
        out = self._writer.feed(data)
        if out:
            self._sink.write(out)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        self.write(unchunked(chunks))

    def end(self) -> None:
        """See Sink."""
        self._sink.end()

    def abort(self) -> None:
        """See Sink."""
        self._sink.abort()


ANTHROPIC = Anthropic(requests.DIALECT)
COUNTING = Anthropic(requests.COUNTING, counting=True)


def speaks_anthropic(request: Request) -> bool:
    """Whether a request that is no inference call expects answers of this dialect."""
    return request.path.startswith(PREFIX) or VERSION_HEADER in request.headers
