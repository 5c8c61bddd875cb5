"""A streamed answer on its way through: events are recorded, then forwarded as the bytes they came as.

INVARIANT (P1): an event is forwarded only after (a) its record has been written to the log, (b) the record of the
attempt is durable. From the last choice's finish on, events are held until the outcome is durable.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from interlock.errors import InterlockError, LogError, UpstreamError
from interlock.types.usage import Usage
from interlock.wire.answers import WireUsage, decode_event, error_words, plain_text
from interlock.wire.sse import Splitter, data_of

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"


class Relay:
    """Takes the body of an event stream from its source, records it, and forwards it.

    `chunks` counts recorded pieces, `digest` is over them; `events` counts what was forwarded. `usage` is what the
    source reported last.
    """

    __slots__ = (
        "_append",
        "_attempt",
        "_finished",
        "_held",
        "_hide_usage",
        "_n",
        "_number",
        "_out",
        "_splitter",
        "_tail",
        "_waiting",
        "bytes_sent",
        "chunks",
        "digest",
        "ended",
        "events",
        "finish_reasons",
        "first_ns",
        "served_model",
        "text_bytes",
        "usage",
    )

    def __init__(self, attempt: Attempt) -> None:
        run = attempt.run
        parsed = run.parsed
        self._attempt = attempt
        self._splitter = Splitter(run.runtime.settings.event_bytes_max)
        self._append = run.runtime.log.append_chunk
        self._number = run.call.number
        self._n = parsed.n
        self._hide_usage = not parsed.wants_usage
        self._out: list[bytes] = []
        self._tail: list[bytes] = []
        self._finished: set[int] = set()
        self._waiting = False
        self._held = 0
        self.ended = False
        self.finish_reasons: tuple[str, ...] = ()
        self.usage: WireUsage | None = None
        self.served_model = ""
        self.chunks = 0
        self.events = 0
        self.text_bytes = 0
        self.bytes_sent = 0
        self.first_ns = 0
        self.digest = sha256()

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
        if not self._out:
            return
        if not self._waiting:
            self._waiting = True
            self._attempt.run.runtime.log.on_written(self._written)
        if not self._attempt.durable:
            self._hold(len(data))

    def _hold(self, size: int) -> None:
        """The disk is slower than the source: past the buffer's limit the source has to wait for it."""
        self._held += size
        upstream = self._attempt.upstream
        if self._held > self._attempt.run.runtime.settings.write_buffer_bytes_max and upstream is not None:
            upstream.pause()

    def finish(self) -> None:
        """The source ended the body properly: with all choices finished that is an end, else it was cut off."""
        if self.ended:
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
        if self.first_ns:
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
            elif len(payload) > 2 and parsed.model is None:
                self._record("", payload)
            self._take(event)
            return True
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
            self._record("", payload)
        for choice in choices:
            if choice.finish_reason:
                self._finished.add(choice.index)
                self.finish_reasons = (*self.finish_reasons, choice.finish_reason)
        self._take(event)
        return True

    def _record(self, text: str, raw: bytes) -> None:
        self._append(self._number, self.chunks, text, raw)
        self.chunks += 1
        data = raw or text.encode()
        self.text_bytes += len(data)
        self.digest.update(data)

    def _take(self, event: bytes) -> None:
        self.events += 1
        if len(self._finished) >= self._n:
            self._tail.append(event)
        else:
            self._out.append(event)

    # -- to the caller

    def release(self) -> None:
        """The attempt's record is durable: what has been written may be forwarded."""
        if self._held and self._attempt.upstream is not None and not self._attempt.run.paused:
            self._attempt.upstream.resume()
        if not self._waiting:
            self._forward()

    def _written(self) -> None:
        self._waiting = False
        self._forward()

    def _forward(self) -> None:
        out = self._out
        if not out or not self._attempt.durable:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self.bytes_sent += len(data)
        self._attempt.run.forward(data)

    def _complete(self) -> None:
        """All has been said: hold the end until its outcome is durable."""
        self.ended = True
        self._attempt.run.stream_complete(self)

    def rest(self) -> bytes:
        """What is still to be sent once the outcome is durable, with the end marker."""
        data = b"".join((*self._out, *self._tail, DONE_EVENT))
        self._out, self._tail = [], []
        self.bytes_sent += len(data)
        return data

    def unsent(self) -> bytes:
        """Recorded events that were not forwarded yet (their records are written by now)."""
        data = b"".join(self._out)
        self._out = []
        self.bytes_sent += len(data)
        return data

    def measured(self, reserved: int) -> Usage:
        """Tokens of the stream: as the source reported, else at the reservation, labelled so."""
        if self.usage is not None:
            return self.usage.usage()
        return Usage(0, 0, reserved, "reserved")
