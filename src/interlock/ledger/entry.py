"""Entries of the ledger: what of a call goes into a tenant's tree, and what is encrypted beside it.

An entry's *leaf* is canonical JSON (keys sorted, integers and text only): who called, what was decided, what it took
and how it ended, by opaque ids. Nothing a person said, no name, and no hash that a guess could be checked against:
those are *contents*, encrypted under the subject's key, and the leaf holds the hashes of their ciphertexts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from interlock.ledger.charges import energy_of, interrupted, usage_of
from interlock.ledger.reader import CallRecords
from interlock.ledger.vault import ListNode, Sealed, SubjectKey
from interlock.types.identity import Recording, Workload
from interlock.types.record import Attempt, EnergyMeasured, Intent, Outcome, Refusal, Work, request_id
from interlock.types.slo import NOT_KNOWN, VERDICTS, Foreseen, altogether, measured, tighter
from interlock.types.usage import Cost, Energy, Usage

VERSION = 1
encode_leaf = msgspec.json.Encoder(order="sorted").encode
"""Canonical bytes of a leaf."""
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
PROMPT_FIELDS = ("messages", "prompt", "input")
LARGE_FIELDS = ("tools", "response_format", "system")
"""Fields of a request that are long and repeat from call to call: contents of their own."""
_RECORDINGS = {int(each): each.name for each in Recording}
_WORKLOADS = {each: each.name for each in Workload}


class Draft(NamedTuple):
    """An entry before it has its number: `leaf` lacks "epoch" and "n". `contents` and `lists` are its subject's."""

    tenant_id: str
    at_ns: int
    leaf: dict[str, Any]
    subject: str
    contents: list[Sealed]
    lists: list[ListNode]


def subject_of(record: Intent | Refusal) -> str:
    """Whose data a call is: the user that an agent or a service acts for, else the caller."""
    return record.delegator_id or record.principal_id


def recording_name(recording: int) -> str:
    """How a leaf names what was kept of a call."""
    return _RECORDINGS.get(recording) or str(recording)


def call_entry(call: CallRecords, at_ns: int, key: SubjectKey | None) -> Draft:
    """The entry of a call that ended, was refused, or was found interrupted. `key` None: its subject was erased since,
    and no content is kept."""
    if call.refusal is not None:
        return _refusal(call, call.refusal, at_ns, key)
    intent = call.intent
    assert intent is not None  # noqa: S101 - a call without a refusal has an intent
    chest = _Chest(key)
    _prompt(chest, intent.body)
    _answer(chest, call)
    _records(chest, call, intent)
    leaf: dict[str, Any] = {
        "v": VERSION,
        "tree": intent.tenant_id,
        "kind": "call",
        "at": at_ns,
        "clock": intent.wall_ns,
        "request": request_id(call.epoch, call.call),
        "who": {
            "subject": subject_of(intent),
            "team": intent.team_id,
            "principal": intent.principal_id,
            "kind": intent.principal_kind,
            "delegator": intent.delegator_id,
            "delegation": intent.delegation,
            "auth": intent.auth_method,
            "credential": intent.credential_id,
        },
        "what": {
            "operation": intent.features.operation,
            "model": intent.target.model,
            "alias": intent.target.alias,
            "mode": intent.target.mode,
            "data_class": int(intent.features.data_class),
            "stream": intent.features.stream,
            "class": intent.request_class,
            "dialect": intent.dialect,
            "recording": recording_name(intent.recording),
            "workload": _WORKLOADS[intent.features.workload],
        },
        "decided": {
            "snapshot": intent.snapshot_version,
            "root": intent.snapshot_root.hex(),
            "router": intent.route.router_version,
            "seed": intent.route.seed,
        },
        **_end(call, intent),
        "contents": chest.references,
    }
    if intent.route.best:
        leaf["decided"]["tried"] = True
    if intent.target.canary:
        leaf["what"]["arm"] = intent.target.canary
    for name in ("shadow_of", "judge_of", "judge_against", "challenger_of"):
        if request := getattr(intent, name):
            leaf[name] = request
    if call.outcome is not None:
        _verdicts(leaf, call.outcome)
    if intent.target.steps:
        leaf["cascade"] = _cascade(call, intent)
    if intent.charges:
        leaf["budgets"] = _charges(call, intent)
    if intent.receipt:
        leaf["receipt"] = intent.receipt
    _objectives(leaf, call, intent)
    _work(leaf, intent.work, key)
    _trials(leaf, intent)
    return Draft(intent.tenant_id, at_ns, leaf, subject_of(intent), chest.contents, chest.lists)


