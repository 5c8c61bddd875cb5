"""Compares what clients received with what the record log holds. Each way in which they differ is one sentence."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable

from interlock.ledger.reader import find_call
from interlock.types.record import Outcome, parse_request_id

from .books import Books, CallBook, EpochBook
from .client import Received
from .script import CASCADE, CHEAP, DEAR, FAR, SHAKY, Said, asked, enough, expected, marker_of, said_by

DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass(frozen=True, slots=True)
class PowerLoss:
    """All processes died at `at_ns` (monotonic), and of what was not durable a part is gone.

    Text that a client received at most `text_ms_max` before may be missing from the log; nothing else.
    """

    at_ns: int
    text_ms_max: float


@dataclasses.dataclass(slots=True)
class Verdict:
    """What a comparison found. `figures` are counts, `text_lost_ms` the age of the oldest text a power loss took."""

    failures: list[str] = dataclasses.field(default_factory=list)
    figures: Counter[str] = dataclasses.field(default_factory=Counter)
    text_lost_ms: float = 0.0


class Judge:
    """Judges rounds over one log. `books` is brought up to date by the caller."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.ended: set[str] = set()
        """Request ids of all calls whose end a client has ever seen: their outcome must stay for good."""

    # -- what clients received

    def clients(self, received: Iterable[Received], loss: PowerLoss | None, verdict: Verdict) -> None:
        """No byte without a record, no end without its outcome, and nothing that the source did not say."""
        for each in received:
            verdict.figures["calls"] += 1
            verdict.figures[_what(each)] += 1
            verdict.figures["bytes"] += len(each.body)
            if each.broke == "timeout":
                verdict.failures.append(f"{each.request_id or each.asked.marker}: no answer in time")
            if each.status == 0:
                continue  # not a byte of an answer
            for words in self._client(each, loss, verdict):
                verdict.failures.append(f"{each.request_id or each.asked.marker}: {words}")
        for book in self.books.epochs.values():
            book.drop_places()

    def _client(self, each: Received, loss: PowerLoss | None, verdict: Verdict) -> Iterable[str]:
        try:
            call = self.books.call(*parse_request_id(each.request_id))
        except ValueError:
            yield f"answer {each.status} without a request id"
            return
        if call is None:
            yield f"answer {each.status} without any record"
            return
        if each.status != 200:
            end = call.outcome or call.refusal
            if end is None or end.status != each.status:
                yield f"answer {each.status}, but the record says {end.status if end else 'nothing'}"
            return
        if call.intent is None or not call.attempts:
            yield "bytes without Intent and Attempt"
            return
        if marker_of(json.loads(call.intent.body)) != each.asked.marker:
            yield "the Intent is of another call"
        if each.asked.stream:
            yield from self._stream(each, call, loss, verdict)
        else:
            yield from self._whole(each, call)

    def _whole(self, each: Received, call: CallBook) -> Iterable[str]:
        outcome = call.outcome
        if outcome is None or outcome.state != "completed":
            yield "bytes of an unstreamed answer without a completed Outcome"
            return
        yield from self._durable(call, call.outcome_place, each.head_ns, "Outcome of an unstreamed answer")
        if not outcome.body.startswith(bytes(each.body)) or outcome.body != expected(each.asked.marker).body:
            yield "the body differs from what the record holds or the source sent"
        if each.ended:
            self.ended.add(call.id)
            if bytes(each.body) != outcome.body:
                yield "the whole body differs from the recorded one"

    def _stream(self, each: Received, call: CallBook, loss: PowerLoss | None, verdict: Verdict) -> Iterable[str]:
        yield from self._durable(call, call.attempts[-1][1], each.head_ns, "Attempt")
        want = expected(each.asked.marker)
        body, position, touched = bytes(each.body), 0, 0
        while touched < len(want.pieces) and position < len(body):
            piece = want.pieces[touched]
            if body[position : position + len(piece)] != piece[: len(body) - position]:
                break
            position = min(position + len(piece), len(body))
            touched += 1
        verdict.figures["events"] += touched
        rest = body[position:]
        # A source that dies when all choices have finished leaves an answer that only lacks its usage.
        said_all = touched == len(want.pieces) or (_by(call) == SHAKY and touched > want.held_from)
        done = said_all and DONE.startswith(rest)
        error = rest.startswith(b'data: {"error"'[: len(rest)])
        if rest and not done and not error:
            yield f"byte {position} is not what the source sent: {rest[:60]!r}"
        yield from self._covered(each, call, touched, loss, verdict)
        yield from self._written(each, call, touched, verdict)
        if touched > want.held_from or (rest and done):
            start = sum(map(len, want.pieces[: want.held_from]))
            if call.outcome is None or call.outcome.state != "completed":
                yield "the end of a stream without a completed Outcome"
            else:
                seen_ns = each.at(start + 1)
                yield from self._durable(call, call.outcome_place, seen_ns, "Outcome of a stream")
        elif rest and error and (call.outcome is None or call.outcome.state not in ("failed", "cut")):
            yield "an error event without its Outcome"
        if each.ended:
            self.ended.add(call.id)
            if rest != DONE:
                yield "a stream that ended without [DONE]"

    def _written(self, each: Received, call: CallBook, touched: int, verdict: Verdict) -> Iterable[str]:
        """Each event's text had been written to the log before a client received its first byte."""
        speaking = start = 0
        for piece in expected(each.asked.marker).pieces[:touched]:
            if said_by([piece]):
                # Events that say nothing may be recorded too, so that this chunk is the event's own or one before it.
                speaking += 1
                if speaking <= len(call.chunk_places):
                    verdict.figures["events with text"] += 1
                    written_ns = self.books.written_ns(call.epoch, call.chunk_places[speaking - 1])
                    if written_ns is None or written_ns > each.at(start + 1):
                        yield f"event {speaking} was received before its record was written"
                        return
            start += len(piece)

    def _covered(
        self, each: Received, call: CallBook, touched: int, loss: PowerLoss | None, verdict: Verdict
    ) -> Iterable[str]:
        """All that was received is in the record; after a power loss all but the newest."""
        want = expected(each.asked.marker)
        pieces = want.pieces
        if want.recorded:
            if touched and (call.outcome is None or call.outcome.body != want.recorded):
                yield "received events of an answer that is not in the record"
            return
        if _within(said_by(list(pieces[:touched])), call.said):
            return
        if loss is None or call.outcome is not None:
            yield f"received text that is not in the record ({touched} events)"
            return
        low = touched
        while not _within(said_by(list(pieces[:low])), call.said):
            low -= 1
        first_lost = sum(map(len, pieces[:low])) + 1
        lost_ms = (loss.at_ns - each.at(first_lost)) / 1e6
        verdict.text_lost_ms = max(verdict.text_lost_ms, lost_ms)
        verdict.figures["streams shortened by power loss"] += 1
        if lost_ms > loss.text_ms_max:
            yield f"text received {lost_ms:.0f} ms before the loss of power is not in the record"

    def _durable(self, call: CallBook, place: tuple[int, int], seen_ns: int, what: str) -> Iterable[str]:
        """The record had been made durable before a client saw what depends on it."""
        durable_ns = self.books.durable_ns(call.epoch, place)
        if durable_ns is None:
            yield f"{what} was never made durable"
        elif durable_ns > seen_ns:
            yield f"{what} was durable only {(durable_ns - seen_ns) / 1e6:.3f} ms after the client saw it"

    # -- what sources were asked

    def sources(self, notes: Iterable[dict[str, object]], killed: set[str], verdict: Verdict) -> None:
        """Every request that a source got has its Attempt; outside the trust boundary it was durable before."""
        for note in notes:
            verdict.figures["upstream requests"] += 1
            request_id, source, at_ns = str(note["request_id"]), str(note["source"]), int(str(note["at_ns"]))
            epoch, number = parse_request_id(request_id)
            call = self.books.call(epoch, number)
            places = [place for a, place in call.attempts if a.source == source] if call is not None else []
            if call is not None and places:
                if source == FAR:
                    verdict.figures["off-premises requests"] += 1
                    for words in self._durable(call, places[0], at_ns, "Attempt off-premises"):
                        verdict.failures.append(f"{request_id}: {words}")
            elif source != FAR and epoch in killed:
                # On-prem the record may overlap the call: it was still in the worker's buffer when that was killed.
                verdict.figures["on-prem requests whose record died with the worker"] += 1
            else:
                verdict.failures.append(f"{request_id}: source {source} was asked, and no Attempt is in the record")

    # -- what the log says by itself

    def log(self, verdict: Verdict, seen: dict[str, int]) -> None:
        """Every call has one end, every dead epoch one recovery, and no record is missing.

        `seen`: epochs that were judged before, by number of records; those without news are passed over.
        """
        recovered = Counter(r.epoch for book in self.books.epochs.values() for r in book.recovered)
        for epoch, book in self.books.epochs.items():
            verdict.failures.extend(book.problems)
            book.problems.clear()
            if recovered[epoch] > 1:
                verdict.failures.append(f"epoch {epoch}: recovered {recovered[epoch]} times")
            if seen.get(epoch) == book.records and self.books.is_over(epoch):
                continue
            seen[epoch] = book.records if self.books.is_over(epoch) else -1
            for call in book.calls.values():
                for words in _ends(call):
                    verdict.failures.append(f"{call.id}: {words}")
        for book in self.books.epochs.values():
            for record in book.recovered:
                dead = self.books.epochs[record.epoch]
                count = sum(1 for call in dead.calls.values() if call.interrupted)
                if (record.interrupted, record.last_seq) != (count, dead.last_seq):
                    verdict.failures.append(
                        f"epoch {record.epoch}: recovery says {record.interrupted} interrupted up to record"
                        f" {record.last_seq}, the log {count} up to {dead.last_seq}"
                    )

    def kept(self, verdict: Verdict, of: set[str]) -> None:
        """The outcome of every call that ever ended at a client is still there, in these epochs."""
        for request_id in self.ended:
            epoch, number = parse_request_id(request_id)
            if epoch in of:
                call = self.books.call(epoch, number)
                if call is None or call.outcome is None or call.outcome.state != "completed":
                    verdict.failures.append(f"{request_id}: ended at its client, and its Outcome is gone")

    def looked_up(self, request_ids: Iterable[str], verdict: Verdict) -> None:
        """`find_call` finds the same as a reader of the whole log."""
        for request_id in request_ids:
            verdict.figures["looked up"] += 1
            call = self.books.call(*parse_request_id(request_id))
            found = find_call(self.books.folder, request_id)
            if (found is None) != (call is None):
                verdict.failures.append(f"{request_id}: found by only one of look-up and reading")
            elif found is not None and call is not None:
                same = (found.intent, found.outcome, found.refusal, len(found.chunks), len(found.attempts)) == (
                    call.intent, call.outcome, call.refusal, call.chunks, len(call.attempts)
                )  # fmt: skip
                if not same or (found.interrupted is not None) != bool(call.interrupted):
                    verdict.failures.append(f"{request_id}: a look-up finds something else than reading")


