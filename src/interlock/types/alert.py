"""Alerts: rules over what the control plane knows, what becomes of each thing that a rule watches, and who is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from interlock.types.source import CredentialRef

Severity = Literal["info", "warning", "critical"]
Unit = Literal["permille", "count", "s"]


class AlertKind(StrEnum):
    """What a rule reads."""

    budget_used = "budget_used"
    budget_outlook = "budget_outlook"
    call_failures = "call_failures"
    source_failures = "source_failures"
    source_down = "source_down"
    source_queue = "source_queue"
    source_seats = "source_seats"
    source_waits = "source_waits"
    denials = "denials"
    ledger_lag = "ledger_lag"
    ledger_inbox = "ledger_inbox"
    node_silent = "node_silent"


class KindInfo(NamedTuple):
    """`unit`: of value and threshold. `scope`: the fields of `AlertScope` that mean something. `windowed`: it counts
    what was admitted within `window_s`. `platform_only`: it concerns the installation, no tenant."""

    unit: Unit
    words: str
    scope: tuple[str, ...] = ()
    windowed: bool = False
    platform_only: bool = False


KINDS: dict[AlertKind, KindInfo] = {
    AlertKind.budget_used: KindInfo("permille", "share of a budget that is used", ("budget", "team")),
    AlertKind.budget_outlook: KindInfo(
        "permille", "share of a budget that will be used at its end, at the rate so far", ("budget", "team")
    ),
    AlertKind.call_failures: KindInfo("permille", "share of calls that are not completed", ("team",), windowed=True),
    AlertKind.source_failures: KindInfo(
        "permille", "share of calls not completed of those that end at a source", ("source", "team"), windowed=True
    ),
    AlertKind.source_down: KindInfo("permille", "share of nodes that a source is down for", ("source",)),
    AlertKind.source_queue: KindInfo("count", "requests that wait at an engine", ("source",)),
    AlertKind.source_seats: KindInfo("permille", "share of a source's seats that are taken", ("source",)),
    AlertKind.source_waits: KindInfo("permille", "share of nodes on which calls wait for a source", ("source",)),
    AlertKind.denials: KindInfo("permille", "denied calls, to those of an equal time before", ("team",), windowed=True),
    AlertKind.ledger_lag: KindInfo("s", "age of what a node has not brought to the ledger", platform_only=True),
    AlertKind.ledger_inbox: KindInfo("count", "entries that wait for their place in the ledger", platform_only=True),
    AlertKind.node_silent: KindInfo("s", "time since a node was heard of", platform_only=True),
}


class AlertScope(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a rule is narrowed to, by name; "" leaves a field open."""

    source: str = ""
    team: str = ""
    budget: str = ""


class AlertRule(msgspec.Struct, frozen=True):
    """A rule (`alr_...`), unique by name in its tenant ("": the platform's).

    It fires for a thing (a budget, a source, a node) whose value has been at `threshold` or above for `for_s` seconds,
    and is over when it has been below for as long. `count_min`: with fewer calls nothing is said. `no_data_s`: told
    when a value could not be read for so long; 0: never. `channels`: names. Instants in Unix nanoseconds.
    """

    id: str
    tenant_id: str
    name: str
    kind: AlertKind
    threshold: int
    window_s: int = 300
    for_s: int = 0
    count_min: int = 0
    no_data_s: int = 0
    scope: AlertScope = AlertScope()
    severity: Severity = "warning"
    channels: tuple[str, ...] = ()
    enabled: bool = True
    silenced_until_ns: int = 0
    silence_reason: str = ""


class Channel(msgspec.Struct, frozen=True):
    """Where events go (`alc_...`), unique by name in its tenant: a webhook with the reference of the secret that it is
    signed with, or e-mail addresses. `url`: what of it is shown; the whole is kept sealed. `mark`: tells one from
    another."""

    id: str
    tenant_id: str
    name: str
    kind: Literal["webhook", "email"]
    url: str = ""
    secret: CredentialRef | None = None
    addresses: tuple[str, ...] = ()
    mark: str = ""


REST = "/\N{HORIZONTAL ELLIPSIS}"
"""Stands for what is not shown of a URL. It is in no URL that a channel may have."""


def shown_url(url: str) -> str:
    """Of a webhook's URL what may be seen: scheme, host and port. What follows is often a secret."""
    if not url or url.endswith(REST):
        return url
    parts = urlsplit(url)
    bare = f"{parts.scheme}://{parts.netloc}"
    return bare if url in (bare, f"{bare}/") else bare + REST


class Reading(NamedTuple):
    """What a rule found of one thing. `value`: in the kind's unit, None when it is not known. `words`: of what the
    value is made, such as "12 of 40 calls"."""

    subject: str
    value: int | None
    words: str = ""


class AlertState(msgspec.Struct, frozen=True):
    """What has become of one thing that a rule watches. Instants in Unix nanoseconds, 0: it is not so. `gone`: it is no
    longer there, and kept only so that its episodes are counted on should it come back.

    `since_ns`: when `status` began. `value`, `words`: the last that were known. `turned_ns`: since when the value has
    been on the other side of the threshold without a gap, in a row of known readings. `unknown_ns`: since when it
    cannot be read. `episode`: counts firings. `told`: that it fires was given to channels. `no_data`: that it cannot
    be read was told.
    """

    status: Literal["ok", "pending", "firing", "resolved", "gone"] = "ok"
    since_ns: int = 0
    value: int = 0
    words: str = ""
    turned_ns: int = 0
    unknown_ns: int = 0
    episode: int = 0
    told: bool = False
    no_data: bool = False


EventKind = Literal["firing", "still_firing", "resolved", "no_data", "data_back", "test"]


class Happening(NamedTuple):
    """Something to write down, and, where `deliver`, to tell. `episode` with `kind` names it among a thing's own."""

    kind: EventKind
    episode: int
    value: int
    words: str
    deliver: bool
