"""Calls whose answers are judged, for the learned router: scored by a judge, and compared with a challenger's.

What is asked of a judge, and what a challenger is sent, are calls of their own beside the first (see
`interlock.gateway.aside`), one after the other: a score of the answer; on a share of these the same with a question
that nobody asked (a control); the same call at another of its candidates (a challenger), which answer is better, and on
a share a control of the challenger's. Figures go into the judge's outcome; the learner makes of them what they are
worth.
No model judges what a model of its name has said.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from interlock.gateway.aside import Aside, Beside, Both, Copy, Dropped, free
from interlock.gateway.call import Call
from interlock.gateway.compare import said
from interlock.gateway.faces.openai import OPENAI
from interlock.gateway.http.exchange import Request
from interlock.gateway.idempotency import IDEMPOTENCY_KEY
from interlock.gateway.shadow import again
from interlock.gateway.stages.resolve import resolve, stand_for
from interlock.metering.book import TenantBook
from interlock.routing import judged as draws
from interlock.routing.explore import DOUBT_MAX_MICRO
from interlock.types.identity import DataClass, Recording, Workload
from interlock.types.learned import arm_of
from interlock.types.record import Judgement
from interlock.wire import judge as asking
from interlock.wire.openai import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.gateway.attempt import Attempt
    from interlock.gateway.identify import Identity
    from interlock.gateway.run import Run
    from interlock.gateway.runtime import Runtime
    from interlock.types.identity import Judging, Tenant
    from interlock.types.record import Outcome
    from interlock.types.source import Offer

CHAT = "chat"
KIND = "judge"
"""Of budgets that are on what is asked of a judge, and on challengers."""
PATH = "/v1/chat/completions"
VERDICT_BYTES_MAX = 65_536
"""Of a judge's answer; a larger one is no verdict."""
READABLE = frozenset(("chat", "json_schema", "logprobs"))
"""What a call may need whose question and answer are text alone."""
_FULL, _METADATA = int(Recording.full), int(Recording.metadata)
SCORE, CONTROL, PREFERENCE, CHALLENGER = "score", "control", "preference", "challenger"
PREFERRED = {asking.FIRST: "first", asking.SECOND: "challenger", asking.TIE: "tie"}
TURNED = {asking.FIRST: "challenger", asking.SECOND: "first", asking.TIE: "tie"}
"""What a verdict says when the challenger's answer was shown first."""


class Answer(NamedTuple):
    """An answer that is judged: of which call, by which model."""

    request: str
    model: str
    text: str


def judged(call: Call, runtime: Runtime) -> None:
    """See to it that a call which is about to run is judged, if its tenant wants that, and it is drawn."""
    identity, parsed = call.identity, call.parsed
    assert identity is not None and parsed is not None  # noqa: S101 - stage order
    judging = judging_of(call.state.view.tenant(identity.tenant_id))
    if judging is None or call.operation != CHAT:
        return
    score, challenge = draws.scored(judging, call.seed), draws.challenged(judging, call.seed) and _open(call, runtime)
    if not score and not challenge:
        return
    if call.recording >= _METADATA or IDEMPOTENCY_KEY in call.request.headers or not READABLE.issuperset(parsed.needs):
        return
    if len(runtime.judged) >= runtime.settings.judge_calls_max:
        runtime.metrics.judge_dropped.add(("saturated",))
        return
    mine = Judged(call, runtime, judging, score=score, challenge=challenge)
    call.beside = Both(call.beside, mine) if call.beside is not None else mine


def judging_of(tenant: Tenant | None) -> Judging | None:
    """What judges a tenant's answers; None where nothing is learned of it."""
    return tenant.judging if tenant is not None and tenant.learning != "off" else None


def _open(call: Call, runtime: Runtime) -> bool:
    """Whether there was a choice of models for it, and its data class lets another one be tried."""
    assert call.route is not None and call.target is not None and call.data_class is not None  # noqa: S101
    if call.target.steps or call.data_class > DataClass[runtime.settings.explore_data_class_max]:
        return False
    return len({call.offer(each.offer).model.name for each in call.route.candidates}) > 1