def _ends(call: CallBook) -> Iterable[str]:
    """How one call ended, and whether its records agree with each other."""
    if call.refusal is not None:
        return
    if call.intent is None:
        yield "records without an Intent"
        return
    outcome = call.outcome
    if outcome is None and len(call.interrupted) != 1:
        yield f"no Outcome, and found interrupted {len(call.interrupted)} times"
    if outcome is not None and call.interrupted:
        yield f"has an Outcome ({outcome.state}) and was found interrupted"
    for interrupted in call.interrupted:
        spent = sum(step.cost.nusd for step in call.steps)
        reserved = call.running.reserved.nusd if call.running is not None else 0
        if call.steps and interrupted.cost.nusd != spent + reserved:
            yield f"Interrupted costs {interrupted.cost.nusd}, its steps {spent}, and {reserved} were reserved"
        says = (interrupted.attempt, interrupted.chunks, interrupted.text_bytes, interrupted.reserved_tokens)
        is_so = (len(call.attempts) - 1, call.chunks, call.text_bytes, call.intent.reserved_tokens)
        if says != is_so:
            yield f"Interrupted says {says}, the log {is_so}"
    if outcome is not None:
        yield from _outcome(call, outcome)


def _outcome(call: CallBook, outcome: Outcome) -> Iterable[str]:
    assert call.intent is not None
    if outcome.chunks != call.chunks or (call.chunks and outcome.chunks_sha256 != call.digest):
        yield f"the Outcome counts {outcome.chunks} chunks, the log has {call.chunks}, or their hash differs"
    marker = marker_of(json.loads(call.intent.body))
    if asked(marker).model == CASCADE:
        yield from _steps(call, outcome, marker)
    if outcome.state != "completed":
        return
    if asked(marker).model != CASCADE and len(call.ends) != len(call.attempts) - 1:
        yield f"completed by attempt {outcome.attempt} of {len(call.attempts)}, of which {len(call.ends)} failed"
    if outcome.attempt != len(call.attempts) - 1:
        yield f"completed by attempt {outcome.attempt} of {len(call.attempts)}"
    want = expected(marker)
    recorded = want.recorded or (b"" if asked(marker).stream else want.body)
    if not recorded and call.said != said_by(list(want.pieces)):
        yield "the recorded text is not what the source sent"
    if outcome.body != recorded:
        yield "the recorded body is not what the source sent"
    if outcome.usage.origin != "engine" and outcome.source != SHAKY:  # that one may die just before it tells
        yield f"usage {outcome.usage} is not the source's"