def _verdicts(leaf: dict[str, Any], outcome: Outcome) -> None:
    """How a shadow's answer compares; what a judge said."""
    if outcome.compared is not None:
        leaf["compared"] = msgspec.structs.asdict(outcome.compared)
    judged = outcome.judged
    if judged is not None:
        told: dict[str, Any] = {"prompt": judged.prompt, "control": judged.control}
        told |= {"preferred": judged.preferred} if judged.preferred else {"score_micro": judged.score_micro}
        leaf["result"]["judged"] = told


def _work(leaf: dict[str, Any], work: Work | None, key: SubjectKey | None) -> None:
    """What a call is a part of, names as keyed hashes; the names themselves are in the content `record`."""
    if work is None or key is None:
        return
    made: dict[str, Any] = {name: number for name in ("chunk", "chunks") if (number := getattr(work, name)) >= 0}
    for name in ("batch", "document"):
        if text := getattr(work, name):
            made[name] = key.mark(name.encode(), text).hex()
    leaf["work"] = made


def _objectives(leaf: dict[str, Any], call: CallRecords, record: Intent | Refusal) -> None:
    """What the call asked of where it goes, what was predicted where it went (of a refusal: at the best candidate), and
    what became of it."""
    features, target, route = record.features, record.target, record.route
    slo = tighter(features.slo if features is not None else None, target.slo if target is not None else None)
    if slo is None:
        return
    attempt = _where(call)
    offer = f"{attempt.source}::{attempt.model}" if attempt is not None else ""
    pairs = zip(route.candidates, route.foreseen, strict=False) if route is not None else ()
    predicted = {candidate.offer: seen for candidate, seen in pairs}
    seen = predicted.get(offer) if offer else next(iter(predicted.values()), None)
    told: dict[str, Any] = {**msgspec.structs.asdict(slo), "predicted": _foreseen(seen)}
    outcome = call.outcome
    if outcome is not None:
        unpriced = outcome.cost.price == "none" and leaf["where"]["off_prem"]
        found = measured(
            slo,
            completed=outcome.state == "completed",
            first_us=outcome.first_byte_us,
            total_us=outcome.total_us,
            cost_nusd=NOT_KNOWN if unpriced else outcome.cost.nusd,
        )
        told |= {what: VERDICTS[verdict] for what, verdict in found.items()}
        told["outcome"] = VERDICTS[altogether(found.values())]
    leaf["slo"] = told


def _foreseen(seen: Foreseen | None) -> dict[str, Any]:
    seen = seen or Foreseen(NOT_KNOWN)
    verdict = VERDICTS[seen.verdict] if seen.verdict >= 0 else ""
    return {
        "verdict": verdict,
        "ttft_us": seen.ttft_us,
        "latency_us": seen.latency_us,
        "cost_nusd": seen.cost_nusd,
    }


def _charges(call: CallRecords, intent: Intent) -> list[dict[str, Any]]:
    """What each budget was charged."""
    outcome, attempt = call.outcome, call.attempts[-1] if call.attempts else None
    if outcome is not None:
        amounts = outcome.charged
    else:
        cost = call.interrupted.cost if call.interrupted is not None else Cost()
        steps = call.step_ends if call.interrupted is not None else ()
        over = any(step.attempt == attempt.number for step in steps) if attempt is not None else False
        ran = call.interrupted is not None and attempt is not None and not over
        own = msgspec.structs.replace(cost, nusd=cost.nusd - sum(step.cost.nusd for step in steps)) if steps else cost
        model = attempt.model if attempt is not None else ""
        amounts = interrupted(intent.charges, ran=ran, model=model, cost=own, steps=steps)
    return [
        {"budget": each.budget, "measure": each.measure, "start": each.start_s, "charged": amount}
        for each, amount in zip(intent.charges, amounts, strict=True)
    ]


def _cascade(call: CallRecords, intent: Intent) -> dict[str, Any]:
    """What a cascade's steps came to. `tried`: those that answered or were stopped, in their order."""
    outcome, attempts = call.outcome, {each.number: each for each in call.attempts}
    given = outcome.attempt if outcome is not None and outcome.state == "completed" else -1
    tried = []
    for step in call.step_ends:
        at = attempts.get(step.attempt)
        tried.append(
            {
                "step": step.step,
                "attempt": step.attempt,
                "source": at.source if at is not None else "",
                "model": step.model,
                "version": at.model_version if at is not None else "",
                "passed": step.passed,
                "given": step.attempt == given,
                "checks": list(step.checks),
                "code": step.code,
                **_took(step.usage, step.cost, step.energy),
            }
        )
    return {"steps": len(intent.target.steps), "stop": outcome.stop if outcome is not None else "", "tried": tried}