class Judged(Beside):
    """One call, until all that is asked of its answer is over: one thing at a time."""

    def __init__(self, first: Call, runtime: Runtime, judging: Judging, *, score: bool, challenge: bool) -> None:
        self.first = first
        self.runtime = runtime
        self.judging = judging
        self._score, self._challenge = score, challenge
        self._steps: deque[Aside] = deque()
        self._answer: Answer | None = None
        assert first.parsed is not None  # noqa: S101 - it is about to run
        self._streamed = first.parsed.stream  # as it is asked: a cascade puts what it asks of a step in its place
        first.answer = self._kept = Copy(runtime.settings.judge_answer_bytes_max, first.answer)
        runtime.judged.add(self)

    def over(self, attempt: Attempt | None) -> None:
        """See Beside."""
        first = self.first
        first.beside = None
        if self._kept.whole and attempt is not None:
            if self._kept.larger:
                self.dropped("answer_too_large")
            else:
                self._plan(attempt.offer)
        self.next()

    def _plan(self, offer: Offer) -> None:
        """What is asked of the answer that this offer gave."""
        heard = said(self._kept.data, streamed=self._streamed)
        if heard is None:
            self.dropped("unreadable")
            return
        answer = self._answer = Answer(self.first.id, offer.model.name, heard.text)
        if self._score:
            self._steps.append(Asking(self, SCORE, answer))
            if draws.controlled(self.judging, self.first.seed):
                self._steps.append(Asking(self, CONTROL, answer))
        if self._challenge:
            self._steps.append(Challenging(self, offer))

    def challenged(self, answer: Answer) -> None:
        """The challenger has answered."""
        assert self._answer is not None  # noqa: S101 - `_plan`
        self._steps.append(Asking(self, PREFERENCE, self._answer, answer))
        if draws.probed(self.judging, self.first.seed):
            self._steps.append(Asking(self, CONTROL, answer))
            if not self._score:  # a preference says nothing as long as there are no controls of both
                self._steps.append(Asking(self, CONTROL, self._answer))

    def next(self) -> None:
        """Go on with what is to be asked next, if anything is."""
        if self._steps:
            self._steps.popleft().soon()
        else:
            self.runtime.judged.discard(self)

    def dropped(self, reason: str) -> None:
        """Count why something is not asked."""
        self.runtime.metrics.judge_dropped.add((reason,))

    def identity(self) -> Identity:
        """Who called, with the budgets that this counts on instead. Raises Dropped when nothing is judged any more."""
        identity, view = self.first.identity, self.runtime.state.view
        assert identity is not None  # noqa: S101 - it ran
        now = judging_of(view.tenant(identity.tenant_id))
        if now is None or now.model != self.judging.model:
            raise Dropped("changed")
        book = view.book.of(identity.tenant_id)
        return identity._replace(budgets=book.of_judge(identity.tenant_id, now.model), book=TenantBook(book.zone))


class _Step(Aside):
    """One thing that is asked."""

    kind = KIND

    def __init__(self, of: Judged, what: str) -> None:
        super().__init__(of.first, of.runtime, of.dropped)
        self._of = of
        self._what = what
        self._over = False

    def done(self) -> None:
        """See Aside."""
        if not self._over:
            self._over = True
            self._of.next()


