"""The order of a call's stages: this file is the list.

    authenticate -> (conversation) -> receive -> resolve -> authorize -> (idempotency key) -> admit -> route -> budget
    -> record intent -> run

`run` (see `interlock.gateway.run`) invokes the source, fails over along the candidates, records every attempt, and
ends with the outcome: meter, record, respond. Authentication comes before the body is decoded, so that strangers
cost little and learn nothing; from `authenticate` on every refusal is recorded. A call that needs a share of a budget
which its worker does not hold waits before its intent (`interlock.gateway.waiting`); one with an idempotency key waits
before it counts on anything (`interlock.gateway.idempotency`); one that goes on with a stored conversation before it is
read (`interlock.gateway.turn`); one that only an engine may take which is starting waits for that, and then begins
again (`interlock.gateway.cold`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from interlock.errors import EngineStarting, InterlockError, LogError
from interlock.gateway.call import Call
from interlock.gateway.cascade import CascadeRun
from interlock.gateway.cold import ColdStart, may_wait
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.faces.responses import RESPONSES
from interlock.gateway.idempotency import IDEMPOTENCY_KEY, Claiming, Replayed, key_of
from interlock.gateway.judge import judged
from interlock.gateway.receipts import RECEIPT
from interlock.gateway.run import Run
from interlock.gateway.shadow import beside
from interlock.gateway.stages.admit import admit
from interlock.gateway.stages.authenticate import authenticate
from interlock.gateway.stages.authorize import authorize
from interlock.gateway.stages.budget import budgeted, reserve
from interlock.gateway.stages.receive import receive
from interlock.gateway.stages.record import record_intent, record_refusal
from interlock.gateway.stages.resolve import resolve
from interlock.gateway.stages.route import route
from interlock.gateway.turn import recall
from interlock.gateway.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.gateway.faces.base import Face
    from interlock.gateway.http.exchange import Exchange, Request, Sink
    from interlock.gateway.runtime import Runtime

log = logging.getLogger("interlock.gateway")


def govern(operation: str, face: Face, request: Request, sink: Sink, runtime: Runtime) -> Exchange | None:
    """Take one inference request through all stages. Returns the running call, or None when it was refused."""
    record_log = runtime.log
    call = Call(operation, face, request, sink, runtime.state, record_log.epoch, record_log.next_call())
    call.wall_ns = runtime.clock.wall_ns()
    call.seed = runtime.seed(call.number)
    return _guarded(call, runtime, _enter)


def _guarded(call: Call, runtime: Runtime, step: Callable[[Call, Runtime], Exchange | None]) -> Exchange | None:
    """One step of a call's way; what it raises is the answer."""
    try:
        return step(call, runtime)
    except InterlockError as error:
        refuse(call, error, runtime)
    except Exception:
        log.exception("stage failed", extra={"request_id": call.id})
        refuse(call, call.defect(), runtime)
    return None


def _enter(call: Call, runtime: Runtime) -> Exchange | None:
    """Who asks for what, and whether they may. A call with an idempotency key goes on when that is known to be new; one
    of a stored conversation begins again when that is here."""
    authenticate(call, runtime.authenticator)
    turn = call.turn
    if turn is None and call.face is RESPONSES:
        return recall(call, runtime, lambda c, r: _guarded(c, r, _enter), refuse)
    if RECEIPT in call.request.headers or runtime.receipts.always:
        runtime.receipts.promise(call)
    receive(call, runtime.body_limits)
    resolve(call, runtime)
    if turn is not None:
        turn.settle(call)
    authorize(call, runtime)
    if IDEMPOTENCY_KEY in call.request.headers:
        claiming = Claiming(call, key_of(call), runtime, lambda c, r: _guarded(c, r, _admit), refuse)
        claiming.begin()
        return claiming
    return _admit(call, runtime)


def _admit(call: Call, runtime: Runtime) -> Exchange | None:
    """Room, limits, candidates, budgets."""
    admit(call, runtime)
    try:
        route(call, runtime)
    except EngineStarting as error:
        if not may_wait(call, runtime):
            raise
        cold = ColdStart(call, runtime, error, lambda c, r: _guarded(c, r, _enter), refuse)
        cold.begin()
        return cold
    if budgeted(call):
        short = reserve(call, runtime)
        if short is not None:
            waiting = Waiting(call, runtime, lambda c, r: _guarded(c, r, _run), refuse)
            waiting.begin(short)
            return waiting
    return _run(call, runtime)


def _run(call: Call, runtime: Runtime) -> Run:
    record_intent(call, runtime.log)
    if call.face is not OPENAI:
        call.answer = call.face.answer(call)
    else:
        call.answer = call.sink
    if call.alias is not None and call.alias.shadow is not None:
        beside(call, runtime)
    judged(call, runtime)
    assert call.target is not None  # noqa: S101 - stage order
    run = CascadeRun(call, runtime) if call.target.steps else Run(call, runtime)
    try:
        run.begin()
    except Exception:
        log.exception("call not begun", extra={"request_id": call.id})
        run.cut(call.defect())
    return run


def refuse(call: Call, error: InterlockError, runtime: Runtime) -> None:
    """Answer with the error once its record is durable; settle what was reserved."""
    metrics = runtime.metrics
    if call.identity is not None and runtime.log.refusal is not None:
        # What cannot be recorded gets no other answer, and a log that is full must not grow by refusals.
        error = runtime.log.refusal
    if call.admission is not None:
        runtime.limits.settle(call.admission, 0, runtime.clock.mono_ns())
        call.admission = None
    if call.hold is not None:
        runtime.treasury.release(call.hold)
        call.hold = None
    if error.code.startswith("budget_"):
        metrics.budget_refusals.add((error.code,))
    outcome = "refused" if call.identity is not None else "unauthenticated"
    metrics.requests.add((call.operation, outcome))
    metrics.denials.add((error.code,))
    error.request_id = call.id
    status, headers, body = call.face.error(error)
    headers += call.id_headers()
    if error.level >= logging.ERROR:
        log.log(error.level, "call refused", extra={"request_id": call.id, "code": error.code})
    if call.identity is None or isinstance(error, LogError):
        _tell(call, error, status, headers, body)
        return
    try:
        seq = record_refusal(call, error, runtime.log)
    except LogError:
        # The log is what refuses: the caller is told so, and nothing was done that a record would speak of.
        _tell(call, error, status, headers, body)
        return

    line = runtime.receipts.line(call, status, call.face.name) if call.receipt is not None else b""

    def durable(log_error: LogError | None) -> None:
        # Also when it cannot become durable: a refusal gives nothing away, and the caller must not be left waiting.
        # An earlier answer does: it leaves with a durable record only (P1).
        if log_error is not None and isinstance(error, Replayed):
            call.sink.respond(*call.face.error(log_error))
        else:
            _tell(call, error, status, headers + line if log_error is None else headers, body)

    runtime.log.on_durable(seq, durable)


def _tell(call: Call, error: InterlockError, status: int, headers: bytes, body: bytes) -> None:
    """Answer with an error: whole, or in the stream that has begun while the call waited."""
    if not call.begun:
        call.sink.respond(status, headers, body)
        return
    call.sink.write(call.face.error_event(error))
    call.sink.abort()