def energy_entry(measured: EnergyMeasured, epoch: str, tenant_id: str, at_ns: int) -> Draft:
    """The entry of a measurement that came after its call's: it takes the place of the estimate there."""
    leaf = {
        "v": VERSION,
        "tree": tenant_id,
        "kind": "energy",
        "at": at_ns,
        "request": request_id(epoch, measured.call),
        "energy": {"uj": measured.uj, "method": measured.method},
        "contents": [],
    }
    return Draft(tenant_id, at_ns, leaf, "", [], [])


def _refusal(call: CallRecords, record: Refusal, at_ns: int, key: SubjectKey | None) -> Draft:
    chest = _Chest(key)
    chest.put("record", msgspec.json.encode([record]))
    leaf: dict[str, Any] = {
        "v": VERSION,
        "tree": record.tenant_id,
        "kind": "refusal",
        "at": at_ns,
        "clock": record.wall_ns,
        "request": request_id(call.epoch, call.call),
        "who": {
            "subject": subject_of(record),
            "team": record.team_id,
            "principal": record.principal_id,
            "delegator": record.delegator_id,
            "auth": record.auth_method,
            "credential": record.credential_id,
        },
        "what": {
            "operation": record.operation,
            "model": record.target.model if record.target is not None else "",
            "alias": record.target.alias if record.target is not None else "",
            "data_class": record.data_class,
            "dialect": record.dialect,
            "recording": recording_name(record.recording),
            "workload": record.features.workload.name if record.features is not None else "",
        },
        "decided": {"snapshot": record.snapshot_version, "root": record.snapshot_root.hex(), "seed": record.seed},
        "result": {"state": "refused", "status": record.status, "code": record.code},
        "contents": chest.references,
    }
    if record.receipt:
        leaf["receipt"] = record.receipt
    _objectives(leaf, call, record)
    _work(leaf, record.work, key)
    _trials(leaf, record)
    return Draft(record.tenant_id, at_ns, leaf, subject_of(record), chest.contents, chest.lists)


def _trials(leaf: dict[str, Any], record: Intent | Refusal) -> None:
    """What policies that only report would have made of the call."""
    if record.trials:
        leaf["trials"] = [{"of": each.tenant_id, "digest": each.digest, "would": each.would} for each in record.trials]


def _end(call: CallRecords, intent: Intent) -> dict[str, Any]:
    """How a call ended: from its outcome, or from what the log has of one that was interrupted."""
    outcome, interrupted = call.outcome, call.interrupted
    attempt = _where(call)
    where = {
        "attempts": len(call.attempts),
        "source": attempt.source_id if attempt is not None else "",
        "name": attempt.source if attempt is not None else "",
        "model": attempt.model if attempt is not None else "",
        "version": attempt.model_version if attempt is not None else "",
        "engine": attempt.engine if attempt is not None else "",
        "engine_version": attempt.engine_version if attempt is not None else "",
        "off_prem": any(each.off_prem for each in call.attempts),
        "served": outcome.served_model if outcome is not None else "",
    }
    if attempt is not None and _overflowed(intent, attempt):
        where["overflow"] = True
    if outcome is not None:
        result: dict[str, Any] = {
            "state": outcome.state,
            "status": outcome.status,
            "code": outcome.code,
            "finish": list(outcome.finish_reasons),
            "chunks": outcome.chunks,
            "bytes": outcome.bytes_sent,
        }
        times = {"first_us": outcome.first_byte_us, "total_us": outcome.total_us}
        return {"where": where, "result": result, "times": times, **_took(outcome.usage, outcome.cost, outcome.energy)}
    features = intent.features
    usage, cost, energy = Usage(0, 0, 0, "reserved"), Cost(0, "none"), Energy()
    if interrupted is not None and attempt is not None:
        usage = Usage(features.prompt_tokens_max, 0, features.completion_tokens_max, "reserved")
        if call.step_ends:
            last = () if call.step_ends[-1].attempt == attempt.number else (usage,)
            usage = msgspec.structs.replace(
                usage_of([*[step.usage for step in call.step_ends], *last]), origin="reserved"
            )
            energy = energy_of([step.energy for step in call.step_ends])
        cost = interrupted.cost
    result = {
        "state": "interrupted",
        "status": 0,
        "code": "interrupted",
        "finish": [],
        "chunks": len(call.chunks),
        "bytes": 0,
        "tail_lost": interrupted is not None and interrupted.tail_lost,
    }
    return {"where": where, "result": result, "times": {"first_us": 0, "total_us": 0}, **_took(usage, cost, energy)}


def _where(call: CallRecords) -> Attempt | None:
    """The attempt that a call ended at: the last one, or of a cascade the one whose answer was given."""
    if call.step_ends and call.outcome is not None:
        for each in call.attempts:
            if each.number == call.outcome.attempt:
                return each
    return call.attempts[-1] if call.attempts else None