class Asking(_Step):
    """A question to the judge: what an answer is worth, or which of two is better."""

    def __init__(self, of: Judged, what: str, *answers: Answer) -> None:
        super().__init__(of, what)
        self._answers = answers
        self._turned = False

    def make(self) -> Call:
        """See Aside."""
        first, runtime, state = self._first, self._runtime, self._runtime.state
        identity, log = self._of.identity(), runtime.log
        request = Request("POST", PATH, {}, b"", first.request.peer, runtime.clock.mono_ns())
        call = Call(CHAT, OPENAI, request, Copy(VERDICT_BYTES_MAX), state, log.epoch, log.next_call())
        call.unasked = True
        call.wall_ns = runtime.clock.wall_ns()
        call.seed = runtime.seed(call.number)
        call.judge_of = self._answers[0].request
        call.judge_against = self._answers[1].request if len(self._answers) > 1 else ""
        call.identity = identity
        body = request.body = self._body(call.seed)
        if len(body) > runtime.settings.judge_prompt_bytes_max:
            raise Dropped("prompt_too_large")
        parsed = call.parsed = parse(CHAT, body, runtime.body_limits)
        assert first.data_class is not None  # noqa: S101 - it ran
        # What is asked holds the caller's question and answer: it is as sensitive, and kept no longer than either is.
        parsed.data_class = first.data_class.name
        parsed.recording = (Recording.full if first.recording == _FULL else Recording.metadata).name
        parsed.workload = Workload.background.name  # whoever waits for an answer comes first
        resolve(call, runtime)
        call.trial = None  # what a judge does says nothing of a canary
        assert call.target is not None and call.features is not None  # noqa: S101 - resolved
        if call.target.steps:
            raise Dropped("cascade")
        call.reserved_tokens = call.features.prompt_tokens_max + call.features.completion_tokens_max
        return call

    def _body(self, seed: int) -> bytes:
        model, one = self._of.judging.model, self._answers[0]
        if self._what == CONTROL:
            return asking.score_body(model, asking.control(draws.question(seed)), one.text)
        assert self._first.parsed is not None  # noqa: S101 - it ran
        question = asking.conversation(self._first.parsed.fields)
        if question is None:
            raise Dropped("not_text")
        if self._what == SCORE:
            return asking.score_body(model, question, one.text)
        # INVARIANT: which place an answer has is drawn, so that a judge which prefers a place prefers nobody.
        self._turned = draws.turned(seed)
        two = self._answers[1]
        pair = (two.text, one.text) if self._turned else (one.text, two.text)
        return asking.preference_body(model, question, *pair)

    def may_answer(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """INVARIANT: no model judges what it said itself."""
        said_by = {answer.model for answer in self._answers}
        others = [offer for offer in offers if offer.model.name not in said_by]
        if not others:
            raise Dropped("own_answer")
        return others

    def heard(self, run: Run, kept: Copy) -> None:
        """See Aside."""
        heard = said(kept.data, streamed=False) if not kept.larger else None
        if heard is None:
            return
        if self._what == PREFERENCE:
            found = asking.preferred(heard.text)
            if found is not None:
                told = (TURNED if self._turned else PREFERRED)[found]
                run.judged = Judgement(asking.VERSION, preferred=told)
                self._heed(run)
            return
        score = asking.score_micro(heard.text)
        if score is not None:
            run.judged = Judgement(asking.VERSION, score, control=self._what == CONTROL)
            if self._what == SCORE:
                self._heed(run)

    def _heed(self, run: Run) -> None:
        """Count a verdict that counts for nothing, as its judge was found to agree with nobody."""
        runtime, identity = self._runtime, self._first.identity
        assert run.last_attempt is not None and identity is not None  # noqa: S101 - it answered
        model = run.last_attempt.offer.model
        if arm_of(model) in runtime.learned.unheeded(runtime.state.view, identity.tenant_id):
            runtime.metrics.judge_unheeded.add((model.name,))

    def ended(self, outcome: Outcome) -> None:
        """See Aside."""
        unread = outcome.state == "completed" and outcome.judged is None
        self._runtime.metrics.judge_calls.add((self._what, "unreadable" if unread else outcome.state))


class Challenging(_Step):
    """The first call once more, at another model that it might have gone to."""

    def __init__(self, of: Judged, by: Offer) -> None:
        super().__init__(of, CHALLENGER)
        self._by = by
        self._most = of.runtime.settings.judge_answer_bytes_max

    def make(self) -> Call:
        """See Aside."""
        first = self._first
        identity = self._of.identity()
        offer = self._whom(paid=any(budget.kind == KIND for budget in identity.budgets))
        call = again(first, self._runtime, Copy(self._most))
        call.challenger_of = first.id
        call.identity = identity
        assert call.parsed is not None and call.features is not None  # noqa: S101 - `again`
        # By its name as a pin, so that the decision can be made again from what is on record.
        call.parsed = replace(call.parsed, model=offer.key, native=None)
        call.features = replace(call.features, asked=offer.key, signals=b"", affinity=0, workload=Workload.background)
        stand_for(call, None, "")
        return call

    def _whom(self, *, paid: bool) -> Offer:
        """One of the candidates of that decision that is of another model, drawn by how much is in doubt about each.
        `paid`: there is a budget for it."""
        first = self._first
        assert first.route is not None  # noqa: S101 - it ran
        offers = [first.offer(each.offer) for each in first.route.candidates]
        # The judge itself would leave nobody to judge.
        barred = (self._by.model.name, self._of.judging.model)
        others = [o for o in offers if o.model.name not in barred and _priced(o)]
        if others and not paid:
            others = free(first, others)
            if not others:
                raise Dropped("no_budget")
        firsts: dict[str, Offer] = {}
        for offer in others:
            firsts.setdefault(arm_of(offer.model), offer)
        if not firsts:
            raise Dropped("no_challenger")
        estimates = self._runtime.learned.estimated(first)
        doubt = estimates.doubt_micro if estimates is not None else {}
        number = draws.whom([doubt.get(arm, DOUBT_MAX_MICRO) for arm in firsts], first.seed)
        return list(firsts.values())[number]

    def heard(self, run: Run, kept: Copy) -> None:
        """See Aside."""
        assert run.last_attempt is not None and self._first.parsed is not None  # noqa: S101 - it answered
        heard = said(kept.data, streamed=self._first.parsed.stream) if not kept.larger else None
        if heard is None:
            self._of.dropped("answer_too_large" if kept.larger else "unreadable")
        else:
            self._of.challenged(Answer(run.call.id, run.last_attempt.offer.model.name, heard.text))

    def ended(self, outcome: Outcome) -> None:
        """See Aside."""
        self._runtime.metrics.judge_calls.add((CHALLENGER, outcome.state))


def _priced(offer: Offer) -> bool:
    """What a call there costs is known; where it is not, nothing is tried for the sake of learning."""
    return offer.model.price.origin != "none" or offer.source.labels.on_prem
