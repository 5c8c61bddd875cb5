"""A streamed answer on its way through: events are recorded, then forwarded as the bytes they came as.

INVARIANT (P1): an event is forwarded only after (a) its record has been written to the log, (b) the record of the
attempt is durable. From the last choice's finish on, events are held until the outcome is durable.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import InterlockError, LogError, UpstreamError
from interlock.gateway.http.exchange import chunk, unchunked
from interlock.sources.connection import CHUNK_BYTES_MAX
from interlock.types.usage import Usage
from interlock.wire.answers import WireUsage, decode_event, decode_plain, error_words, plain_text
from interlock.wire.mend import CallIndexes, lacks_index
from interlock.wire.speech import DONE as DONE_EVENT
from interlock.wire.sse import Splitter, data_of
from interlock.wire.stencil import BACKSLASH, HEAD, QUOTE, TAIL, Stencil, cut_stencil, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.gateway.attempt import Attempt
    from interlock.gateway.spoken import Ear
    from interlock.wire.unstream import Unstream

    Append = Callable[[int, int, str, bytes], int]

DONE = b"[DONE]"
LENGTH = "length"
PLAIN_TRIES = 8
"""Events in a row that may turn out not to be plain text before the short way is given up for a stream."""
STENCIL_TRIES = 8
"""Stencils that are cut for a stream: an engine whose events differ in more than their text has no use for them."""
CR, LF = b"\r\n"
"""As numbers: `in` looks for one seven times as fast as for bytes of length one."""


def _not_kept(_call: int, _index: int, _text: str, _raw: bytes) -> int:
    """In place of the log where an answer is not kept: what still has to be durable before it is the attempt."""
    return 0


def _beside(append: Append, kept: Unstream) -> Append:
    """The same, for a stream that is looked at as a whole when it has ended."""

    def both(call: int, index: int, text: str, raw: bytes) -> int:
        seq = append(call, index, text, raw)
        kept.take(text, raw)
        return seq

    return both


class Relay:
    """Takes the body of an event stream from its source, records it, and forwards it.

    `chunks` counts recorded pieces, `digest` is over them; `events` counts what was forwarded. `usage` is what the
    source reported last.
    """

    __slots__ = (
        "_append",
        "_attempt",
        "_bound",
        "_buffer_bytes_max",
        "_finished",
        "_held",
        "_hide_usage",
        "_indexes",
        "_n",
        "_number",
        "_on_written",
        "_out",
        "_out_bytes",
        "_plain_tries",
        "_runtime",
        "_splitter",
        "_stencil",
        "_stencil_tries",
        "_sync_ms",
        "_sync_within",
        "_tail",
        "_tail_bytes",
        "_tell_at_ns",
        "_waiting",
        "_write_chunks",
        "bytes_sent",
        "chunks",
        "digest",
        "ended",
        "events",
        "finish_reasons",
        "first_ns",
        "served_model",
        "usage",
    )

    _closing = DONE_EVENT
    """What ends a stream that is complete."""
    _splitter: Splitter | Ear

    def __init__(self, attempt: Attempt) -> None:
        run = attempt.run
        runtime = run.runtime
        settings = runtime.settings
        parsed = run.parsed
        self._attempt = attempt
        self._runtime = runtime
        self._splitter = Splitter(settings.event_bytes_max)
        self._sync_ms = settings.stream_sync_ms
        self._buffer_bytes_max = settings.write_buffer_bytes_max
        append = runtime.log.append_chunk if not run.call.recording else _not_kept
        self._append = append if run.kept is None else _beside(append, run.kept)
        self._on_written = runtime.log.on_written
        self._sync_within = runtime.log.sync_within
        self._write_chunks = run.out.write_chunks
        self._number = run.call.number
        self._n = parsed.n
        self._bound = run.call.pieces_max()
        self._hide_usage = not parsed.wants_usage
        self._tell_at_ns = 0
        """When the run has to hear again that the stream is alive; at first, so that it begins the answer."""
        self._out: list[bytes] = []
        """Events on their way, each as a chunk: one that came as a chunk leaves as the bytes it came as."""
        self._out_bytes = 0
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._finished: set[int] = set()
        self._waiting = False
        self._held = 0
        self._indexes: CallIndexes | None = None
        self._plain_tries = PLAIN_TRIES
        self._stencil_tries = STENCIL_TRIES
        self._stencil: Stencil | None = None
        """How the pieces of text look in this stream. None as well when no more of them is to come."""
        self.ended = False
        self.finish_reasons: tuple[str, ...] = ()
        self.usage: WireUsage | None = None
        self.served_model = ""
        self.chunks = 0
        self.events = 0
        self.bytes_sent = 0
        self.first_ns = 0
        self.digest = sha256()
        if attempt.upstream is not None and settings.event_bytes_max >= CHUNK_BYTES_MAX:
            attempt.upstream.take_chunks(self.feed_chunk)

    # -- from the source

    def feed(self, data: bytes) -> None:
        """Body bytes as they arrive."""
        if self.ended:
            return
        try:
            for event in self._splitter.feed(data):
                if not self._event(event):
                    return
        except LogError as error:
            self._attempt.cancel()
            self._attempt.run.log_failed(error)
            return
        except UpstreamError as error:
            self.broken(error)
            return
        if self._out:
            self._queue(len(data))

    def feed_chunk(self, framed: bytes, at: int) -> None:
        """One whole chunk of the body with its framing, the data from `at` on: mostly one event with a piece of text,
        which leaves as the bytes it came as."""
        stencil = self._stencil
        if stencil is not None and not self._splitter.rest:
            before, after, begin, end, least = stencil
            if framed.startswith(before, at) and framed.endswith(after) and len(framed) - at >= least:
                piece = framed[at + begin : end]
                if QUOTE not in piece and BACKSLASH not in piece:
                    try:
                        text = piece.decode()
                    except UnicodeDecodeError:
                        text = "\0"
                    if text.isprintable():
                        self._take_text(text, piece, framed, at)
                        return
        self._feed_chunk(framed, at)

    def _take_text(self, text: str, piece: bytes, framed: bytes, at: int) -> None:
        """Record an event that is nothing but a piece of text, and queue the chunk that it is."""
        attempt = self._attempt
        if attempt.upstream is not None:
            attempt.upstream.event_seen = True
        index = self.chunks
        if index >= self._bound:
            self._cut(framed[at + 6 : -4])
            return
        if piece:
            try:
                self._append(self._number, index, text, b"")
            except LogError as error:
                attempt.cancel()
                attempt.run.log_failed(error)
                return
            self.chunks = index + 1
            self.digest.update(piece)
        self.events += 1
        size = len(framed)
        self._out.append(framed)
        self._out_bytes += size - at - 2
        self._queue(size)

    def _feed_chunk(self, framed: bytes, at: int) -> None:
        """A chunk that is not known to be a piece of text."""
        if self._plain_tries and self.first_ns and not self._finished and not self.ended and not self._splitter.rest:
            payload = framed[at + 6 : -4]
            one = framed.startswith(HEAD, at) and framed.endswith(TAIL) and LF not in payload and CR not in payload
            text = self._plain(payload) if one else None
            if text is not None:
                self._take_text(text, text.encode(), framed, at)
                return
        self.feed(framed[at:-2])

    def _plain(self, payload: bytes) -> str | None:
        """The text of an event that is nothing but a piece of text; None when it is more than that."""
        try:
            text = decode_plain(payload).choices[0].delta.content
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._plain_tries -= 1  # a source whose events are never plain is not asked for long
            return None
        self._plain_tries = PLAIN_TRIES
        if self._stencil_tries and text and plain(text):
            self._stencil_tries -= 1
            self._stencil = cut_stencil(payload, text)
        return text

    def _queue(self, size: int) -> None:
        """Let what waits leave when its records are written; `size`: bytes by which this read has made it more."""
        if self._waiting or not self._attempt.durable:
            self._hold(size)
        if not self._waiting:
            self._waiting = True
            self._on_written(self._forward)
            self._sync_within(self._sync_ms)

    def _hold(self, size: int) -> None:
        """The source is faster than the log, or even than one turn of the event loop (which may read megabytes of a
        socket in a row): past the buffer's limit it has to wait."""
        self._held += size
        if self._held > self._buffer_bytes_max and (upstream := self._attempt.upstream) is not None:
            upstream.pause()

    def finish(self) -> None:
        """The source ended the body properly: with all choices finished that is an end, else it was cut off."""
        if self.ended:
            return
        try:
            for event in self._splitter.finish():
                if not self._event(event):
                    return
        except LogError as error:
            self._attempt.run.log_failed(error)
            return
        except UpstreamError as error:
            self.broken(error)
            return
        if len(self._finished) >= self._n:
            self._complete()
        else:
            name = self._attempt.link.source.name
            self.broken(UpstreamError(f"source {name!r} ended its stream early", code="upstream_cut_off"))

    def broken(self, error: InterlockError) -> None:
        """The source failed. Before the first event the call may go elsewhere, after it the caller is told."""
        if self.ended:
            return
        if len(self._finished) >= self._n:
            self._complete()  # everything was said; only the formalities are missing
            return
        self.ended = True
        attempt = self._attempt
        attempt.cancel()
        if self.events:
            attempt.run.stream_broken(error)
        else:
            attempt.run.failed(attempt, error)

    def _event(self, event: bytes) -> bool:
        """Record one event and queue it. False when it was the last."""
        payload = data_of(event)
        if payload is None:
            return True  # a comment of the source: ours keep the connection alive
        upstream = self._attempt.upstream
        if upstream is not None:
            upstream.event()
        if payload == DONE:
            if len(self._finished) < self._n and not self.first_ns:
                name = self._attempt.link.source.name
                raise UpstreamError(f"source {name!r} sent an empty stream", code="upstream_malformed")
            self._complete()
            return False
        try:
            parsed = decode_event(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            name = self._attempt.link.source.name
            raise UpstreamError(
                f"source {name!r} sent an event that is not the JSON it should be", code="upstream_malformed"
            ) from None
        choices = parsed.choices
        if not choices:
            if parsed.error is not msgspec.UNSET:
                raise UpstreamError(
                    f"source {self._attempt.link.source.name!r} reported an error: {error_words(payload)}",
                    code="upstream_error",
                )
            if parsed.usage is not None:
                self.usage = parsed.usage
                if self._hide_usage:
                    return True  # we asked for it, the caller did not
            elif len(payload) > 2:
                self._record("", payload)
            return self._take(event)
        if self.chunks >= self._bound and any(plain_text(choice) != "" for choice in choices):
            self._cut(payload)
            return False
        if parsed.usage is not None:
            self.usage = parsed.usage
        if not self.first_ns:
            self.first_ns = self._attempt.run.runtime.clock.mono_ns()
            self.served_model = parsed.model or ""
        choice = choices[0]
        if len(choices) == 1 and choice.index == 0 and (text := plain_text(choice)) is not None:
            if text:
                self._record(text, b"")
        else:
            if lacks_index(choices):
                self._indexes = self._indexes or CallIndexes()
                payload = self._indexes.mend(payload)
                event = b"data: %b\n\n" % payload
            self._record("", payload)
        for choice in choices:
            if choice.finish_reason and choice.index not in self._finished:
                self._stencil = None  # from here on events may be held
                self._finished.add(choice.index)
                self.finish_reasons = (*self.finish_reasons, choice.finish_reason)
        return self._take(event)

    def _cut(self, payload: bytes) -> None:
        """The source says more than the call's budgets have room for, and than it was told to: end the stream here, as
        one that has reached its length. `payload`: the event that is not forwarded."""
        event = self._cut_event(payload)
        self._hold_end(event)
        self.events += 1
        self.usage = None
        self._complete()
        self._attempt.cancel()

    def _cut_event(self, payload: bytes) -> bytes:
        fields = msgspec.json.decode(payload, type=dict[str, Any])
        said: dict[str, Any] = {"text": ""} if self._attempt.run.call.operation == "completions" else {"delta": {}}
        left = [index for index in range(self._n) if index not in self._finished]
        fields["choices"] = [{"index": index, **said, "finish_reason": LENGTH} for index in left]
        fields.pop("usage", None)
        self._finished.update(left)
        self.finish_reasons = (*self.finish_reasons, *[LENGTH] * len(left))
        return b"data: %b\n\n" % msgspec.json.encode(fields)

    def _hold_end(self, event: bytes) -> None:
        self._tail.append(event)
        self._tail_bytes += len(event)

    def _record(self, text: str, raw: bytes) -> None:
        self._append(self._number, self.chunks, text, raw)
        self.chunks += 1
        self.digest.update(raw or text.encode())

    def _take(self, event: bytes) -> bool:
        """Queue an event for the caller. False when it is to be the last: the end that is held must not grow."""
        self.events += 1
        if len(self._finished) < self._n:
            self._out.append(chunk(event))
            self._out_bytes += len(event)
            return True
        self._hold_end(event)
        if self._tail_bytes <= self._attempt.run.runtime.settings.write_buffer_bytes_max:
            return True
        self._complete()
        return False

    # -- to the caller

    def release(self) -> None:
        """The attempt's record is durable: what has been written may be forwarded."""
        if not self._waiting:
            self._forward()

    def _forward(self) -> None:
        """The records of what is queued have been written."""
        self._waiting = False
        out, attempt = self._out, self._attempt
        if not out or not attempt.durable or attempt.ended:
            return  # nothing to send, not yet, or not any more: then the run decides what of it still leaves
        now_ns = self._runtime.swept_ns
        if now_ns < self._tell_at_ns:
            self.bytes_sent += self._out_bytes
            self._out_bytes = 0
            if len(out) == 1:
                self._write_chunks(out.pop())
            else:
                self._out = []
                self._write_chunks(b"".join(out))
        else:
            self._tell_at_ns = now_ns + self._runtime.settings.keepalive_comment_ms * 1_000_000 // 4
            attempt.run.forward(self.unsent())
        if self._held:
            self._held = 0
            if attempt.upstream is not None and not attempt.run.paused:
                attempt.upstream.resume()

    def _complete(self) -> None:
        """All has been said: hold the end until its outcome is durable."""
        self.ended = True
        self._stencil = None
        self._attempt.run.stream_complete(self)

    def rest(self) -> bytes:
        """What is still to be sent once the outcome is durable, with the end marker."""
        data = b"".join((self.unsent(), *self._tail, self._closing))
        self._tail = []
        self.bytes_sent += self._tail_bytes + len(self._closing)
        return data

    @property
    def bytes_whole(self) -> int:
        """Bytes the caller has got when the stream is complete: what was sent and what `rest` will be."""
        return self.bytes_sent + self._out_bytes + self._tail_bytes + len(self._closing)

    @property
    def held(self) -> bytes:
        """The end that waits for the outcome to be durable, without its marker."""
        return b"".join(self._tail)

    def unsent(self) -> bytes:
        """Recorded events that were not forwarded yet (their records are written by now)."""
        data = unchunked(b"".join(self._out))
        self._out = []
        self._out_bytes = 0
        self.bytes_sent += len(data)
        return data

    def measured(self) -> Usage:
        """Tokens of the stream: as the source reported, else at the reservation, labelled so."""
        if self.usage is not None:
            return self.usage.usage()
        return self._attempt.run.call.unknown_usage()