def _steps(call: CallBook, outcome: Outcome, marker: str) -> Iterable[str]:
    """Each step of a cascade that is over is in the log once, and the call cost what they did together."""
    rest = 0 if call.running is None else call.running.reserved.nusd
    spent = sum(step.cost.nusd for step in call.steps)
    known = call.running is None or outcome.usage.origin == "reserved"
    if outcome.cost.nusd < spent or (known and outcome.cost.nusd != spent + rest):
        yield f"it costs {outcome.cost.nusd}, its steps {spent}, and {rest} were reserved"
    if outcome.state != "completed":
        return
    told = [(step.model, step.passed) for step in call.steps]
    if told != ([(CHEAP, True)] if enough(marker) else [(CHEAP, False), (DEAR, True)]):
        yield f"its steps are {told}"
    if call.running is not None or len(call.ends) + len(call.steps) != len(call.attempts):
        yield f"{len(call.attempts)} attempts, of which {len(call.steps)} were steps and {len(call.ends)} failed"
    if outcome.cost.nusd != spent or not spent:
        yield f"it costs {outcome.cost.nusd}, and its steps {spent}"
    if outcome.usage.total_tokens != sum(step.usage.total_tokens for step in call.steps):
        yield f"it used {outcome.usage.total_tokens} tokens, which is not what its steps did"


def _within(received: Said, recorded: Said) -> bool:
    return all(recorded.get(key, "").startswith(text) for key, text in received.items())


def _by(call: CallBook) -> str:
    """The source that answered, "" when none did."""
    return call.outcome.source if call.outcome is not None else ""


def _what(each: Received) -> str:
    if each.ended and each.status == 200:
        return "completed at the client"
    if each.ended:
        return f"answered {each.status}"
    if each.left:
        return "left by the client"
    return "cut off within the answer" if each.status else "cut off before the answer"


__all__ = ["EpochBook", "Judge", "PowerLoss", "Verdict"]
