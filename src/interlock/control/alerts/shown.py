"""What administrators see of alerts: rules with what they fire for, channels, events and who was told."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import psycopg

from interlock.control.alerts import words
from interlock.control.alerts.sender import AlertSender
from interlock.control.alerts.watch import AlertWatch
from interlock.control.permissions import Action, Binding, decide
from interlock.control.reading import reading_at
from interlock.control.validate import PLATFORM
from interlock.errors import InterlockError
from interlock.storage import alert_events as outbox
from interlock.storage import alerts
from interlock.storage.alert_events import Event
from interlock.types.alert import KINDS, AlertRule, AlertScope, AlertState, Channel, Unit, shown_url

if TYPE_CHECKING:
    from interlock.control.identity import Actor
    from interlock.control.services.base import Tools, Tx
    from interlock.control.web import Api
    from interlock.storage.pool import Store
    from interlock.storage.table import Stored

EVENTS_SHOWN = 100
COUNT_S = 5.0
_SEVERITIES = ("critical", "warning", "info")


class Thing(msgspec.Struct, frozen=True):
    """One thing that a rule watches. `value`: the last that was known, in the rule's unit; `shown`: with its unit.
    `status`: ok, pending, firing, resolved or unknown. `unknown_since`: it cannot be read since then, also where it
    fires still."""

    subject: str
    status: str
    since: datetime.datetime
    value: int
    shown: str
    words: str
    unknown_since: datetime.datetime | None


class RuleView(msgspec.Struct, frozen=True):
    """A rule with the things that it watches, those that fire first."""

    name: str
    kind: str
    reads: str
    threshold: int
    unit: Unit
    shown: str
    window_s: int
    for_s: int
    count_min: int
    no_data_s: int
    scope: AlertScope
    severity: str
    channels: tuple[str, ...]
    enabled: bool
    silenced_until: datetime.datetime | None
    silence_reason: str
    revision: int
    things: list[Thing]

    @property
    def firing(self) -> list[Thing]:
        """Those of its things that fire."""
        return [each for each in self.things if each.status == "firing"]

    @property
    def unknown(self) -> list[Thing]:
        """Those of its things that cannot be read."""
        return [each for each in self.things if each.unknown_since is not None]


class SecretView(msgspec.Struct, frozen=True):
    """Where a signing secret is found."""

    env: str
    file: str


class ChannelView(msgspec.Struct, frozen=True):
    """A channel; of its secret where that is found, never what it is, and of its URL no more than the host."""

    name: str
    kind: str
    url: str
    secret: SecretView | None
    addresses: tuple[str, ...]
    revision: int


class DeliveryView(msgspec.Struct, frozen=True):
    """What became of telling one channel: waiting (tried again at `next_at`), delivered, failed (given up)."""

    channel: str
    state: str
    attempts: int
    error: str
    next_at: datetime.datetime | None
    done_at: datetime.datetime | None


class EventView(msgspec.Struct, frozen=True):
    """Something that happened. `kind`: firing, still_firing, resolved, no_data, data_back or test."""

    id: str
    at: datetime.datetime
    kind: str
    rule: str
    reads: str
    subject: str
    severity: str
    value: int
    threshold: int
    words: str
    summary: str
    deliveries: list[DeliveryView]


class AlertsView(msgspec.Struct, frozen=True):
    """The alerts of a tenant, or (tenant "") of the platform."""

    tenant: str
    rules: list[RuleView]
    channels: list[ChannelView]
    events: list[EventView]


def overview(api: Api, actor: Actor, tenant: str) -> AlertsView:
    """Rules, channels and the newest events. Raises Denied, NotFound."""
    with reading(api, actor, tenant) as (tx, tenant_id):
        settings = tx.tools.settings
        states = outbox.states(tx.conn)
        rules = alerts.rules(tx.conn, tenant_id, settings.alerts_rules_max)
        found = alerts.channels(tx.conn, tenant_id, settings.alerts_channels_max)
        return AlertsView(
            "" if not tenant_id else tenant,
            sorted((rule_view(r, states, tx.tools) for r in rules), key=_urgency),
            [channel_view(each) for each in found],
            events(tx, tenant_id),
        )


def one_rule(api: Api, actor: Actor, tenant: str, name: str) -> RuleView:
    """Raises Denied, NotFound."""
    from interlock.control.services.alert_rules import find

    with reading(api, actor, tenant) as (tx, tenant_id):
        return rule_view(find(tx, tenant_id, name), outbox.states(tx.conn), tx.tools)


def events(tx: Tx, tenant_id: str) -> list[EventView]:
    """The newest events with their deliveries."""
    found = outbox.newest(tx.conn, tenant_id, EVENTS_SHOWN)
    told = outbox.deliveries(tx.conn, [each.id for each in found])
    return [event_view(each, told.get(each.id, [])) for each in found]


@contextmanager
def reading(api: Api, actor: Actor, tenant: str) -> Iterator[tuple[Tx, str]]:
    """A transaction where the alerts of `tenant` are ("" or "platform": the platform's), and their tenant's id."""
    where = "" if tenant == PLATFORM else tenant
    with reading_at(api.store, api.tools, actor, where, Action.alert_read) as found:
        yield found


def rule_view(stored: Stored[AlertRule], states: dict[outbox.Key, AlertState], tools: Tools) -> RuleView:
    """A rule as it is shown."""
    rule, info = stored.value, KINDS[stored.value.kind]
    things = [
        _thing(rule, subject, state)
        for (rule_id, subject), state in states.items()
        if rule_id == rule.id and state.status != "gone"
    ]
    silenced = rule.silenced_until_ns > tools.clock.wall_ns()
    return RuleView(
        rule.name,
        rule.kind.value,
        info.words,
        rule.threshold,
        info.unit,
        words.shown(rule.threshold, rule.kind.value),
        rule.window_s,
        rule.for_s,
        rule.count_min,
        rule.no_data_s,
        rule.scope,
        rule.severity,
        rule.channels,
        rule.enabled,
        _instant(rule.silenced_until_ns) if silenced else None,
        rule.silence_reason if silenced else "",
        stored.revision,
        sorted(things, key=lambda each: (each.status != "firing", each.status != "pending", each.subject)),
    )


def channel_view(stored: Stored[Channel]) -> ChannelView:
    """A channel as it is shown."""
    value = stored.value
    secret = None if value.secret is None else SecretView(value.secret.env, value.secret.file)
    return ChannelView(value.name, value.kind, shown_url(value.url), secret, value.addresses, stored.revision)


def event_view(event: Event, deliveries: Iterable[outbox.Delivery]) -> EventView:
    """An event as it is shown."""
    return EventView(
        event.id,
        event.at,
        event.kind,
        event.rule,
        event.reads,
        "" if event.kind == "test" else event.subject,
        event.severity,
        event.value,
        event.threshold,
        event.words,
        words.summary(event),
        [delivery_view(each) for each in deliveries],
    )


def delivery_view(each: outbox.Delivery) -> DeliveryView:
    """A delivery as it is shown."""
    again = each.next_at if each.state == "waiting" else None
    return DeliveryView(each.channel, each.state, each.attempts, each.error, again, each.done_at)


class Alerts(NamedTuple):
    """What a control process has of alerts."""

    watch: AlertWatch
    sender: AlertSender
    counts: FiringCounts


class FiringCounts:
    """How many things fire, for the navigation of every page: asked for at most every few seconds."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._tools = tools
        self._lock = threading.Lock()
        self._at_s = -COUNT_S
        self._counts: dict[str, int] = {}

    def by_tenant(self) -> dict[str, int]:
        """By tenant id, "" for the platform's; those that were known last while the database is away."""
        now_s = self._tools.clock.mono_ns() / 1e9
        with self._lock:
            if now_s - self._at_s < COUNT_S:
                return self._counts
            self._at_s = now_s
        try:
            with self._store.platform() as conn:
                self._counts = outbox.firing(conn)
        except (InterlockError, psycopg.Error):
            pass  # a page is shown without the number rather than not at all
        return self._counts

    def seen_by(self, bindings: tuple[Binding, ...]) -> int:
        """How many of them somebody with these roles may see."""
        return sum(
            count
            for tenant_id, count in self.by_tenant().items()
            if decide(bindings, Action.alert_read, tenant_id or None).allowed
        )


def _thing(rule: AlertRule, subject: str, state: AlertState) -> Thing:
    unknown = state.unknown_ns and state.status != "firing"
    return Thing(
        subject,
        "unknown" if unknown else state.status,
        _instant(state.since_ns),
        state.value,
        words.shown(state.value, rule.kind.value),
        state.words,
        _instant(state.unknown_ns) if state.unknown_ns else None,
    )


def _instant(at_ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.UTC)


def _urgency(rule: RuleView) -> tuple[bool, int, str]:
    return not rule.firing, _SEVERITIES.index(rule.severity), rule.name
