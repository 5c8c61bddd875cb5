"""Scripts that misbehave, each in one way that engines and the networks before them have been seen to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from interlock.testing.answers import answer
from interlock.testing.script import (
    CLOSE,
    HANG,
    RESET,
    STREAM_HEAD,
    End,
    Pause,
    Received,
    Script,
    Step,
    chunk,
    event,
    http,
    steps,
)

BODY = b'{"id":"chatcmpl-scripted","object":"chat.completion","choices":[]}'


def never_answers() -> Script:
    """Takes the request and says nothing until the client leaves."""
    return steps(HANG)


def head_then_silence() -> Script:
    """Sends the head of a stream, and no event."""
    return steps(STREAM_HEAD, HANG)


def closes_at_once(how: End = CLOSE) -> Script:
    """Reads the request and ends the connection without an answer."""
    return steps(how)


def _beginning(whole: Script, received: Received, after: int) -> Iterator[Step]:
    """The head and `after` events of a streamed answer; all but the last bytes of one that comes in a piece."""
    for step in islice(whole(received), after + 1):
        yield step if received.json.get("stream") or not isinstance(step, bytes) else step[:-10]


def dies_mid_stream(after: int = 3, how: End = RESET, text: str = "one two three four five six seven") -> Script:
    """Ends the connection after the head and `after` events of a good stream, or amid the body of a whole answer."""

    def script(received: Received) -> Iterator[Step]:
        yield from _beginning(answer(text), received, after)
        yield how

    return script


def stalls_mid_stream(after: int = 3) -> Script:
    """Goes silent where `dies_mid_stream` would die, and keeps the connection."""
    return dies_mid_stream(after, HANG)


def ends_without_done(after: int = 3) -> Script:
    """Ends a stream's body in good order after `after` events, without a finish reason and without `[DONE]`.

    An answer that is not streamed is cut short, with the connection.
    """

    def script(received: Received) -> Iterator[Step]:
        yield from _beginning(answer(), received, after)
        yield chunk(b"") if received.json.get("stream") else CLOSE

    return script


def error_event(after: int = 2, message: str = "EngineCore died") -> Script:
    """Sends an error as an event inside a stream of status 200, as vLLM does, then `[DONE]`."""

    def script(received: Received) -> Iterator[Step]:
        yield from islice(answer()(received), after + 1)
        yield event({"error": {"message": message, "type": "InternalServerError", "code": 500}})
        yield event("[DONE]") + chunk(b"")

    return script


def malformed_sse(kind: str = "json") -> Script:
    """A stream whose events are wrong: "json" (not JSON), "field" (no `data:`), "utf8" (invalid bytes), "list" (not an
    object), or "html" (a page instead of events)."""
    wrong = {
        "json": b'data: {"choices": [{"delta": \n\n',
        "field": b"datum: {}\n\n",
        "utf8": b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n',
        "list": b"data: [1, 2, 3]\n\n",
        "html": b"<html><body>502 Bad Gateway</body></html>",
    }[kind]
    return steps(STREAM_HEAD, chunk(wrong), event("[DONE]"), chunk(b""))


def wrong_content_length(claimed: int | None = None, *, body: bytes = BODY, how: End = CLOSE) -> Script:
    """Says `claimed` bytes (default: ten more than there are) and sends `body`, then ends the connection."""
    size = len(body) + 10 if claimed is None else claimed
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
    return steps(head + body, how)


def excess_body(excess: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil") -> Script:
    """A right answer followed by bytes nobody asked for: they must not become the answer of the next call."""
    return steps(http(200, BODY) + excess)


def both_lengths() -> Script:
    """Content length and chunked coding in one head (RFC 9112, section 6.3: a sign of smuggling)."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return steps(head + chunk(BODY) + chunk(b""))


def garbage(data: bytes = b"\x16\x03\x01 not HTTP at all\r\n\r\n") -> Script:
    """Bytes that are no status line."""
    return steps(data, CLOSE)


def bad_chunk() -> Script:
    """A chunk size that is no number."""
    return steps(STREAM_HEAD, b"zz\r\ndata: {}\n\n\r\n", CLOSE)


def huge_head(size: int = 1_000_000) -> Script:
    """A header of `size` bytes."""
    return steps(b"HTTP/1.1 200 OK\r\nx-long: " + b"a" * size + b"\r\ncontent-length: 2\r\n\r\n{}", CLOSE)


def huge(size: int, *, piece: int = 65_536) -> Script:
    """A JSON answer of about `size` bytes, in pieces."""

    def script(_received: Received) -> Iterator[Step]:
        start, end = b'{"id":"chatcmpl-scripted","object":"chat.completion","choices":[],"pad":"', b'"}'
        total = len(start) + size + len(end)
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % total
        yield start
        for sent in range(0, size, piece):
            yield b"x" * min(piece, size - sent)
        yield end

    return script


def huge_event(size: int) -> Script:
    """A stream with one event whose text has `size` bytes."""
    delta = {"choices": [{"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}]}
    return steps(STREAM_HEAD, event(delta), event("[DONE]"), chunk(b""))


def endless(between_ms: float = 0.0, text: str = "word ") -> Script:
    """A stream that never ends: events until the client leaves."""

    def script(_received: Received) -> Iterator[Step]:
        yield STREAM_HEAD
        while True:
            yield event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
            if between_ms:
                yield Pause(between_ms)

    return script


def drip(inner: Script, *, size: int = 1, between_ms: float = 0.0) -> Script:
    """The bytes of another script in pieces of `size`, cut anywhere: inside heads, chunks, events and characters."""

    def script(received: Received) -> Iterator[Step]:
        for step in inner(received):
            if not isinstance(step, bytes):
                yield step
                continue
            for start in range(0, len(step), size):
                yield step[start : start + size]
                yield Pause(between_ms)

    return script


def informational(
    inner: Script, heads: Sequence[bytes] = (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",)
) -> Script:
    """Informational heads (1xx) before the answer of another script."""

    def script(received: Received) -> Iterator[Step]:
        yield from heads
        yield from inner(received)

    return script


def http10(body: bytes = BODY) -> Script:
    """An HTTP/1.0 answer without a length, ended by closing the connection."""
    return steps(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + body, CLOSE)


def redirects(location: str = "http://169.254.169.254/latest/meta-data/") -> Script:
    """A redirect to somewhere the gateway must not go."""
    return steps(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: " + location.encode() + b"\r\ncontent-length: 0\r\n\r\n",
    )
