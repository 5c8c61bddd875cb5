"""`POST /v1/feedback`: what the caller of a call says of its answer.

    Giving -- FeedbackClaim --> node: own -------> recorded, 200 when that is durable
                                      same ------> 200: it was said before, and counts
                                      given -----> 409: something else of the kind was said before
                                      arriving --> recorded, 202: there is no such call yet, and it may come
                                      missing ---> 404: no such call, or not the caller's
                                      (no answer)  recorded, 202: the database is away

Only the principal of a call and the one it acted for are heard; everybody else is told what they would be told of a
call that there never was. Saying the same again changes nothing and gets the same answer, so that a caller may repeat
what it does not know the end of. It counts on the caller's limits as one call without tokens, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from interlock.errors import BadRequest, Conflict, InterlockError, LogError, NotFound, Unavailable
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.http.exchange import header_line
from interlock.gateway.http.protocol import method_not_allowed
from interlock.gateway.link import FeedbackAnswer, FeedbackClaim
from interlock.gateway.stages.authenticate import identity_of
from interlock.gateway.stages.authorize import fresh_enough
from interlock.ledger.folder import epoch_ms, is_epoch
from interlock.metering.limits import LimitHit
from interlock.types.feedback import CORRECTED, SCORE, THUMB, Given
from interlock.types.identity import Recording
from interlock.types.record import Feedback, parse_request_id, request_id
from interlock.wire.feedback import parse

if TYPE_CHECKING:
    from interlock.gateway.http.exchange import Exchange, Request, Sink
    from interlock.gateway.identify import Identity
    from interlock.gateway.runtime import Runtime

PATH = "/v1/feedback"
JSON = b"content-type: application/json\r\n"
NUMBER_MAX = (1 << 62) - 1
SKEW_MS = 60_000
"""How far another node's clock may be ahead of ours."""


class Feedbacks:
    """A worker's feedback that waits for the node."""

    def __init__(self, epoch: str, tell: Callable[[FeedbackClaim], bool]) -> None:
        self.epoch = epoch
        self._tell = tell
        self._number = 0
        self._waiting: dict[int, Giving] = {}

    def ask(self, giving: Giving) -> int:
        """Ask for the call that it is of; the number of the question."""
        self._number += 1
        self._waiting[self._number] = giving
        if not self._tell(giving.message(self._number)):
            self.answered(FeedbackAnswer(self.epoch, self._number, "unavailable"))
        return self._number

    def answered(self, message: FeedbackAnswer) -> None:
        """The node's answer."""
        giving = self._waiting.pop(message.number, None)
        if giving is not None and message.epoch == self.epoch:
            giving.answered(message)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(number, None)


def serve(request: Request, sink: Sink, runtime: Runtime) -> Exchange | None:
    """Take one feedback. Returns the exchange while the answer is owed."""
    given: Given | None = None
    try:
        if request.method != "POST":
            raise method_not_allowed(request.method, request.path, "POST")
        identity = identity_of(request.headers, runtime.state.view, runtime.authenticator)
        fresh_enough(identity.caller.data_class, runtime.clock.wall_ns(), runtime)
        given = _read(request, runtime)
        _room(runtime)
        giving = Giving(given, identity, sink, runtime)
        giving.begin()
    except InterlockError as error:
        _count(runtime, given, error.code)
        sink.respond(*OPENAI.error(error))
        return None
    return giving


def _read(request: Request, runtime: Runtime) -> Given:
    kind = request.headers.get(b"content-type", b"application/json")
    if not kind.lower().startswith(b"application/json"):
        raise BadRequest("Send the body as content-type application/json.", code="unsupported_content_type")
    settings = runtime.settings
    return parse(request.body, settings.feedback_corrected_bytes_max, settings.feedback_comment_bytes_max)


def _room(runtime: Runtime) -> None:
    if runtime.draining:
        raise Unavailable("This gateway is shutting down; try again.", code="draining")
    if runtime.log.refusal is not None:
        raise runtime.log.refusal
    if len(runtime.runs) + len(runtime.waiting) >= runtime.settings.calls_max:
        raise Unavailable("This worker is busy; try again.", code="overloaded", headers={"retry-after": "1"})


def named(text: str) -> tuple[str, int] | None:
    """(epoch, number) of a request id as we write them; None for anything else."""
    try:
        epoch, number = parse_request_id(text)
    except ValueError:
        return None
    ours = is_epoch(epoch) and 0 < number <= NUMBER_MAX and request_id(epoch, number) == text
    return (epoch, number) if ours else None


