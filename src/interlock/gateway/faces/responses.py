"""OpenAI's Responses dialect: `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.errors import BadRequest, InterlockError, UpstreamError
from interlock.gateway.faces.openai import COMMENT
from interlock.gateway.http.exchange import unchunked
from interlock.gateway.turn import Keeping
from interlock.types.identity import DataClass
from interlock.wire import openai
from interlock.wire.errors import error_answer
from interlock.wire.responses.answer import Object, encode, skeleton, whole
from interlock.wire.responses.request import translate
from interlock.wire.responses.stream import Stream

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers, Sink
    from interlock.gateway.turn import Turn
    from interlock.wire.errors import Answer

_PARAMS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}
"""The pivot's names of what callers here call otherwise."""
_CLASSES = {each.name: each for each in DataClass}
NS_PER_S = 1_000_000_000


class Responses:
    """See Face."""

    name = "responses"
    keepalive = COMMENT

    def parse(self, call: Call, limits: openai.Limits) -> openai.Parsed:
        """See Face. The request is whole by now: see `interlock.gateway.turn`."""
        turn = call.turn
        assert turn is not None  # noqa: S101 - made before the request is read
        translated = translate(call.request.body, limits.depth_max)
        turn.echo = translated.echo
        try:
            parsed = openai.parse(call.operation, translated.pivot, limits)
        except BadRequest as error:
            error.param = _PARAMS.get(error.param or "", error.param)
            raise
        parsed.native = openai.Native(self.name, translated.native)
        if _CLASSES.get(parsed.data_class, DataClass.public) < turn.data_class:
            if parsed.data_class not in _CLASSES and parsed.data_class:
                return parsed  # is refused where classes are resolved
            parsed.data_class = turn.data_class.name
        return parsed

    def error(self, error: InterlockError) -> Answer:
        """See Face."""
        return error_answer(error, "openai")

    def error_event(self, error: InterlockError) -> bytes:
        """See Face. Of a stream that has no response yet."""
        said = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return b"event: error\ndata: %b\n\n" % encode({**said, "sequence_number": 0})

    def answer(self, call: Call) -> Sink:
        """See Face."""
        assert call.turn is not None  # noqa: S101 - made before the request is read
        answering = Answering(call, call.turn)
        call.face = _OfCall(answering)
        return answering


class _OfCall(Responses):
    """The face of a call that is being answered: how it fails is told in the course of its own events."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def error_event(self, error: InterlockError) -> bytes:
        """See Face."""
        return self._answering.stream.failed(error)


class Answering:
    """Takes the pivot's answer and gives the caller the response; stores it before its end leaves."""

    def __init__(self, call: Call, turn: Turn) -> None:
        runtime = turn.runtime
        settings, clock = runtime.settings, runtime.clock
        self._call = call
        self._turn = turn
        self._now_s: Callable[[], int] = lambda: clock.wall_ns() // NS_PER_S
        self._response = skeleton(turn.ids, self._now_s(), turn.echo, store=turn.store)
        self._over = False
        self.stream = Stream(
            self._response,
            turn.ids,
            bytes_max=settings.response_bytes_max,
            event_bytes_max=settings.event_bytes_max,
            now_s=self._now_s,
        )

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See Sink."""
        sink = self._call.sink
        try:
            response = whole(body, self._response, self._turn.ids, self._now_s())
        except UpstreamError as error:
            _, lines, said = self._call.face.error(error)
            sink.respond(error.status, lines + self._call.id_headers(), said)
            return
        self._conclude(response, lambda made: sink.respond(status, headers, encode(made)))

    def start(self, status: int, headers: Headers) -> None:
        """See Sink."""
        self._call.sink.start(status, headers)
        self._call.sink.write(self.stream.begin())

    def write(self, data: bytes) -> None:
        """See Sink."""
        if self._over:
            return
        try:
            out = self.stream.feed(data)
        except UpstreamError as error:
            self._over = True
            self._call.sink.write(self.stream.failed(error))
            self._call.sink.abort()
            return
        if out:
            self._call.sink.write(out)

    def write_chunks(self, chunks: bytes) -> None:
        """See Sink."""
        self.write(unchunked(chunks))

    def end(self) -> None:
        """See Sink."""
        if self._over:
            return
        self._over = True
        closing, response = self.stream.finish()
        self._call.sink.write(closing)
        self._conclude(response, self._end)

    def abort(self) -> None:
        """See Sink."""
        self._over = True
        self._call.sink.abort()

    def _end(self, response: Object) -> None:
        self._call.sink.write(self.stream.last(response))
        self._call.sink.end()

    def _conclude(self, response: Object, send: Callable[[Object], None]) -> None:
        """Give the response away: when it is stored, where it is to be."""
        if not self._turn.store:
            send(response)
            return

        def done(kept: bool) -> None:
            if not kept:
                response["store"] = False
            send(response)

        Keeping(self._call, self._turn, done).begin(encode(response))


RESPONSES = Responses()
