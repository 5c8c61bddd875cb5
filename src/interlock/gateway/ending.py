"""How a call ends: once, with its outcome durable before the caller sees the end, whatever raises on the way.

    _end -> settled, outcome appended -> durable -> the answer, its end, or the error
        \\-> a defect of ours -> what is held given back, failed outcome appended -> durable -> error
        \\-> the log takes nothing -> settled as recovery will, error

INVARIANT (P1): once a call has `ended` there is an outcome of it in the log, or the log took none and the call is
charged as one that was interrupted, which is what recovery will find. No exception leaves it without either, or with
what it had reserved.
"""

from __future__ import annotations

import abc
import contextlib
import logging
from typing import TYPE_CHECKING

from interlock.errors import InterlockError, LogError
from interlock.gateway.account import NOTHING_USED, Account
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.runtime import Unsettled
from interlock.types.record import Outcome

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.http.exchange import Headers, Sink
    from interlock.gateway.relay import Relay
    from interlock.types.record import Comparison, Judgement
    from interlock.types.usage import Usage

log = logging.getLogger("interlock.gateway")

JSON = b"content-type: application/json\r\n"
TOO_LARGE = "record_too_large"


class Ending(Account):
    """The part of a call's exchange that ends it."""

    ended = False
    head_sent = False
    seat = -1
    _judged = False
    out: Sink
    """What takes the answer: the face's translator, or the caller's side itself where nothing is translated."""
    native = b""
    """A whole answer as its source gave it, where the caller speaks the source's dialect."""
    compared: Comparison | None = None
    judged: Judgement | None = None
    """Of a shadow: how its answer compares. Of what is asked of a judge: what it said."""

    @abc.abstractmethod
    def forward(self, data: bytes, *, named: bool = True) -> None:
        """Send what is on record to the caller."""

    @abc.abstractmethod
    def _headers(self, kind: bytes, answer: bytes = b"", *, status: int = 200, named: bool = True) -> Headers:
        """What is sent along."""

    @abc.abstractmethod
    def _stop_source(self) -> tuple[Relay | None, Usage]:
        """Cancel the running attempt; the relay it had, and what the call is charged."""

    @abc.abstractmethod
    def _count(self, outcome: Outcome, first_ns: int) -> None:
        """Count a call that has ended."""

    @abc.abstractmethod
    def _leave(self) -> None:
        """The call is over: let go of everything."""

    def _heard(self, relay: Relay | None, body: bytes) -> None:
        """A call was answered to its end: see what its outcome is to say of that."""

    def _end(
        self,
        state: str,
        status: int,
        usage: Usage,
        *,
        relay: Relay | None = None,
        error: InterlockError | None = None,
        served_model: str = "",
        finish_reasons: tuple[str, ...] = (),
        body: bytes = b"",
        first_ns: int = 0,
    ) -> None:
        """Append the outcome, settle, and send the end of the answer when the outcome is durable."""
        self.ended = True
        runtime, attempt = self.runtime, self._attempt
        if relay is not None:
            first_ns, served_model, finish_reasons = relay.first_ns, relay.served_model, relay.finish_reasons
        try:
            outcome = self._outcome(state, status, usage, relay, error, served_model, finish_reasons, body, first_ns)
            seq = runtime.log.append(outcome)
        except LogError as log_error:
            if log_error.code == TOO_LARGE:  # the log is well, and takes a record without what was said
                self._end_failed(log_error, usage, relay)
                return
            self._recharge(attempt)
            self._answer_log_error(log_error)
            return
        except Exception as defect:  # noqa: BLE001 - whatever it is, the call ends on record (P1)
            self._report(defect)
            self._end_failed(self.call.defect(), usage, relay)
            return
        self._ended_as(seq, outcome, first_ns, relay, error, body)

    def _ended_as(
        self, seq: int, outcome: Outcome, first_ns: int, relay: Relay | None, error: InterlockError | None, body: bytes
    ) -> None:
        """The outcome is in the log: count the call, and tell its caller when that is durable."""
        runtime, attempt = self.runtime, self._attempt
        self._safely(self._count, outcome, first_ns)
        if outcome.state == "disconnected":
            runtime.log.sync_within(runtime.settings.stream_sync_ms)
            if self._charged is not None:
                runtime.log.on_durable(seq, lambda e: self._recharge(attempt) if e is not None else None)
            self._safely(self._leave)
            return
        runtime.log.on_durable(seq, lambda e: self._outcome_durable(e, relay, error, body))

    def _outcome(
        self,
        state: str,
        status: int,
        usage: Usage,
        relay: Relay | None,
        error: InterlockError | None,
        served_model: str,
        finish_reasons: tuple[str, ...],
        body: bytes,
        first_ns: int,
    ) -> Outcome:
        """Meter the call and settle it; what its record says."""
        call, attempt = self.call, self._attempt
        now_ns = self.runtime.clock.mono_ns()
        if relay is None and attempt is not None:
            attempt.ended = True
        if state == "completed":
            self._heard(relay, body)
            if attempt is not None:
                self._did_well(attempt, now_ns, first_ns if relay is not None else 0)
        cost, energy = self._metered(attempt, usage, now_ns, len(body))
        amounts = self._settle(usage, cost, energy, now_ns)
        usage, cost, energy = self._together(usage, cost, energy)
        return Outcome(
            call.number,
            now_ns,
            state,
            status,
            attempt.number if attempt is not None else -1,
            attempt.link.source.name if attempt is not None else "",
            attempt.offer.model.name if attempt is not None else "",
            served_model,
            finish_reasons,
            usage,
            (first_ns - call.started_ns) // 1000 if first_ns else 0,
            (now_ns - call.started_ns) // 1000,
            relay.chunks if relay is not None else 0,
            relay.digest.digest() if relay is not None and not call.recording else b"",
            b"",  # the body itself is here, or nothing that it could be guessed by
            body if not call.recording else b"",
            error.code if error is not None else "",
            self._words(error) if error is not None else "",
            len(body) if relay is None else relay.bytes_whole if state == "completed" else relay.bytes_sent,
            cost,
            energy,
            amounts,
            self.compared,
            self.stop,
            self.judged,
        )

    def _did_well(self, attempt: Attempt, now_ns: int, first_ns: int) -> None:
        if self.seat >= 0:  # else it was judged when it ended
            self.runtime.board.success(attempt.link.row)
            self._judged = True
        if self.call.trial is not None:
            first_us = (first_ns - attempt.sent_ns) // 1000 if first_ns else -1
            self.call.trial.answered(first_us, (now_ns - attempt.sent_ns) // 1000)

    # -- what the caller is told

    def _outcome_durable(
        self, log_error: LogError | None, relay: Relay | None, error: InterlockError | None, body: bytes
    ) -> None:
        """The outcome is safe (or can never be): now the caller may see the end."""
        if log_error is not None:
            self._recharge(self._attempt)
            self._answer_log_error(log_error)
            return
        if not self._safely(self._tell_end, relay, error, body):
            self._safely(self._tell_error, self.call.defect())
        self._safely(self._leave)

    def _tell_end(self, relay: Relay | None, error: InterlockError | None, body: bytes) -> None:
        if error is not None:
            self._answer_error(error, relay)
        elif relay is None:
            self._give_whole(body)
        else:
            self.forward(relay.rest())
            self.out.end()

    def _give_whole(self, body: bytes) -> None:
        answer = self.native or body
        # What a translator makes of it is not known here: as of a stream, a receipt says nothing of it.
        known = answer if self.native or self.call.face is OPENAI else b""
        self.out.respond(200, self._headers(JSON, known), answer)

    def _answer_error(self, error: InterlockError, relay: Relay | None) -> None:
        sink, face = self.call.sink, self.call.face
        error.request_id = self.call.id
        if not self.head_sent and not self.call.begun and (relay is None or not relay.events):
            code, headers, body = face.error(error)
            sink.respond(code, headers + self._headers(b"", status=code), body)
            return
        self.forward(relay.unsent() if relay is not None else b"")
        sink.write(face.error_event(error))
        sink.abort()

    def _tell_error(self, error: InterlockError) -> None:
        """There is no end that could be told, or none may be: tell that, and nothing besides."""
        sink, face = self.call.sink, self.call.face
        error.request_id = self.call.id
        if not self.head_sent and not self.call.begun:
            sink.respond(*face.error(error))
            return
        try:
            if not isinstance(error, LogError):  # after which nothing further may leave (P1)
                sink.write(face.error_event(error))
        finally:
            sink.abort()

    # -- when the log fails, or we do

    def log_failed(self, error: LogError) -> None:
        """The log can take no more of this call: nothing further may leave (P1)."""
        if self.ended:
            return
        self.ended = True
        attempt = self._attempt
        if attempt is not None:
            self._safely(attempt.cancel)
        usage = self.call.unknown_usage() if attempt is not None else NOTHING_USED
        self._settle_failed(usage)
        # The log writes it when it takes records again, so that the call does not stay open in it.
        with contextlib.suppress(LogError):
            self.runtime.log.append(self._failure(error, usage, None))
        self._unrecorded(error)

    def defect(self, error: InterlockError) -> None:
        """End this call: what its source said in the end could not be taken in, by a defect of ours."""
        if not self.ended:
            if self.call.trial is not None:
                self._safely(self.call.trial.failed, error.code)
            relay, usage = self._stopped()
            self._end("failed", error.status, usage, relay=relay, error=error)

    def broke(self, defect: Exception) -> None:
        """End this call: something on its way raised what nobody expected."""
        self._report(defect)
        self.defect(self.call.defect())

    def _stopped(self) -> tuple[Relay | None, Usage]:
        """As `_stop_source`, which may be what the defect is in: then at what was reserved."""
        try:
            return self._stop_source()
        except Exception as defect:  # noqa: BLE001 - the call ends all the same
            self._report(defect)
        attempt = self._attempt
        if attempt is None:
            return None, NOTHING_USED
        self._safely(attempt.cancel)
        if attempt.relay is not None:
            attempt.relay.ended = True
        return attempt.relay, self.call.unknown_usage()

    def _end_failed(self, error: InterlockError, usage: Usage, relay: Relay | None) -> None:
        """End a call whose outcome could not be made, or not be taken: as failed, with what is known of it."""
        log_error: LogError
        if self._attempt is not None:
            self._attempt.ended = True
        self._settle_failed(usage)
        outcome = self._failure(error, usage, relay)
        try:
            seq = self.runtime.log.append(outcome)
        except LogError as refusal:
            log_error = refusal
        except Exception as defect:  # noqa: BLE001 - then recovery finds the call, charged as it is here
            self._report(defect)
            log_error = LogError("The end of the call could not be recorded.")
        else:
            self._ended_as(seq, outcome, relay.first_ns if relay is not None else 0, relay, error, b"")
            return
        self._unrecorded(log_error)

    def _unrecorded(self, error: LogError) -> None:
        """The end is not in the log, for now or for good: the call stays charged as an interrupted one."""
        if self._charged is not None:
            hold, amounts = self._charged
            self.runtime.unsettled.append(Unsettled(self.call.intent_seq, hold, amounts, amounts))
        self._answer_log_error(error)

    def _answer_log_error(self, error: LogError) -> None:
        self._safely(self._leave)
        log.critical("outcome not recorded", extra={"request_id": self.call.id, "code": error.code})
        self.runtime.metrics.requests.add((self.call.operation, "failed"))
        self._safely(self._tell_error, error)
