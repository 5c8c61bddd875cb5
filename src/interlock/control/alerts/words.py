"""An event in words and as JSON. Pure. Only names of what is configured are in it, and numbers."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from interlock.storage.alert_events import Event
from interlock.types.alert import KINDS, AlertKind

HAPPENED = {
    "firing": "fires",
    "still_firing": "still fires, after a silence",
    "resolved": "is over",
    "no_data": "cannot be read",
    "data_back": "can be read again",
    "test": "is a test",
}


class Data(msgspec.Struct, frozen=True):
    """What a webhook is told. `value` and `threshold` in `unit`: permille, count or s. `tenant` "": the platform's."""

    rule: str
    reads: str
    tenant: str
    subject: str
    severity: str
    value: int
    threshold: int
    unit: str
    words: str
    summary: str
    url: str


class Payload(msgspec.Struct, frozen=True):
    """The body of a webhook, as the Standard Webhooks specification recommends it."""

    type: str
    timestamp: datetime.datetime
    data: Data


def shown(value: int, reads: str) -> str:
    """A value with its unit: "93.5 %", "120 s", "17"."""
    unit = KINDS[AlertKind(reads)].unit if reads in AlertKind.__members__ else "count"
    if unit == "permille":
        return f"{value / 10:g} %"
    return f"{value} s" if unit == "s" else str(value)


def summary(event: Event) -> str:
    """One line: what, of what, and how far."""
    of = f" of {event.subject}" if event.subject and event.kind != "test" else ""
    if event.kind in ("no_data", "test"):
        return f"{event.rule}{of} {HAPPENED[event.kind]}"
    numbers = f"{shown(event.value, event.reads)}, threshold {shown(event.threshold, event.reads)}"
    return f"{event.rule}{of} {HAPPENED[event.kind]}: {numbers}"


def body(event: Event, tenant: str, url: str) -> bytes:
    """The JSON that a webhook gets. `url`: of the page that shows alerts, "" when it is not known."""
    unit = KINDS[AlertKind(event.reads)].unit if event.reads in AlertKind.__members__ else ""
    data = Data(
        event.rule,
        event.reads,
        tenant,
        "" if event.kind == "test" else event.subject,
        event.severity,
        event.value,
        event.threshold,
        unit,
        event.words,
        summary(event),
        url,
    )
    return msgspec.json.encode(Payload(f"alert.{event.kind}", event.at, data))


def text(event: Event, tenant: str, url: str) -> str:
    """The text of an e-mail."""
    facts: Mapping[str, str] = {
        "Severity": event.severity,
        "Tenant": tenant or "(the platform)",
        "At": event.at.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "Found": event.words,
        "See": url,
        "Event": event.id,
    }
    lines = [summary(event), "", *(f"{name}: {value}" for name, value in facts.items() if value)]
    return "\n".join(lines) + "\n"