def _overflowed(intent: Intent, attempt: Attempt) -> bool:
    """Whether its candidate took the excess of a saturated one, as the response's `x-interlock-decision` said."""
    excess = [candidate.offer for candidate in intent.route.candidates if candidate.overflow]
    return bool(excess) and f"{attempt.source}::{attempt.model}" in excess


def _took(usage: Usage, cost: Cost, energy: Energy) -> dict[str, Any]:
    return {
        "tokens": {
            "prompt": usage.prompt_tokens,
            "cached": usage.cached_tokens,
            "cache_write": usage.cache_write_tokens,
            "completion": usage.completion_tokens,
            "origin": usage.origin,
        },
        "cost": {"nusd": cost.nusd, "price": cost.price, "version": cost.version},
        "energy": {
            "uj": energy.uj,
            "low_uj": energy.low_uj,
            "high_uj": energy.high_uj,
            "method": energy.method,
            "ug_per_kwh": energy.ug_per_kwh,
        },
    }


class _Chest:
    """The contents of one entry as they are sealed, and the references to them."""

    def __init__(self, key: SubjectKey | None) -> None:
        self.references: list[dict[str, Any]] = []
        self.contents: list[Sealed] = []
        self.lists: list[ListNode] = []
        self._key = key

    def put(self, role: str, plain: bytes, *, repeats: bool = True) -> None:
        """One content. `repeats`: see `SubjectKey.seal`."""
        if self._key is None:
            return
        sealed = self._key.seal(plain, repeats=repeats)
        self.contents.append(sealed)
        self.references.append(
            {"role": role, "id": sealed.id.hex(), "sha256": sealed.sha256.hex(), "bytes": len(sealed.data)}
        )

    def put_list(self, role: str, items: list[bytes]) -> None:
        """A list, each of its items a content of its own."""
        if self._key is None:
            return
        sealed = [self._key.seal(item) for item in items]
        nodes = self._key.chain(sealed)
        self.contents.extend(sealed)
        self.lists.extend(nodes)
        last = nodes[-1]
        self.references.append({"role": role, "list": last.id.hex(), "digest": last.digest.hex(), "count": last.depth})


def _prompt(chest: _Chest, body: bytes) -> None:
    """What was asked: each message apart, long fields that repeat apart, and the rest of the request."""
    if not body:
        return
    try:
        fields = _raw_object.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        chest.put("body", body)
        return
    for name in PROMPT_FIELDS:
        if name in fields:
            _prompt_field(chest, name, bytes(fields.pop(name)))
    for name in LARGE_FIELDS:
        if name in fields:
            chest.put(name, bytes(fields.pop(name)))
    chest.put("request", msgspec.json.encode(fields))


def _prompt_field(chest: _Chest, name: str, value: bytes) -> None:
    if value[:1] == b"[":
        items = [bytes(item) for item in _raw_list.decode(value)]
        if items and (name == "messages" or (name == "input" and items[0][:1] == b"{")):
            chest.put_list(name, items)
            return
    chest.put(name, value)


def _answer(chest: _Chest, call: CallRecords) -> None:
    """What came back: the answer as it was, or a stream as its text and, in their places, events of another form."""
    if call.outcome is not None and call.outcome.body:
        chest.put("answer", call.outcome.body, repeats=False)
    for step in call.step_ends:
        if step.body:
            chest.put("step", step.body, repeats=False)
    if not call.chunks:
        return
    parts: list[str | msgspec.Raw] = []
    text: list[str] = []
    for chunk in call.chunks:
        if chunk.text:
            text.append(chunk.text)
        if chunk.raw:
            if text:
                parts.append("".join(text))
                text = []
            parts.append(_event(chunk.raw))
    if text:
        parts.append("".join(text))
    chest.put("stream", msgspec.json.encode(parts), repeats=False)


def _event(raw: bytes) -> str | msgspec.Raw:
    """An event as the JSON that it is, else as text."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        return msgspec.Raw(raw)
    except (msgspec.MsgspecError, RecursionError):
        return raw.decode("utf-8", "backslashreplace")


def _records(chest: _Chest, call: CallRecords, intent: Intent) -> None:
    """The records themselves without the bodies that are contents already: what replay and explanation need."""
    kept: list[msgspec.Struct] = [msgspec.structs.replace(intent, body=b"", parameters={})]
    kept += [*call.attempts, *call.attempt_ends]
    kept += [msgspec.structs.replace(step, body=b"") for step in call.step_ends]
    if call.outcome is not None:
        kept.append(_bodiless(call.outcome))
    if call.interrupted is not None:
        kept.append(call.interrupted)
    chest.put("record", msgspec.json.encode(kept), repeats=False)


def _bodiless(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, body=b"")
