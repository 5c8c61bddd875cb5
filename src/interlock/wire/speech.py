"""How a source is spoken to that does not speak OpenAI's chat form, or that speaks the caller's own dialect.

The *pivot* is the OpenAI form: what is decided, recorded and metered is in it. A speech makes of a checked request what
its source is sent, and of what the source says the pivot, with the bytes that leave beside it: the pivot again, or,
where source and caller speak one dialect (`native`), what the source said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from interlock.types.source import Offer, Source
    from interlock.wire.openai import Parsed

DONE = b"data: [DONE]\n\n"
"""The pivot's last event."""


class Ask(NamedTuple):
    """What a source is to be asked.

    `bound`: most tokens of one answer, to be set where the caller gave no bound; 0 where the model's context is the
    bound. `completion_tokens_max`: the bound that the call was admitted with, for sources that insist on one.
    `salt`: of the tenant, for prefix caches; "" where none is to be sent.
    """

    parsed: Parsed
    offer: Offer
    source: Source
    bound: int
    completion_tokens_max: int
    salt: str = ""


class Asked(NamedTuple):
    """A request as it is sent. `path` comes after the source's API prefix."""

    path: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Heard(NamedTuple):
    """A whole answer: as the pivot has it, and what leaves (`out`: the pivot again, unless the speech is native)."""

    pivot: bytes
    out: bytes


class Piece(NamedTuple):
    """A piece of a streamed answer: one event of the pivot with its empty line, b"" where there is nothing to record;
    and what leaves (`out`: the event again, unless the speech is native)."""

    event: bytes
    out: bytes


class Listener(Protocol):
    """Hears one streamed answer. Its state is bounded; the source's bytes come cut anywhere."""

    def feed(self, data: bytes) -> list[Piece]:
        """What `data` completes; at the end of what is said a piece whose event is `DONE`. Raises UpstreamError."""

    def finish(self) -> list[Piece]:
        """The source has ended its body. A stream that is not whole gives no `DONE`. Raises UpstreamError."""

    def cut(self) -> bytes:
        """Native only: what closes the answer when it is ended here, at the bound of its length."""


class Speech(Protocol):
    """Stateless. `stream_type`: how the content type of a streamed answer begins, in lower case."""

    native: bool
    stream_type: bytes

    def ask(self, ask: Ask) -> Asked:
        """What the source is sent. Raises BadRequest when it cannot be said in its dialect."""

    def whole(self, body: bytes, operation: str) -> Heard:
        """A whole answer. Raises UpstreamError `upstream_malformed`."""

    def listen(self, ask: Ask) -> Listener:
        """For one streamed answer."""
