"""A call through a cascade: a cheap model answers first, and a better one when its answer does not pass the checks.

    begin -> step -> answered -> StepEnd on record -> passed: outcome durable -> respond
                                                  \\-> not passed: the next step, or what there is

Each step is a part of the call's candidates, with failover among them; each try is an attempt with a record of its own
before anything goes up (P1). Answers are held whole until it is known that they are given; only the last step of a
streamed call streams directly: what it says is checked at its end, for the record. While steps are held a stream is
kept open as any that waits. The call is charged for all its steps.

INVARIANT: candidates are those of the decision, which policy allowed; what was reserved covers the dearest of each
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from interlock.errors import LogError, UpstreamError
from interlock.gateway.account import NO_COST, NO_ENERGY, NOTHING_USED
from interlock.gateway.http.exchange import EVENT_STREAM
from interlock.gateway.run import Run
from interlock.gateway.trace import tried
from interlock.routing.steps import step_of
from interlock.types.record import StepEnd
from interlock.types.source import Ability
from interlock.wire.checks import PASSED, UNKNOWN, asked_of, check
from interlock.wire.restream import as_stream
from interlock.wire.unstream import Unstream

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.call import Call
    from interlock.gateway.http.exchange import Headers
    from interlock.gateway.relay import Relay
    from interlock.gateway.runtime import Runtime
    from interlock.types.decision import Candidate
    from interlock.types.record import Outcome
    from interlock.types.usage import Cost, Energy, Usage
    from interlock.wire.answers import WholeAnswer
    from interlock.wire.openai import Parsed

CONFIDENCE = "confidence"
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Given(NamedTuple):
    """An answer that may be given."""

    attempt: Attempt
    rank: int
    step: int
    body: bytes
    served_model: str
    finish_reasons: tuple[str, ...]
    first_ns: int


class CascadeRun(Run):
    """The exchange of one admitted call of an alias with a cascade."""

    def __init__(self, call: Call, runtime: Runtime) -> None:
        assert call.parsed is not None and call.route is not None and call.target is not None  # noqa: S101
        assert call.alias is not None and call.alias.cascade is not None  # noqa: S101 - its target has steps
        # In the pivot, whatever the caller speaks: that is what can be checked.
        call.parsed = msgspec.structs.replace(call.parsed, native=None)
        super().__init__(call, runtime)
        self._cascade = call.alias.cascade
        self._count_steps = len(call.target.steps)
        self._step_of = [step_of(call.target.steps, call.offer(c.offer)) for c in call.route.candidates]
        self._affordable = call.affordable
        self._asked = asked_of(call.parsed.fields)
        self._held = _unstreamed(call.parsed)
        self._step = -1
        self._last = False
        self._probed = False
        """The step was asked for log probabilities that its caller did not ask for."""
        self._best: Given | None = None

    def begin(self) -> None:
        """Start with the first step."""
        self._next_step()
        super().begin()

    # -- steps

    def _next_step(self) -> str:
        """Go on to the next step that may be tried; or why there is none: "last", "money" or "time"."""
        if self._best is not None and self._time_over(self.runtime.clock.mono_ns()):
            return "time"
        dear = False
        for step in range(self._step + 1, self._count_steps):
            ranks = self._ranks(step)
            within = [rank for rank in ranks if self._within(rank)]
            if within:
                self._enter(step, ranks, within)
                return ""
            dear = dear or bool(ranks)
        return "money" if dear else "last"

    def _ranks(self, step: int) -> list[int]:
        """The candidates of a step that its budgets allow."""
        assert self.call.route is not None  # noqa: S101
        allowed = self._affordable
        return [
            rank
            for rank, candidate in enumerate(self.call.route.candidates)
            if self._step_of[rank] == step and (allowed is None or candidate.offer in allowed)
        ]

    def _within(self, rank: int) -> bool:
        """Whether what it may cost at most still fits within the cascade's money. The first one tried always is."""
        most, features, route = self._cascade.money_nusd_max, self.call.features, self.call.route
        if not most or self._step < 0:
            return True
        assert features is not None and route is not None  # noqa: S101
        offer = self.call.offer(route.candidates[rank].offer)
        rates = self.call.state.links[offer.source.id].meters(offer).rates
        bound = rates.bound(features.prompt_tokens_max, features.completion_tokens_max).nusd
        return sum(each.cost.nusd for each in self.steps) + bound <= most

    def _enter(self, step: int, ranks: list[int], within: list[int]) -> None:
        assert self.call.route is not None  # noqa: S101
        self._step = step
        self._index, self._ranks_end = ranks[0], ranks[-1] + 1
        self._resends = self.attempts  # failover begins anew
        self.full, self.spared, self.freed = {}, -1, False
        self._attempt = None  # the one before is over
        self._last = not any(self._ranks(later) for later in range(step + 1, self._count_steps))
        self.call.affordable = frozenset(self.call.route.candidates[rank].offer for rank in within)

    def _try(self, candidate: Candidate, attempt: Attempt) -> None:
        held, call = not (self._last and self.parsed.stream), self.call
        self.stream = not held
        call.parsed = self._held if held else self.parsed
        probe = held and not self._last and CONFIDENCE in self._cascade.checks
        self._probed = probe and "logprobs" not in self._held.fields
        if self._probed and Ability.logprobs in attempt.offer.model.abilities:
            told = msgspec.Raw(b"true" if call.operation == "chat" else b"1")
            call.parsed = msgspec.structs.replace(self._held, fields={**self._held.fields, "logprobs": told})
        settings = self.runtime.settings
        self.kept = None
        if not held and self._checks():
            most = settings.cascade_answer_bytes_max
            self.kept = Unstream(chat=call.operation == "chat", n=self.parsed.n, bytes_max=most)
        if held:
            self.answer_bytes_max = min(settings.response_bytes_max, settings.cascade_answer_bytes_max)
        super()._try(candidate, attempt)

    # -- what becomes of them

    def answered(self, answer: WholeAnswer, body: bytes) -> None:
        """A whole answer is here: check it, record that; then it is given, or the next step is tried."""
        attempt = self._attempt
        if self.ended or attempt is None:
            return
        try:
            said = _object(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            words = f"source {attempt.link.source.name!r} sent an answer that is nested too deeply, or not UTF-8"
            self.failed(attempt, UpstreamError(words, code="upstream_malformed"))
            return
        told, passed = self._judged_by(said)
        if self._probed:
            body = _without_logprobs(said)
        usage = answer.usage.usage() if answer.usage is not None else self.call.unknown_usage()
        reasons = tuple([choice.finish_reason or "" for choice in answer.choices or ()])
        now_ns = self.runtime.clock.mono_ns()
        if not self._over(attempt, usage, told, reasons, passed=passed, body=b"" if passed else body):
            return
        self._best = Given(attempt, self._rank, self._step, body, answer.model or "", reasons, now_ns)
        why = "passed" if passed else self._next_step()
        if why:
            self._give(why)
        else:
            self._next()

    def _judged_by(self, said: dict[str, Any] | None) -> tuple[tuple[str, ...], bool]:
        """What each check finds of a whole answer, and whether it passes. None: it cannot be looked at as a whole."""
        least = self._cascade.confidence_min_milli
        if said is None:
            return tuple(f"{name}:{UNKNOWN}" for name in self._checks()), False
        verdicts = check(self._checks(), said, self._asked, confidence_min_milli=least)
        passed = bool(verdicts) and all(verdict == PASSED for _, verdict in verdicts)
        return tuple(f"{name}:{verdict}" for name, verdict in verdicts), passed

    def _checks(self) -> tuple[str, ...]:
        """The checks of the step that answered: the last one was not asked for log probabilities."""
        names = self._cascade.checks
        return tuple(name for name in names if name != CONFIDENCE) if self._last else names

    def _over(
        self,
        attempt: Attempt,
        usage: Usage,
        checks: tuple[str, ...],
        reasons: tuple[str, ...],
        *,
        passed: bool,
        body: bytes = b"",
        code: str = "",
    ) -> bool:
        """A step is over: it is on record, and counts. False when the log does not take it: then the call has ended."""
        call, runtime = self.call, self.runtime
        now_ns = runtime.clock.mono_ns()
        attempt.ended = True
        rates, estimate = attempt.link.meters(attempt.offer)
        end = StepEnd(
            call.number,
            attempt.number,
            self._step,
            now_ns,
            attempt.offer.model.name,
            passed,
            checks,
            reasons,
            usage,
            rates.cost(usage),
            estimate.energy(usage),
            body if not call.recording else b"",
            code,
        )
        try:
            runtime.log.append(end)
        except LogError as error:
            self.log_failed(error)
            return False
        self.steps += (end,)
        self._measure(attempt, usage, now_ns)
        if runtime.on_finished is not None:
            self.tried += (tried(self, attempt, now_ns, code, 200),)
        if not code:
            runtime.board.success(attempt.link.row)
            self._judged = True
        self._unseat()
        self._attempt = None
        result = code or ("passed" if passed else "not_passed" if checks else "unchecked")
        runtime.tally(call.operation, attempt.link.source.name, attempt.offer.model.name).step(end)
        runtime.metrics.cascade_steps.add((str(self._step + 1), result))
        return True

    def _give(self, why: str) -> None:
        """The best answer that there is, is the answer."""
        best = self._best
        assert best is not None  # noqa: S101 - asked only then
        self.stop = why
        self._attempt, self._rank = best.attempt, best.rank
        self.out, self.native = self.call.answer, b""
        self._end(
            "completed",
            200,
            NOTHING_USED,  # what it used is with its step
            served_model=best.served_model,
            finish_reasons=best.finish_reasons,
            body=best.body,
            first_ns=best.first_ns,
        )

    def stream_complete(self, relay: Relay) -> None:
        """The last step has streamed its answer, which cannot be taken back: how it does is on record."""
        attempt, kept, reasons = self._attempt, self.kept, relay.finish_reasons
        if self.ended or attempt is None:
            return
        told, passed = self._judged_by(kept.answer(reasons)) if kept is not None else ((), False)
        self.kept = self._best = None
        if self._over(attempt, relay.measured(), told, reasons, passed=passed):
            self._attempt, self.stop = attempt, "passed" if passed else "last"
            self._end("completed", 200, NOTHING_USED, relay=relay)

    def _give_up(self) -> None:
        why = self._next_step()
        if not why:
            self._next()
        elif self._best is not None:
            self._give("failed")
        else:
            super()._give_up()

    def refused(self, error: InterlockError) -> None:
        """It waited for a seat and gets none: another step may have one."""
        if self.ended:
            return
        if not self._next_step():
            self._next()
        elif self._best is not None:
            self._give("failed")
        else:
            super().refused(error)

    def sweep(self, now_ns: int) -> None:
        """End a step that takes too long, when there is an answer already."""
        attempt = self._attempt
        relay = attempt.relay if attempt is not None else None
        if self._best is None or self.ended or (relay is not None and relay.events) or not self._time_over(now_ns):
            super().sweep(now_ns)
            return
        if attempt is not None and not attempt.ended and self.ticket is None:
            _, usage = self._stop_source()
            if not self._over(attempt, usage, (), (), passed=False, code="time"):
                return
        self._give("time")

    def _time_over(self, now_ns: int) -> bool:
        most = self._cascade.time_ms_max
        return bool(most) and now_ns - self.call.started_ns >= most * 1_000_000

    # -- the end

    def _metered(self, attempt: Attempt | None, usage: Usage, now_ns: int, _body_bytes: int) -> tuple[Cost, Energy]:
        if attempt is None or usage is NOTHING_USED:
            return NO_COST, NO_ENERGY
        self._measure(attempt, usage, now_ns)
        rates, estimate = attempt.link.meters(attempt.offer)
        return rates.cost(usage), estimate.energy(usage)

    def _measure(self, attempt: Attempt, usage: Usage, now_ns: int) -> None:
        """A step is over, or what was under way when the call ended: a meter's energy is split over it too."""
        desk = self.runtime.desk
        if desk is not None:
            desk.step_ended(self.call.number, attempt, usage, now_ns, attempt.received)

    def _count(self, outcome: Outcome, first_ns: int) -> None:
        if self.runtime.desk is not None:
            self.runtime.desk.cascade_ended(self.call.number)
        super()._count(outcome, first_ns)

    def _give_whole(self, body: bytes) -> None:
        if not self.parsed.stream:
            super()._give_whole(body)
            return
        chat = self.call.operation == "chat"
        self.forward(as_stream(_object(body), chat=chat, usage=self.parsed.wants_usage))
        self.out.end()

    def _headers(self, kind: bytes, answer: bytes = b"", *, status: int = 200, named: bool = True) -> Headers:
        lines = super()._headers(kind, answer, status=status, named=named)
        if not named or (kind != EVENT_STREAM and not self.steps):
            return lines
        given = self._best.step if self._best is not None and self.stop not in ("", "last") else self._step
        # A streamed answer's head leaves before anything is found of it.
        told = ["+".join(each.checks) or each.code for each in self.steps if not self.stream or each.step != self._step]
        checks = ",".join(each for each in told if each) or "none"
        words = f"step={given + 1}/{self._count_steps}; checks={checks}"
        if self.stop not in ("", "passed", "last"):
            words += f"; stop={self.stop}"
        return lines + b"x-interlock-cascade: %b\r\n" % words.encode()


def _unstreamed(parsed: Parsed) -> Parsed:
    """The same request for a whole answer."""
    if not parsed.stream:
        return parsed
    fields = {name: raw for name, raw in parsed.fields.items() if name not in ("stream", "stream_options")}
    return msgspec.structs.replace(parsed, stream=False, wants_usage=False, fields=fields)


def _without_logprobs(said: dict[str, Any]) -> bytes:
    choices = said.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            choice.pop("logprobs", None)
    return msgspec.json.encode(said)
