"""Ollama's dialect, for clients that speak only that. The pages beside inference are in `ollama_pages`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.errors import BadRequest, UpstreamError
from interlock.gateway.http.exchange import unchunked
from interlock.types.clock import SystemClock
from interlock.wire import openai
from interlock.wire.errors import error_answer
from interlock.wire.ollama import answer
from interlock.wire.ollama.lines import TYPE
from interlock.wire.ollama.request import translated
from interlock.wire.sse import Splitter

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers, Sink
    from interlock.types.clock import Clock
    from interlock.wire.errors import Answer

EVENT_BYTES_MAX = 1 << 40
"""The relay has held each event to its limit already."""
LINES = b"content-type: %b\r\ncache-control: no-cache\r\n" % TYPE


class Ollama:
    """See Face. `form`: the endpoint, below `/api/`."""

    name = "ollama"
    keepalive = b""
    """Lines are answers: there is none that says nothing."""

    def __init__(self, form: str, clock: Clock) -> None:
        self.form = form
        self.clock = clock

    def parse(self, call: Call, limits: openai.Limits) -> openai.Parsed:
        """See Face."""
        try:
            asked = translated(self.form, call.request.body)
        except msgspec.ValidationError as e:
            raise BadRequest(f"{e}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise BadRequest(f"The request body is not valid JSON: {e}", code="invalid_json") from None
        call.operation = asked.operation
        parsed = openai.parse(asked.operation, asked.body, limits)
        parsed.native = openai.Native(self.name, asked.native)
        return parsed

    def error(self, error: InterlockError) -> Answer:
        """See Face."""
        status, headers, _ = error_answer(error, "openai")
        return status, headers, answer.error_body(error)

    def error_event(self, error: InterlockError) -> bytes:
        """See Face."""
        return answer.error_body(error) + b"\n"

    def answer(self, call: Call) -> Sink:
        """See Face."""
        return OllamaAnswer(call, self.form, self.clock)


class OllamaAnswer:
    """See Sink: takes the pivot's answer."""

    def __init__(self, call: Call, form: str, clock: Clock) -> None:
        assert call.parsed is not None  # noqa: S101 - the stages have filled it
        self._sink = call.sink
        self._form = form
        self._model = call.parsed.model
        self._clock = clock
        self._started_ns = call.started_ns
        self._first_ns = 0
        self._broken = False
        """The source's answer could not be told: nothing more of it leaves."""
        self._events = Splitter(EVENT_BYTES_MAX)
        self._writer = answer.Writer(form, self._model)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink."""
        try:
            said = answer.whole(self._form, body, self._model, self._stamp(), self._times())
        except answer.NOT_READ:
            status, kind, _ = error_answer(_NOT_READ, "openai")
            said, headers = answer.error_body(_NOT_READ), _without_kind(headers) + kind
        self._sink.respond(status, headers, said)

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        self._sink.start(status, LINES + _without_kind(headers))

    def write(self, data: bytes) -> None:
        """See Sink. Events come whole, with the line ends of their source."""
        if self._broken:
            return
        stamp = self._stamp()
        try:
            out = b"".join([self._writer.lines(event, stamp) for event in self._events.feed(data)])
        except answer.NOT_READ:
            self._broken = True
            self._sink.write(answer.error_body(_NOT_READ) + b"\n")
            self._sink.abort()
            return
        if out:
            self._first_ns = self._first_ns or self._clock.mono_ns()
            self._sink.write(out)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        self.write(unchunked(chunks))

    def end(self) -> None:
        """See Sink."""
        if not self._broken:
            self._sink.write(self._writer.last(self._stamp(), self._times()))
            self._sink.end()

    def abort(self) -> None:
        """See Sink."""
        if not self._broken:
            self._sink.abort()

    def _stamp(self) -> str:
        return answer.stamp(self._clock.wall_ns())

    def _times(self) -> answer.Times:
        now_ns = self._clock.mono_ns()
        return answer.Times(now_ns - self._started_ns, (self._first_ns or now_ns) - self._started_ns)


def _without_kind(headers: Headers) -> Headers:
    """Header lines without those that say what kind of body follows."""
    lines = [line for line in headers.split(b"\r\n") if line and not line.startswith((b"content-type:", b"cache-"))]
    return b"".join([line + b"\r\n" for line in lines])


_NOT_READ = UpstreamError("The source's answer cannot be told in Ollama's form.", code="upstream_malformed")
_CLOCK = SystemClock()
CHAT, GENERATE = Ollama("chat", _CLOCK), Ollama("generate", _CLOCK)
EMBED, EMBEDDINGS = Ollama("embed", _CLOCK), Ollama("embeddings", _CLOCK)
