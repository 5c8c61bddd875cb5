"""Evaluates rules again and again, in one control process at a time, and writes what becomes of them."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection

from interlock.control.alerts.evaluate import evaluate
from interlock.control.alerts.figures import Figures
from interlock.control.alerts.readings import readings
from interlock.control.services.base import Tools
from interlock.errors import InterlockError
from interlock.storage import alert_events as outbox
from interlock.storage import alerts
from interlock.storage.alert_events import Event, Key
from interlock.storage.pool import Store, away
from interlock.types.alert import AlertKind, AlertRule, AlertState, Channel, Happening, Reading

logger = logging.getLogger(__name__)

NS = 1_000_000_000
LET_GO_NS = 86_400 * NS
"""A source without a call for so long is not watched any more."""
PRUNE_S = 600
PRUNED_AT_ONCE = 1000
CHANNELS_MAX = 100_000


class Step(NamedTuple):
    """What one thing becomes."""

    rule: AlertRule
    subject: str
    before: AlertState | None
    after: AlertState
    happened: Happening | None


class AlertWatch:
    """One control process's. `firing`: things that fire, by severity, at the last look; `leading`: whether it was
    the one that evaluated."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._tools = tools
        self._pruned_s = -float(PRUNE_S)
        self.leading = False
        self.failing = ""
        self.firing: dict[str, int] = {}

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. An outage of the database is waited out."""
        while not stop.wait(self._tools.settings.alerts_interval_s):
            try:
                self.once()
                self.failing = ""
            except (InterlockError, psycopg.Error) as e:
                words = e.message if isinstance(e, InterlockError) else type(e).__name__
                if not self.failing:
                    level = logging.WARNING if isinstance(e, InterlockError) and away(e) else logging.ERROR
                    logger.log(level, "alerts are not evaluated: %s", words)
                self.failing = words
            except Exception as e:
                # INVARIANT: nothing ends this thread, else nobody would be told of anything any more
                logger.exception("alerts are not evaluated")
                self.failing = type(e).__name__

    def once(self) -> list[Step]:
        """Look at every rule; nothing when another process does. Raises StoreError.

        INVARIANT: the lock is held from before anything is read until states and events are written, so that no older
        reading overwrites a newer one.
        """
        with self._store.platform() as conn:
            self.leading = outbox.lead(conn)
            if not self.leading:
                self.firing = outbox.severities(conn)
                return []
            now_ns = self._tools.clock.wall_ns()
            figures = Figures(self._store, self._tools.settings, now_ns)
            seen = {stored.value.id: stored for stored in alerts.every_rule(conn)}
            read = {id_: readings(s.value, figures) if s.value.enabled else [] for id_, s in seen.items()}
            states = outbox.states(conn)
            # a rule that was changed while its figures were read waits for the next look; one that is here stays
            held = [s for s in alerts.every_rule(conn, held=True) if s.value.id in seen]
            rules = [s.value for s in held if s.revision == seen[s.value.id].revision]
            steps = [step for rule in rules for step in decide(rule, read[rule.id], states, now_ns)]
            self._write(conn, steps, self._tools.now())
            self.firing = outbox.severities(conn)
            self._prune(conn)
        if figures.failed:
            logger.warning("some alerts learn nothing: %s", figures.failed)
        for step in steps:
            _log(step)
        return steps

    def _write(self, conn: Connection[Any], steps: Iterable[Step], now: datetime.datetime) -> None:
        wanted = any(step.happened is not None and step.happened.deliver for step in steps)
        every = alerts.CHANNELS.page(conn, limit=CHANNELS_MAX) if wanted else []
        channels = {(stored.value.tenant_id, stored.value.name): stored.value for stored in every}
        for step in steps:
            if step.after != step.before:
                outbox.put_state(conn, step.rule.tenant_id, (step.rule.id, step.subject), step.after)
            if step.happened is not None:
                event = event_of(step.rule, step.subject, step.happened, self._tools.new_id("alert_event"), now)
                outbox.add(conn, event, _told(step.rule, step.happened, channels))

    def _prune(self, conn: Connection[Any]) -> None:
        now_s = self._tools.clock.mono_ns() / 1e9
        if now_s - self._pruned_s < PRUNE_S:
            return
        self._pruned_s = now_s
        settings = self._tools.settings
        before = self._tools.now() - datetime.timedelta(days=settings.alerts_keep_days)
        outbox.prune(conn, before, settings.alerts_events_max, PRUNED_AT_ONCE)
        outbox.forget(conn, int(before.timestamp()) * NS)


def decide(rule: AlertRule, read: list[Reading] | None, states: Mapping[Key, AlertState], now_ns: int) -> list[Step]:
    """What each thing of a rule becomes, and each that was one. Pure."""
    known = {subject: state for (rule_id, subject), state in states.items() if rule_id == rule.id}
    if read is None:
        found: dict[str, Reading] = {subject: Reading(subject, None) for subject in known}
    else:
        found = {each.subject: each for each in read}
    out = []
    for subject in dict.fromkeys((*found, *known)):
        before = known.get(subject)
        reading = found.get(subject)
        if reading is None and before is not None and before.status != "gone" and rule.enabled:
            reading = _quiet(rule, subject, before, now_ns)
        after, happened = evaluate(rule, reading, before or AlertState(), now_ns)
        out.append(Step(rule, subject, before, after, happened))
    return out


def _quiet(rule: AlertRule, subject: str, state: AlertState, now_ns: int) -> Reading | None:
    """A source that nothing is called at is not gone for that: nothing is known of it, for a while."""
    if rule.kind is not AlertKind.source_failures or rule.scope.source not in ("", subject):
        return None
    if state.unknown_ns and now_ns - state.unknown_ns > LET_GO_NS:
        return None
    return Reading(subject, None, "no calls")


def event_of(rule: AlertRule, subject: str, happened: Happening, event_id: str, now: datetime.datetime) -> Event:
    """The event of something that happened."""
    return Event(
        event_id,
        rule.tenant_id,
        rule.id,
        rule.name,
        rule.kind.value,
        subject,
        happened.kind,
        rule.severity,
        happened.value,
        rule.threshold,
        happened.words,
        happened.episode,
        now,
    )


def _told(rule: AlertRule, happened: Happening, channels: Mapping[tuple[str, str], Channel]) -> dict[str, str]:
    """The rule's channels, by id. INVARIANT: of its own tenant only."""
    if not happened.deliver:
        return {}
    found = [channels.get((rule.tenant_id, name)) for name in rule.channels]
    return {each.id: each.name for each in found if each is not None}


def _log(step: Step) -> None:
    if step.happened is None:
        return
    level = logging.WARNING if step.happened.kind in ("firing", "no_data") else logging.INFO
    logger.log(
        level,
        "alert %s: %s",
        step.rule.name,
        step.happened.kind,
        extra={
            "tenant": step.rule.tenant_id,
            "rule": step.rule.name,
            "subject": step.subject,
            "severity": step.rule.severity,
            "value": step.happened.value,
            "threshold": step.rule.threshold,
        },
    )
