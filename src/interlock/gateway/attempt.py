"""One try of a call at one offer: what is sent, what comes back, and what that means.

An attempt ends in one of three ways, told to its `Run`: `answered` (a whole answer, unstreamed), `streamed` (the
relay has taken over: no failover from here on), or `failed` (nothing was forwarded; the next candidate may follow).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from interlock.errors import BadRequest, InterlockError, LimitExceeded, LogError, NotImplementedYet, UpstreamError
from interlock.gateway.prepare import GENERATING, PATHS, ask_for, body_for, trace_headers
from interlock.gateway.relay import Relay
from interlock.gateway.speech import native_speech
from interlock.gateway.spoken import SpokenRelay
from interlock.ledger.charges import interrupted
from interlock.types.record import Attempt as AttemptRecord
from interlock.types.source import SourceKind
from interlock.types.usage import Cost
from interlock.wire.answers import WholeAnswer, decode_answer, error_code, error_words
from interlock.wire.embeddings import as_asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.gateway.links import Link
    from interlock.gateway.run import Run
    from interlock.gateway.treasury import Hold
    from interlock.sources.transport import Call as UpstreamCall
    from interlock.types.record import StepEnd
    from interlock.types.source import Offer
    from interlock.wire.speech import Ask, Speech

CALLERS_FAULT = frozenset((400, 413, 415, 422))
"""Statuses by which a source says that the request itself is wrong: another source would most likely agree."""
FILTERED = "content_filter"
"""Code of a cloud that does not answer because of what the prompt says."""
_CONTEXT_WORDS = ("context length", "context size", "maximum context", "too long", "exceed_context")


class Attempt:
    """A try at one offer, and the handler of what its source sends."""

    upstream: UpstreamCall | None = None
    relay: Relay | None = None
    durable = False
    ended = False
    ending = False
    """What its source said is taken in as a whole, or was."""
    told = False
    """Who splits measured energy knows of it."""
    seq = -1
    sent_ns = 0
    speech: Speech | None = None
    """How the source is spoken to; None: as the caller's request was checked."""
    reserved = Cost()
    """What it costs if nobody ever learns what it used."""
    _size = 0
    _error_status = 0
    _retry_after = b""
    _ask: Ask

    def __init__(self, run: Run, number: int, link: Link, offer: Offer, *, fresh: bool = False) -> None:
        self.run = run
        self.fresh = fresh
        """Sent over a connection of its own: the last try met one that its source had closed."""
        self.number = number
        self.link = link
        self.offer = offer
        self._body: list[bytes] = []

    def begin(self) -> None:
        """Record the try, then send: when the record is written on-prem, when it is durable otherwise (P1)."""
        run = self.run
        runtime = run.runtime
        link, offer = self.link, self.offer
        source, features = link.source, run.call.features
        assert features is not None  # noqa: S101 - the stages have filled it
        self.sent_ns = runtime.clock.mono_ns()
        self.reserved = link.meters(offer).rates.bound(features.prompt_tokens_max, features.completion_tokens_max)
        self.seq = runtime.log.append(
            AttemptRecord(
                run.call.number,
                self.number,
                self.sent_ns,
                source.id,
                source.name,
                offer.model.name,
                source.engine,
                source.engine_version,
                offer.model.version,
                link.off_prem,
                self.reserved,
                run.waited_ms,
            )
        )
        if link.off_prem:
            runtime.log.on_durable(self.seq, self._durable_then_send)
            return
        if run.stream:
            runtime.log.on_durable(self.seq, self._on_durable)
        else:
            # The outcome's own durability covers this record; until then it is on its way to the disk.
            runtime.log.sync_within(runtime.settings.stream_sync_ms)
        # Written before it is sent, so that no death of this process leaves a call at a source without a trace;
        # only the wait for the disk overlaps the call.
        runtime.log.on_written(self._written_then_send)

    @property
    def received(self) -> int:
        """Bytes of the body of an answer that is not streamed, as far as it has come."""
        return self._size

    def cancel(self) -> None:
        """Stop the source; nothing further of this attempt is heard."""
        self.ended = True
        if self.upstream is not None:
            self.upstream.cancel()

    # -- durability

    def _written_then_send(self) -> None:
        if not self.ended:
            self._send()

    def _durable_then_send(self, error: LogError | None) -> None:
        if self.ended:
            return
        if error is not None:
            self.run.failed(self, error)
            return
        self.durable = True
        self._send()

    def _on_durable(self, error: LogError | None) -> None:
        if self.ended:
            return
        if error is not None:
            self.cancel()
            self.run.log_failed(error)
            return
        self.durable = True
        if self.relay is not None:
            self.relay.release()

    def _send(self) -> None:
        run = self.run
        call = run.call
        try:
            native, link = run.parsed.native, self.link
            speech = self.speech = link.speech if native is None else native_speech(native, self.offer)
            headers = trace_headers(call)
            if speech is None:
                path, body = PATHS[call.operation], body_for(call, self.offer, self.link.source)
            else:
                self._ask = ask_for(call, self.offer, self.link.source)
                path, body, more = speech.ask(self._ask)
                headers += more
            head = self.link.head(path, len(body), headers)
        except InterlockError as error:
            run.failed(self, error)
            return
        except Exception as defect:  # noqa: BLE001 - nobody else would end the call
            run.broke(defect)
            return
        self.upstream = self.link.pool.send(
            [head, body],
            self,
            deadlines=self.link.deadlines if run.stream else self.link.deadlines_whole,
            count_bytes=not run.stream,
            fresh=self.fresh,
        )
        if run.paused and run.stream:
            self.upstream.pause()

    # -- Handler: what the source sends

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of the answer: an error, a stream, or a whole answer."""
        if status != 200:
            self._error_status = status
            for name, value in headers:
                if name == b"retry-after":
                    self._retry_after = value
            return
        if not self.run.stream:
            return
        for name, value in headers:
            if name == b"content-type":
                self._listen(value.lower())
                return

    def _listen(self, kind: bytes) -> None:
        speech = self.speech
        if speech is None:
            if kind.startswith(b"text/event-stream"):
                self.relay = Relay(self)
        elif kind.startswith(speech.stream_type):
            self.relay = SpokenRelay(self, speech, self._ask)

    def on_body(self, data: bytes) -> None:
        """Bytes of the answer."""
        if self.relay is not None:
            self.relay.feed(data)
            return
        self._size += len(data)
        settings = self.run.runtime.settings
        limit = settings.error_bytes_max if self._error_status else self.run.answer_bytes_max
        if self._size > limit:
            if self._error_status:
                return
            self.cancel()
            words = f"source {self.link.source.name!r} sent more than {limit} bytes"
            self.run.failed(self, UpstreamError(words, code="upstream_too_large"))
            return
        self._body.append(data)

    def on_end(self) -> None:
        """The answer is complete by its own framing."""
        self.ending = True
        if self.relay is not None:
            self.relay.finish()
            return
        self.ended = True
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._error_status:
            self._refused(body)
            return
        if self.run.stream:
            words = f"source {self.link.source.name!r} did not answer with an event stream"
            self.run.failed(self, UpstreamError(words, code="upstream_malformed"))
            return
        try:
            if self.speech is not None:
                body = self._heard(self.speech, body)
            answer = decode_answer(body)
        except UpstreamError as error:
            self.run.failed(self, error)
            return
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            words = f"source {self.link.source.name!r} sent an answer that is not the JSON it should be"
            self.run.failed(self, UpstreamError(words, code="upstream_malformed"))
            return
        if not _is_answer(answer, self.run.call.operation):
            words = f"source {self.link.source.name!r} sent an answer without choices or data"
            self.run.failed(self, UpstreamError(words, code="upstream_malformed"))
            return
        self.run.answered(answer, body)

    def _heard(self, speech: Speech, body: bytes) -> bytes:
        """A whole answer as the pivot has it. Raises UpstreamError."""
        run = self.run
        heard = speech.whole(body, run.call.operation)
        if run.call.operation == "embeddings" and not speech.native:
            pivot = as_asked(heard.pivot, run.parsed.fields)
            heard = heard._replace(pivot=pivot, out=pivot)
        run.native = heard.out if speech.native else b""
        run.out = run.call.sink if speech.native else run.call.answer
        return heard.pivot

    def on_error(self, error: UpstreamError) -> None:
        """The transport gave up: refused, timed out, cut off, not HTTP. Or the end could not be taken in."""
        if self.ending or (self.relay is not None and self.relay.ended):
            self.run.defect(error)
            return
        try:
            if self.relay is not None:
                self.relay.broken(error)
                return
            self.ended = True
            self.run.failed(self, error)
        except Exception as defect:  # noqa: BLE001 - nobody else would end the call
            self.run.broke(defect)

    # -- what an error status means

    def _refused(self, body: bytes) -> None:
        status, source = self._error_status, self.link.source
        words = error_words(body)
        said = f"source {source.name!r} answered {status}" + (f": {words}" if words else "")
        error: InterlockError
        if status in CALLERS_FAULT:
            lowered = words.lower()
            context = any(sign in lowered for sign in _CONTEXT_WORDS)
            code = "context_length_exceeded" if context else "upstream_refused"
            if error_code(body) == FILTERED:
                code = FILTERED  # applications of such clouds look for it
            error = BadRequest(f"The model source refused the request: {words or status}.", code=code)
        elif status == 404 and source.kind is SourceKind.ollama:
            error = UpstreamError(said, code="upstream_model_missing")
        elif status == 429:
            error = LimitExceeded(said, code="upstream_rate_limited", headers=self._retry_header())
        elif status in (404, 405, 501) and self.run.call.operation == "count_tokens":
            error = NotImplementedYet(f"The source {source.name!r} does not count tokens.", code="uncountable")
        elif status in (503, 529):
            error = UpstreamError(said, code="upstream_overloaded", headers=self._retry_header())
        elif status in (401, 403):
            # The source's credential, not the caller's: the source's words may hold parts of it.
            error = UpstreamError(
                f"source {source.name!r} does not accept Interlock's credential", code="upstream_credential"
            )
        else:
            error = UpstreamError(said, code="upstream_error")
        self.run.failed(self, error)

    def _retry_header(self) -> dict[str, str]:
        seconds = self.retry_after_s()
        return {"retry-after": str(seconds)} if seconds else {}

    def retry_after_s(self) -> int:
        """The source's Retry-After in seconds, bounded by `retry_after_ms_max`; 0 when it gave none we understand."""
        if not self._retry_after.isdigit() or len(self._retry_after) > 6:
            return 0
        return min(int(self._retry_after), self.run.runtime.settings.retry_after_ms_max // 1000)


def _is_answer(answer: WholeAnswer, operation: str) -> bool:
    if operation == "rerank":
        return answer.results is not None
    if operation not in GENERATING:
        return answer.data is not None
    return bool(answer.choices)


def interrupted_amounts(hold: Hold, attempt: Attempt | None, steps: Sequence[StepEnd] = ()) -> tuple[int, ...]:
    """What each budget is charged for a call whose outcome is not in the log. `steps`: of a cascade, those over."""
    if attempt is None or any(step.attempt == attempt.number for step in steps):
        return interrupted(hold.charges, ran=False, model="", cost=Cost(0, "none"), steps=steps)
    return interrupted(hold.charges, ran=True, model=attempt.offer.model.name, cost=attempt.reserved, steps=steps)
