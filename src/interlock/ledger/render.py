"""A record for people and programs: as JSON values, or as one line. Content is left out unless it is asked for."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec

from interlock.ledger.reader import Tailed
from interlock.types.record import (
    Alive,
    Attempt,
    AttemptEnd,
    Chunk,
    EnergyMeasured,
    EpochClose,
    EpochOpen,
    EpochRecovered,
    Feedback,
    Held,
    Intent,
    Interrupted,
    Outcome,
    Record,
    Refusal,
    StepEnd,
    request_id,
)

CONTENT = {
    Intent: ("body", "parameters"),
    Chunk: ("text", "raw"),
    Outcome: ("body",),
    StepEnd: ("body",),
}
"""Fields that hold what callers and models said."""


def as_dict(tailed: Tailed, *, content: bool = False) -> dict[str, Any]:
    """A record as values that JSON has: {"kind", "epoch", "seq", "time", "request_id", ...its fields}.

    Bytes that are UTF-8 are given as text, digests as hex, others as {"base64": ...}. Without `content`, each content
    field is replaced by its size: {"bytes": n}.
    """
    record = tailed.stored.record
    out: dict[str, Any] = {"kind": type(record).__name__, "epoch": tailed.epoch, "seq": tailed.stored.seq}
    out["time"] = _time(tailed.wall_ns)
    call = _call(tailed)
    if call:
        out["request_id"] = call
    hidden = () if content else CONTENT.get(type(record), ())
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name in hidden:
            out[name] = {"bytes": _size(value)}
        elif name != "epoch" or isinstance(record, (Interrupted, EpochRecovered)):
            key = "of_epoch" if name == "epoch" else name
            out[key] = value.hex() if name.endswith(("sha256", "root")) else _plain(value)
    return out


def as_line(tailed: Tailed, *, content: bool = False) -> str:
    """One line: time, epoch's end and number, kind, and what matters most of it. Control characters are escaped."""
    record = tailed.stored.record
    head = f"{_time(tailed.wall_ns)} {tailed.epoch[-6:]}#{tailed.stored.seq} {type(record).__name__:<14}"
    words = _words(record)
    call = _call(tailed)
    if call:
        words = f"{call} {words}"
    if content:
        words += _content(record)
    return _printable(f"{head} {words}".rstrip())


def _words(record: Record) -> str:
    match record:
        case EpochOpen():
            return f"node={record.node} slot={record.slot} pid={record.pid} version={record.version}"
        case Intent():
            first = record.route.candidates[0].offer if record.route.candidates else "nowhere"
            who = f"{record.principal_id} for {record.delegator_id}" if record.delegator_id else record.principal_id
            words = f"{record.features.operation} {record.features.asked} -> {first} by {who} in {record.tenant_id}"
            beside = (("shadow", record.shadow_of), ("judge", record.judge_of), ("challenger", record.challenger_of))
            return words + "".join(f", {name} of {request}" for name, request in beside if request)
        case Refusal():
            return f"{record.status} {record.code} {record.asked} by {record.principal_id}: {record.words}"
        case Attempt():
            return f"attempt {record.number} at {record.source}::{record.model}"
        case AttemptEnd():
            return f"attempt {record.number} failed: {record.code} {record.status} {record.words}"
        case StepEnd():
            verdict = record.code or ("passed" if record.passed else "not passed")
            checks = ", ".join(record.checks) or "not checked"
            return f"step {record.step + 1} at {record.model}: {verdict} ({checks}), {record.cost.nusd} nUSD"
        case Chunk():
            return f"chunk {record.index}, {len(record.text.encode()) + len(record.raw)} bytes"
        case Outcome():
            usage = record.usage
            tokens = f"{usage.prompt_tokens}+{usage.completion_tokens} tokens ({usage.origin})"
            cost = f", {record.cost.nusd} nUSD ({record.cost.price})" if record.cost.price else ""
            took = f"in {record.total_us / 1e6:.3f} s"
            where = f"{record.source}::{record.model}"
            return f"{record.state} {record.status} {where} {tokens}{cost} {took} {record.code} {record.words}"
        case EnergyMeasured():
            return f"{record.uj} uJ ({record.method})"
        case Alive():
            return ""
        case Feedback():
            said = [record.thumb, *([f"score {record.score_micro / 1e6:g}"] if record.score_micro >= 0 else ())]
            said += ["corrected"] if record.corrected else []
            who = f"{record.principal_id} for {record.delegator_id}" if record.delegator_id else record.principal_id
            return f"{record.request} by {who} in {record.tenant_id}: {', '.join(filter(None, said))} {record.reason}"
        case Held():
            return f"{record.asked} by {record.principal_id} in {record.tenant_id} waits for an engine"
        case EpochClose():
            return f"after #{record.last_seq}"
        case Interrupted():
            lost = ", tail lost" if record.tail_lost else ""
            return f"after {record.chunks} chunks{lost}"
        case EpochRecovered():
            return f"{record.epoch}: {record.interrupted} calls interrupted, {record.torn_bytes} bytes torn"


def _content(record: Record) -> str:
    match record:
        case Intent() | Outcome() | StepEnd():
            return f" | {record.body.decode('utf-8', 'replace')}"
        case Feedback():
            return f" | {record.text} | {record.comment}" if record.text or record.comment else ""
        case Chunk():
            return f" | {record.text}{record.raw.decode('utf-8', 'replace')}"
        case _:
            return ""


def _call(tailed: Tailed) -> str:
    record = tailed.stored.record
    if isinstance(record, (EpochOpen, EpochClose, EpochRecovered, Alive)):
        return ""
    if isinstance(record, Interrupted):
        return request_id(record.epoch, record.call)
    return request_id(tailed.epoch, record.call)


def _time(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return len(value) if isinstance(value, bytes) else len(msgspec.json.encode(value))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _printable(text: str) -> str:
    """Callers choose some of these words: none may move the cursor or begin a second line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
