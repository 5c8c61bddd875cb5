"""Rules of alerts, of a tenant or of the platform. Channels are no part of documents: a rule names those it tells."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.control.alerts.watch import event_of
from interlock.control.documents import AlertSpec, RuleSpec
from interlock.control.services.base import Tx, missing
from interlock.errors import BadRequest, Conflict
from interlock.storage import alert_events as outbox
from interlock.storage import alerts
from interlock.storage.table import Stored
from interlock.types.alert import AlertRule, Happening


def spec_of(rule: AlertRule) -> AlertSpec:
    """The declared form of a rule. A silence is none of it: it ends by itself."""
    return AlertSpec(**{name: getattr(rule, name) for name in AlertSpec.__struct_fields__})


def find(tx: Tx, tenant_id: str, name: str) -> Stored[AlertRule]:
    """The rule of that name. Raises NotFound."""
    stored = alerts.RULES.by_name(tx.conn, name, tenant_id)
    if stored is None:
        raise missing("rule", name)
    return stored


def create(tx: Tx, tenant_id: str, spec: AlertSpec) -> Stored[AlertRule]:
    """A new rule. Raises BadRequest for a channel that there is not, Conflict."""
    return put(tx, tenant_id, spec.name, spec)


def update(tx: Tx, tenant_id: str, spec: AlertSpec, revision: int | None = None) -> Stored[AlertRule]:
    """Everything but name and kind; a silence stays. Raises BadRequest, Conflict."""
    return put(tx, tenant_id, spec.name, spec, revision)


def put(tx: Tx, tenant_id: str, name: str, spec: RuleSpec, revision: int | None = None) -> Stored[AlertRule]:
    """Make or change a rule; its kind stays. Raises BadRequest, Conflict."""
    settings = tx.tools.settings
    named = {each.value.name for each in alerts.channels(tx.conn, tenant_id, settings.alerts_channels_max)}
    for channel in spec.channels:
        if channel not in named:
            raise BadRequest(f"rule {name!r}: channels: there is no channel {channel!r}", param="channels")
    stored = alerts.RULES.by_name(tx.conn, name, tenant_id)
    if stored is None:
        most = settings.alerts_rules_max
        if len(alerts.rules(tx.conn, tenant_id, most)) >= most:
            raise Conflict(f"there are {most} rules already (alerts_rules_max)", code="too_many")
        new = AlertRule(tx.tools.new_id("alert_rule"), tenant_id, name, spec.kind, spec.threshold)
        return alerts.RULES.insert(tx.conn, ruled(new, spec), tx.by)
    if stored.value.kind is not spec.kind:
        raise Conflict(f"what rule {name!r} reads does not change; make another rule", code="kind_fixed")
    return alerts.RULES.update(tx.conn, ruled(stored.value, spec), tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Remove a rule; what it fired for is over, and its channels are told so. Raises NotFound, Conflict."""
    rule = find(tx, tenant_id, name).value
    channels = alerts.channels(tx.conn, tenant_id, tx.tools.settings.alerts_channels_max)
    named = {each.value.name: each.value.id for each in channels}
    for (rule_id, subject), state in outbox.states(tx.conn).items():
        if rule_id == rule.id and state.status == "firing":
            over = Happening("resolved", state.episode, state.value, "its rule was removed", state.told)
            event = event_of(rule, subject, over, tx.tools.new_id("alert_event"), tx.tools.now())
            told = {named[each]: each for each in rule.channels if each in named} if state.told else {}
            outbox.add(tx.conn, event, told)
    alerts.RULES.delete(tx.conn, rule.id, tx.by, revision=revision)


def ruled(rule: AlertRule, spec: RuleSpec) -> AlertRule:
    """The rule as a spec says."""
    given: dict[str, Any] = {name: getattr(spec, name) for name in RuleSpec.__struct_fields__}
    return msgspec.structs.replace(rule, **given)
