"""A call in progress: tries its candidates in order; how it ends is in `interlock.gateway.ending`.

Ways through:
    begin -> attempt -> answered ------------------> outcome durable -> respond
                    \\-> failed -> next candidate, or outcome durable -> error answer
                    \\-> relay: forward ... -> stream_complete -> outcome durable -> end
                                          \\-> stream_broken   -> outcome durable -> error event, connection cut
    on_disconnect, cut: source cancelled, outcome appended

A stream that has to wait, for a seat, an engine or its first event, is kept open: when its intent is durable its head
leaves, with comments after it. Such a head names no source, for another may answer in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import InterlockError, LimitExceeded, LogError, NoCandidate
from interlock.gateway.account import NOTHING_USED
from interlock.gateway.attempt import Attempt
from interlock.gateway.cold import UNSEEN_CODE, Parked
from interlock.gateway.counting import counted
from interlock.gateway.ending import Ending
from interlock.gateway.faces.openai import COMMENT
from interlock.gateway.failures import FINAL_CODES, HARMLESS_CODES, STALE_CODE
from interlock.gateway.http.exchange import EVENT_STREAM
from interlock.gateway.leaving import leaving
from interlock.gateway.seats import sent_away
from interlock.gateway.trace import tried
from interlock.types.record import AttemptEnd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers
    from interlock.gateway.links import Link
    from interlock.gateway.relay import Relay
    from interlock.gateway.runtime import Runtime
    from interlock.gateway.seats import Ticket
    from interlock.telemetry.tracing import AttemptFigures
    from interlock.types.decision import Candidate
    from interlock.types.record import Outcome
    from interlock.types.usage import Usage
    from interlock.wire.answers import WholeAnswer


class Run(Ending):
    """The exchange of one admitted call: its attempts, its answer, its outcome."""

    attempts = 0
    paused = False
    _kept_open: bool | None = None
    """Whether comments may leave: the intent is durable. None: not asked for yet."""
    _index = 0
    _rank = -1
    _ranks_end: int | None = None
    """Behind the last candidate that may be tried now; None: behind all."""
    _resends = 0
    last_error: InterlockError | None = None
    ticket: Ticket | None = None
    """While it waits for a seat."""
    waiting_ns = waited_ms = 0
    """When it began to wait first; how long it has waited."""
    full: Mapping[int, Link] = {}
    """By rank, candidates that had no seat for it."""
    spared = -1
    """The rank of the first candidate that is left alone as long as a source of one's own may have a seat."""
    freed = False
    """No such source is in service: none is spared for it."""
    _skipped: tuple[str, ...] = ()
    _parked: Parked | None = None
    _waited_until_ns = 0
    _over_waiting = False
    tried: tuple[AttemptFigures, ...] = ()
    """Attempts that failed, for tracing; empty when nothing is traced."""

    def __init__(self, call: Call, runtime: Runtime) -> None:
        assert call.parsed is not None and call.route is not None  # noqa: S101 - the stages have filled them
        self.call = call
        self.runtime = runtime
        self.parsed = call.parsed
        self.stream = call.parsed.stream
        self.out = call.answer
        self._last_sent_ns = call.started_ns
        self._hold = call.hold
        self.answer_bytes_max = runtime.settings.response_bytes_max
        """Most bytes of a whole answer."""

    @property
    def last_attempt(self) -> Attempt | None:
        """The attempt that answers, or the one that failed last."""
        return self._attempt

    @property
    def rank(self) -> int:
        """Of the candidate that was tried last; -1 before the first."""
        return self._rank

    def begin(self) -> None:
        """Start with the first candidate."""
        self.runtime.runs.add(self)
        self._next()

    # -- attempts

    def _next(self, again: int = -1) -> None:
        """Try the next candidate that has room; with none left, the call fails with the last error.

        `again`: the rank of a candidate that is tried once more, over a new connection, before the others.
        """
        call, runtime = self.call, self.runtime
        assert call.route is not None  # noqa: S101
        candidates = call.route.candidates[: self._ranks_end]
        board, seats, now_ns = runtime.board, runtime.seats, runtime.clock.mono_ns()
        if again >= 0:
            self._index = again
            self._resends += 1
        attempts_max = runtime.settings.attempts_max + self._resends
        sparing = seats.overflow_wait_ns[call.workload] and not self.freed
        try:
            while self._index < len(candidates) and self.attempts < attempts_max:
                candidate = candidates[self._index]
                self._rank = self._index
                self._index += 1
                if call.affordable is not None and candidate.offer not in call.affordable:
                    why = "over budget" if call.slo is None or not call.slo.strict else "over budget or objective"
                    self._skipped += (f"{candidate.offer}: {why}",)
                    continue
                offer = call.offer(candidate.offer)
                link = call.state.links[offer.source.id]
                if sparing and link.off_prem and seats.held(self, candidate, now_ns):
                    self._skipped += (f"{candidate.offer}: {call.workload.name} calls wait for sources of one's own",)
                    self.spared = self._rank if self.spared < 0 else self.spared
                    continue
                if not board.allow(link.row, now_ns):
                    self._skipped += (f"{candidate.offer}: circuit breaker open",)
                    continue
                if (call.workload or not board.enter(link.row, link.cap)) and not seats.enter(self, link, now_ns):
                    board.abandon(link.row)
                    self._skipped += (f"{candidate.offer}: no seat is free",)
                    self.full = {**self.full, self._rank: link}
                    continue
                self.seat = link.row
                self._judged = False
                self._try(candidate, Attempt(self, self.attempts, link, offer, fresh=self._rank == again))
                return
        except LogError as error:
            self.log_failed(error)
            return
        if self.attempts >= attempts_max or (self.spared < 0 and not self.full):
            self._give_up()
        elif self.spared >= 0 and not self.full and not sent_away(self):
            self.freed = True
            self.released()
        elif not seats.wait(self):
            self._give_up()

    def seated(self, rank: int, link: Link) -> None:
        """A seat at this candidate was taken for the call, which waited for it."""
        assert self.call.route is not None  # noqa: S101
        candidate = self.call.route.candidates[rank]
        self.full = {other: full for other, full in self.full.items() if other != rank}
        self.seat, self._rank = link.row, rank
        self._judged = not self.runtime.board.allow(link.row, self.runtime.clock.mono_ns())
        if self._judged:
            self._unseat()
            self._skipped += (f"{candidate.offer}: circuit breaker open",)
            self._next()
            return
        try:
            self._try(candidate, Attempt(self, self.attempts, link, self.call.offer(candidate.offer)))
        except LogError as error:
            self.log_failed(error)

    def released(self) -> None:
        """The candidates that were spared may be used now."""
        self._index, self.spared = self.spared, -1
        self._next()

    def refused(self, error: InterlockError) -> None:
        """It waited for a seat and gets none."""
        if not self.ended:
            self._end("failed", error.status, NOTHING_USED, error=error)

    def _try(self, candidate: Candidate, attempt: Attempt) -> None:
        self.attempts += 1
        self._attempt = attempt
        if candidate.overflow or (self.full and attempt.link.off_prem):
            self.runtime.metrics.overflows.add((attempt.link.source.name,))
        attempt.begin()

    def failed(self, attempt: Attempt, error: InterlockError) -> None:
        """An attempt ended before anything was forwarded: record why, then the next candidate or the end."""
        if self.ended or attempt is not self._attempt:
            return
        runtime = self.runtime
        now_ns = runtime.clock.mono_ns()
        attempt.ended = True
        self.out, self.native = self.call.answer, b""  # a source of the caller's dialect may be followed by another
        if isinstance(error, LogError):
            self.log_failed(error)  # no other source would help
            return
        if self.call.trial is not None:
            self.call.trial.failed(error.code)
        row = attempt.link.row
        # A shadow must not close a source to the calls that somebody waits for.
        if error.code not in HARMLESS_CODES and not self.call.unasked:
            runtime.board.failure(row, now_ns)
            self._judged = True
        self._unseat()
        retry_after_s = attempt.retry_after_s()
        if retry_after_s and not self.call.unasked:
            runtime.board.cool_down(row, now_ns + retry_after_s * 1_000_000_000)
        runtime.metrics.attempts.add((attempt.link.source.name, error.code))
        self.last_error = error
        if runtime.on_finished is not None:
            self.tried += (tried(self, attempt, now_ns, error.code, error.status),)
        try:
            runtime.log.append(
                AttemptEnd(self.call.number, attempt.number, now_ns, error.code, error.status, self._words(error))
            )
        except LogError as log_error:
            self.log_failed(log_error)
            return
        if error.code in FINAL_CODES:
            self._give_up()
        elif error.code == STALE_CODE and not attempt.fresh:
            self._next(again=self._rank)
        else:
            self._next()

    def _give_up(self) -> None:
        """No candidate is left: wait for an engine that is to be started again, or tell what the last one said."""
        error = self.last_error
        if self._attempt is not None and error is not None and error.code == UNSEEN_CODE and not self._over_waiting:
            self._parked = Parked.of(self._attempt, self.runtime, self._waited_until_ns)
            if self._parked is not None:
                self._waited_until_ns = self._parked.until_ns
                self._attempt = None  # nothing is under way
                return
        if error is None:
            if self.call.trial is not None:
                self.call.trial.failed("no_candidate")
            why = "; ".join(self._skipped[:3])
            error = NoCandidate(
                f"Every allowed source is at its limit or failing ({why}).", headers={"retry-after": "1"}
            )
        elif error.code == "upstream_pool_full":
            error = NoCandidate(
                "Every allowed source has all the connections in use that it may have; try again.",
                headers={"retry-after": "1"},
            )
        elif isinstance(error, LimitExceeded):
            error = LimitExceeded(
                "Every allowed source asks to slow down; try again later.",
                code=error.code,
                headers={"retry-after": error.headers.get("retry-after", "1")},
            )
        self._end("refused" if error.status < 500 else "failed", error.status, NOTHING_USED, error=error)

    def _wait(self, parked: Parked, now_ns: int) -> None:
        """Try the engine again when it is there, over a new connection and on record; or end as it was."""
        wish = parked.wish(now_ns)
        if not wish:
            return
        self._unpark()
        if wish == "again":
            self._next(again=self._rank)
        else:
            self._over_waiting = True
            self._attempt = parked.attempt
            self._give_up()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.end()

    # -- answers

    def answered(self, answer: WholeAnswer, body: bytes) -> None:
        """A whole answer is here, in the pivot: record it; it leaves when that is durable."""
        if self.ended:
            return
        usage = answer.usage.usage() if answer.usage is not None else self.call.unknown_usage()
        reasons = tuple([choice.finish_reason or "" for choice in answer.choices or ()])
        self._end(
            "completed",
            200,
            usage,
            served_model=answer.model or "",
            finish_reasons=reasons,
            body=body,
            first_ns=self.runtime.clock.mono_ns(),
        )

    def forward(self, data: bytes, *, named: bool = True) -> None:
        """Recorded events of a stream leave for the caller. `named`: who answers is known, and said in the head."""
        out = self.out
        if not self.head_sent:
            self.head_sent = True
            out.start(200, self._headers(EVENT_STREAM, named=named))
        if data:
            out.write(data)
        self._last_sent_ns = self.runtime.swept_ns

    def stream_complete(self, relay: Relay) -> None:
        """A stream has said everything: its end leaves when the outcome is durable."""
        if not self.ended:
            self._end("completed", 200, relay.measured(), relay=relay)

    def stream_broken(self, error: InterlockError) -> None:
        """A stream broke after its first event: there is no way back, the caller is told in the stream."""
        relay = self._attempt.relay if self._attempt is not None else None
        if self.ended or relay is None:
            return
        assert self._attempt is not None  # noqa: S101
        if not self.call.unasked:
            self.runtime.board.failure(self._attempt.link.row, self.runtime.clock.mono_ns())
            self._judged = True
        if self.call.trial is not None:
            self.call.trial.failed(error.code)
        self.runtime.metrics.attempts.add((self._attempt.link.source.name, error.code))
        self._end("failed", error.status, relay.measured(), relay=relay, error=error)

    # -- the end

    def _leave(self) -> None:
        """The call is over. No reference cycle stays behind: its body would live on until a garbage collection."""
        self.runtime.runs.discard(self)
        if self._parked is not None:
            self._unpark()
        if self.call.beside is not None:
            self.call.beside.over(self._attempt)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()  # also a source that has said [DONE] and keeps the body open
            attempt.relay = None

    def _unseat(self) -> None:
        row = self.seat
        if row >= 0:
            self.runtime.board.leave(row)
            self.seat = -1
            if not self._judged:
                self.runtime.board.abandon(row)
            if row in self.runtime.seats.counted:
                self.runtime.seats.left(self, row)
        elif self.ticket is not None:
            self.runtime.seats.leave(self.ticket, "gone")

    # -- Exchange: what the caller's side does

    def on_disconnect(self) -> None:
        """The caller is gone: stop the source, charge what it reported, else the reservation."""
        if not self.ended:
            relay, usage = self._stopped()
            self._end("disconnected", 499, usage, relay=relay)

    def cut(self, error: InterlockError) -> None:
        """End this call now from our side: its key was revoked with `--cut`, or the grace of a stop is over."""
        if not self.ended:
            relay, usage = self._stopped()
            self._end("cut", error.status, usage, relay=relay, error=error)

    def _stop_source(self) -> tuple[Relay | None, Usage]:
        """Cancel the running attempt; the relay it had, and what the call is charged."""
        attempt = self._attempt
        if attempt is None or self.ticket is not None:
            return None, NOTHING_USED
        if self.call.trial is not None:
            self.call.trial.look(attempt, self.runtime.clock.mono_ns())
        attempt.cancel()
        relay = attempt.relay
        if relay is None:
            return None, self.call.unknown_usage()
        relay.ended = True
        return relay, relay.measured()

    def on_pause(self) -> None:
        """A slow reader: stop reading from the source, so that nothing piles up here."""
        self.paused = True
        if self._attempt is not None and self._attempt.upstream is not None and self.stream:
            self._attempt.upstream.pause()

    def on_resume(self) -> None:
        """The reader has caught up."""
        self.paused = False
        if self._attempt is not None and self._attempt.upstream is not None:
            self._attempt.upstream.resume()

    def sweep(self, now_ns: int) -> None:
        """Send a keep-alive comment when a stream has been silent for `keepalive_comment_ms`."""
        if self._parked is not None:
            self._wait(self._parked, now_ns)
        if self.call.trial is not None and self._attempt is not None and not self.ended:
            self.call.trial.look(self._attempt, now_ns)
        if not self.parsed.stream or self.paused or self.ended or not self.call.face.keepalive:
            return
        if now_ns - self._last_sent_ns < self.runtime.settings.keepalive_comment_ms * 1_000_000:
            return
        if self._kept_open is None:
            self._kept_open = False
            self.runtime.log.on_durable(self.call.intent_seq, self._keep_open)
        elif self._kept_open:
            self._comment()

    def _keep_open(self, error: LogError | None) -> None:
        """The call is on record (P1): what is no part of an answer may leave. A log that fails ends the call itself."""
        self._kept_open = error is None
        if self._kept_open and not self.ended and not self.paused:
            self._comment()

    def _comment(self) -> None:
        if not self.head_sent and not self.call.begun:
            waits_for = "seat" if self.ticket is not None else "engine" if self._parked is not None else "answer"
            self.runtime.metrics.early_heads.add((waits_for,))
        # What is translated on the way out gets the pivot's comment, and makes of it what its dialect has.
        self.forward(self.call.face.keepalive if self.out is self.call.sink else COMMENT, named=False)

    # -- what is sent along

    def _headers(self, kind: bytes, answer: bytes = b"", *, status: int = 200, named: bool = True) -> Headers:
        call, attempt = self.call, self._attempt if named else None
        lines = kind + call.id_headers()
        if attempt is not None:
            lines += attempt.link.offer_headers(attempt.offer)
        if named and self._rank >= 0 and call.route is not None:
            lines += self.runtime.decision_line(call.route, self._rank)
        if call.limit_lines is not None:
            lines += call.limit_lines()
        if call.receipt is not None:
            lines += self.runtime.receipts.line(call, status, call.face.name, answer)
        if call.alias is not None and (call.alias.sunset_s or call.alias.deprecated_s):
            lines += leaving(call.alias)
        if call.workload or self.waited_ms:
            lines += b"x-interlock-workload: %b\r\n" % call.workload.name.encode()
        if named and (call.workload or self.waited_ms):
            lines += b"x-interlock-waited-ms: %d\r\n" % self.waited_ms
        return lines

    def _count(self, outcome: Outcome, first_ns: int) -> None:
        counted(self, self._attempt, outcome, first_ns)
