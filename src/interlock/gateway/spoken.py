"""A streamed answer of a source that does not speak the pivot: a listener makes events of the pivot of it, which are
recorded; what leaves are these, or, where source and caller speak one dialect, the source's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from interlock.gateway.relay import Relay
from interlock.wire.speech import DONE

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.wire.speech import Ask, Listener, Piece, Speech


class Ear:
    """In the place of the splitter: the events of a listener's pieces, with what is to leave for the last of them."""

    __slots__ = ("_listener", "out", "rest")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.out = b""
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Splitter."""
        return self._events(self._listener.feed(data))

    def finish(self) -> Iterator[bytes]:
        """See Splitter."""
        return self._events(self._listener.finish())

    def _events(self, pieces: list[Piece]) -> Iterator[bytes]:
        for event, out in pieces:
            self.out = out
            yield event


class SpokenRelay(Relay):
    """See Relay."""

    __slots__ = ("_closing", "_ear", "_listener", "_native")

    def __init__(self, attempt: Attempt, speech: Speech, ask: Ask) -> None:
        run = attempt.run
        self._native = speech.native
        run.out = run.call.sink if speech.native else run.call.answer
        super().__init__(attempt)
        self._listener = speech.listen(ask)
        self._splitter = self._ear = Ear(self._listener)
        self._closing = b"" if speech.native else DONE
        if speech.native:
            self._hide_usage = False

    def feed_chunk(self, framed: bytes, at: int) -> None:
        """See Relay."""
        self.feed(framed[at:-2])

    def _event(self, event: bytes) -> bool:
        if not event:
            return self._take(event) if self._ear.out else True
        if event == DONE and self._ear.out and self._native:
            self._hold_end(self._ear.out)
        return super()._event(event)

    def _take(self, event: bytes) -> bool:
        if not self._native:
            return super()._take(event)
        return super()._take(self._ear.out) if self._ear.out else True

    def _cut_event(self, payload: bytes) -> bytes:
        event = super()._cut_event(payload)
        return self._listener.cut() if self._native else event