class Giving:
    """The exchange of a feedback, from its question to the node to its answer."""

    call_number = 0

    def __init__(self, given: Given, identity: Identity, sink: Sink, runtime: Runtime) -> None:
        """Raises NotFound for what is no request id of ours, LimitExceeded."""
        caller = identity.caller
        self._given = given
        self._identity = identity
        self._runtime = runtime
        self._sink: Sink | None = sink
        self._number = 0
        self._over = False
        self._delegator = caller.delegator.id if caller.delegator is not None else ""
        self.giver = self._delegator or caller.principal.id
        name = named(given.request)
        self._admission = None
        if identity.subjects:
            admission = runtime.limits.admit(identity.subjects, 0, runtime.clock.mono_ns())
            if isinstance(admission, LimitHit):
                runtime.metrics.limit_hits.add((admission.kind, admission.limit))
                raise admission.error()
            self._admission = admission
        if name is None:
            self._settle()
            raise _not_found(given.request)
        self._call_number = runtime.log.next_call()
        self.id = request_id(runtime.log.epoch, self._call_number)
        began_ms, now_ms = epoch_ms(name[0]), runtime.clock.wall_ns() // 1_000_000
        keep_ms = runtime.settings.feedback_waiting_s * 1000
        self._recent = now_ms - keep_ms <= began_ms <= now_ms + SKEW_MS
        self._deadline_ns = runtime.clock.mono_ns() + runtime.settings.feedback_wait_ms * 1_000_000

    def begin(self) -> None:
        """Ask whose call it is."""
        self._runtime.waiting.add(self)
        self._number = self._runtime.feedbacks.ask(self)

    def message(self, number: int) -> FeedbackClaim:
        """The question as it is sent. Texts do not leave the worker: a keyed hash tells whether they are the same."""
        given, runtime = self._given, self._runtime
        said = {THUMB: given.thumb, SCORE: str(given.score_micro), CORRECTED: given.text}
        digests = {
            kind: runtime.claims.derive(
                b"feedback",
                *(part.encode() for part in (self._identity.tenant_id, self.giver, given.request, kind, said[kind])),
                *(given.reason.encode(), given.comment.encode()),
            )
            for kind in given.kinds
        }
        return FeedbackClaim(
            *(runtime.feedbacks.epoch, number, self._identity.tenant_id, given.request, self.giver, self.id, digests),
            *(self._recent, given.thumb, given.score_micro),
        )

    def answered(self, message: FeedbackAnswer) -> None:
        """What comes of it."""
        if self._over:
            return
        self._leave()
        if message.state == "missing":
            self._refuse(_not_found(self._given.request))
        elif message.state == "given":
            self._refuse(
                Conflict(
                    f"Feedback of the kind {message.kind!r} was given on this call before; it stays as it is.",
                    code="feedback_given",
                    param=message.kind,
                )
            )
        elif message.state == "same":
            self._answer(200, "repeated")
        else:
            self._record(message)

    def told(self) -> None:
        """See Waits: it is no call."""

    def sweep(self, now_ns: int) -> None:
        """Go on without the node after a while: the ledger will find the call."""
        if now_ns >= self._deadline_ns and not self._over:
            self._runtime.feedbacks.forget(self._number)
            self.answered(FeedbackAnswer(self._runtime.feedbacks.epoch, self._number, "unavailable"))

    def end(self, error: InterlockError) -> None:
        """Give up now."""
        if not self._over:
            self._runtime.feedbacks.forget(self._number)
            self._leave()
            self._refuse(error)

    def on_disconnect(self) -> None:
        """See Exchange. What was said stays said."""
        self._sink = None

    def on_pause(self) -> None:
        """See Exchange."""

    def on_resume(self) -> None:
        """See Exchange."""

    def _record(self, message: FeedbackAnswer) -> None:
        log = self._runtime.log
        own = message.state == "own"
        status = 200 if own else 202
        try:
            seq = log.append(self._made(message, status, own=own))
        except LogError as error:
            self._refuse(error)
            return

        def durable(error: LogError | None) -> None:
            # INVARIANT: nobody is told that it was taken before it is on the disk.
            if error is not None:
                self._refuse(error)
            else:
                self._answer(status, "linked" if own else "accepted")

        log.on_durable(seq, durable)

    def _made(self, message: FeedbackAnswer, status: int, *, own: bool) -> Feedback:
        given, identity, caller = self._given, self._identity, self._identity.caller
        recording = max(identity.recording, _recording(message.recording) if own else 0)
        keeps = recording == Recording.full
        return Feedback(
            self._call_number,
            self._runtime.clock.wall_ns(),
            identity.tenant_id,
            identity.team_id,
            caller.principal.id,
            self._delegator,
            caller.auth_method,
            caller.credential_id,
            given.request,
            message.subject if own else self.giver,
            max(int(caller.data_class), message.data_class),
            recording,
            status,
            given.thumb,
            given.score_micro,
            bool(given.text),
            bool(given.comment),
            given.reason,
            given.text if keeps else "",
            given.comment if keeps else "",
        )

    def _answer(self, status: int, outcome: str) -> None:
        _count(self._runtime, self._given, outcome)
        self._settle()
        body = {
            "object": "feedback",
            "id": self.id,
            "request_id": self._given.request,
            "kinds": list(self._given.kinds),
            "linked": status == 200,
        }
        if self._sink is not None:
            headers = JSON + header_line(b"x-interlock-request-id", self.id.encode())
            self._sink.respond(status, headers, msgspec.json.encode(body))

    def _refuse(self, error: InterlockError) -> None:
        _count(self._runtime, self._given, error.code)
        self._settle()
        if self._sink is not None:
            self._sink.respond(*OPENAI.error(error))

    def _settle(self) -> None:
        admission, self._admission = self._admission, None
        if admission is not None:
            self._runtime.limits.settle(admission, 0, self._runtime.clock.mono_ns())

    def _leave(self) -> None:
        self._over = True
        self._runtime.waiting.discard(self)


def _recording(name: str) -> int:
    """How a call was recorded, as its entry names it. What is not known keeps nothing."""
    try:
        return int(Recording[name])
    except KeyError:
        return int(Recording.metadata)


def _count(runtime: Runtime, given: Given | None, outcome: str) -> None:
    for kind in given.kinds if given is not None else ("none",):
        runtime.metrics.feedback.add((kind, outcome))


def _not_found(request: str) -> NotFound:
    return NotFound(f"There is no call {request[:64]!r} of yours.", code="call_not_found", param="request_id")
