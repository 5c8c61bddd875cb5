"""What administrators do with alerts: rules, channels, silence, tests. Each change is recorded with its reason."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from psycopg import Connection

from interlock.control.alerts import address, mail, webhook
from interlock.control.documents import RuleSpec
from interlock.control.identity import WRITE_LOCK
from interlock.control.permissions import Action
from interlock.control.plan import Ref
from interlock.control.services import alert_rules
from interlock.control.services.base import Tools, Tx, missing
from interlock.control.validate import NAME, PLATFORM, rule_faults
from interlock.errors import BadRequest, Conflict, Unavailable
from interlock.sources.credentials import check_reference
from interlock.storage import alert_events as outbox
from interlock.storage import alerts
from interlock.storage.alert_events import Event
from interlock.storage.changes import Author, Change, record
from interlock.storage.pool import Store
from interlock.storage.table import Stored
from interlock.types.alert import AlertKind, AlertRule, Channel, shown_url
from interlock.types.source import CredentialRef

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.control.web import Api

SILENCE_S_MAX = 30 * 86_400
TEST_S = 60.0
"""Who asks for a test waits for it; when their process ends meanwhile, another one takes it up then."""
NS = 1_000_000_000


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a signing secret is found."""

    env: str = ""
    file: str = ""


class ChannelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A channel as it is declared: a webhook with `url` and `secret` (an environment variable or a file, never the
    secret itself), or `addresses` for e-mail. `url` left out, or as it is shown: it stays what it is."""

    kind: Literal["webhook", "email"]
    url: str = ""
    secret: SecretRef | None = None
    addresses: tuple[str, ...] = ()


def put_rule(
    api: Api, actor: Actor, tenant: str, name: str, spec: RuleSpec, reason: Reason, revision: int | None = None
) -> Stored[AlertRule]:
    """Make or change a rule; its kind stays. Raises BadRequest, Conflict, Denied, NotFound."""
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        for path, words in rule_faults(spec, of_tenant=bool(tenant_id)):
            field = ".".join(path)
            raise BadRequest(f"{field}: {words}", param=field)
        return alert_rules.put(tx, tenant_id, name, spec, revision)


def delete_rule(api: Api, actor: Actor, tenant: str, name: str, reason: Reason) -> None:
    """Remove a rule; what it fired for is over, and its channels are told so. Raises Conflict, Denied, NotFound."""
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        alert_rules.delete(tx, tenant_id, name)


def silence(
    api: Api, actor: Actor, tenant: str, name: str, until: datetime.datetime | None, reason: Reason
) -> Stored[AlertRule]:
    """Tell nobody of a rule's events until then (None: from now on again). Raises BadRequest, Denied, NotFound."""
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        rule = alert_rules.find(tx, tenant_id, name).value
        until_ns = 0
        if until is not None:
            if until.tzinfo is None:
                raise BadRequest("until: an instant with its offset from UTC", param="until")
            seconds = (until - tx.by.at).total_seconds()
            if not 0 < seconds <= SILENCE_S_MAX:
                raise BadRequest("until: in the future, within 30 days", param="until")
            until_ns = int(until.timestamp()) * NS
        changed = msgspec.structs.replace(
            rule, silenced_until_ns=until_ns, silence_reason=tx.by.reason if until_ns else ""
        )
        action = "silence" if until_ns else "unsilence"
        return alerts.RULES.update(tx.conn, changed, tx.by, action=action)


def put_channel(
    api: Api, actor: Actor, tenant: str, name: str, spec: ChannelSpec, reason: Reason, revision: int | None = None
) -> Stored[Channel]:
    """Make or change a channel; its kind stays. Raises BadRequest, ConfigError, Conflict, Denied, NotFound."""
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        stored = alerts.CHANNELS.by_name(tx.conn, name, tenant_id)
        made = _channel(tx, tenant_id, name, spec, stored.value if stored is not None else None)
        other = made.kind == "webhook" and (stored is None or made.mark != stored.value.mark)
        sealed = address.seal(spec.url, made.id, tx.tools) if other else None
        if stored is None:
            if len(alerts.channels(tx.conn, tenant_id, _most(tx))) >= _most(tx):
                raise Conflict(f"there are {_most(tx)} channels already (alerts_channels_max)", code="too_many")
            new = alerts.CHANNELS.insert(tx.conn, made, tx.by)
            _keep_url(tx, made, sealed)
            return new
        if stored.value.kind != made.kind:
            raise Conflict("the kind of a channel does not change; make another one", code="kind_fixed")
        changed = alerts.CHANNELS.update(tx.conn, made, tx.by, revision=revision)
        _keep_url(tx, made, sealed)
        return changed


def delete_channel(api: Api, actor: Actor, tenant: str, name: str, reason: Reason) -> None:
    """Remove a channel that no rule names; what was still to be told there fails. Raises Conflict, Denied, NotFound."""
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        stored = channel_of(tx, tenant_id, name)
        for rule in alerts.rules(tx.conn, tenant_id, tx.tools.settings.alerts_rules_max):
            if name in rule.value.channels:
                raise Conflict(f"rule {rule.value.name!r} tells this channel", code="still_used")
        alerts.CHANNELS.delete(tx.conn, stored.value.id, tx.by)


def try_channel(api: Api, actor: Actor, tenant: str, name: str, reason: Reason) -> tuple[Event, outbox.Delivery]:
    """Tell a channel of a test, now; how that went. Raises Denied, NotFound."""
    if api.alerts is None:
        raise Unavailable("this control process tells nobody of alerts")
    with _changing(api, actor, tenant, name, reason) as (tx, tenant_id):
        channel = channel_of(tx, tenant_id, name).value
        event_id = tx.tools.new_id("alert_event")
        event = Event(event_id, tenant_id, channel.id, channel.name, "test", event_id, "test", "info", 0, 0,
                      f"sent by {actor.name}", 0, tx.tools.now())  # fmt: skip
        outbox.add(tx.conn, event, {channel.id: channel.name}, after_s=TEST_S)
        record(tx.conn, Change(tenant_id, "alert_channel.test", "alert_channel", channel.id), tx.by)
    api.alerts.sender.once(event.id)
    with _reading(api.store, tenant_id) as conn:
        return event, outbox.deliveries(conn, [event.id])[event.id][0]


def channel_of(tx: Tx, tenant_id: str, name: str) -> Stored[Channel]:
    """Raises NotFound."""
    stored = alerts.CHANNELS.by_name(tx.conn, name, tenant_id)
    if stored is None:
        raise missing("channel", name)
    return stored


def ensure_defaults(store: Store, tools: Tools) -> int:
    """The platform's first rules, without channels, where there never was one. How many were made."""
    by = Author("system", "system", "the first rules of this installation", tools.now())
    with store.platform() as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
        if alerts.ever(conn):
            return 0
        for name, spec in DEFAULTS.items():
            rule = AlertRule(tools.new_id("alert_rule"), "", name, spec.kind, spec.threshold)
            alerts.RULES.insert(conn, alert_rules.ruled(rule, spec), by)
    return len(DEFAULTS)


DEFAULTS: dict[str, RuleSpec] = {
    "budget-nearly-used": RuleSpec(kind=AlertKind.budget_used, threshold=900, for_s=0),
    "budget-will-not-last": RuleSpec(kind=AlertKind.budget_outlook, threshold=1100, for_s=900, severity="info"),
    "calls-fail": RuleSpec(
        kind=AlertKind.call_failures, threshold=50, window_s=600, for_s=120, count_min=20, severity="critical"
    ),
    "source-fails": RuleSpec(
        kind=AlertKind.source_failures, threshold=100, window_s=600, for_s=120, count_min=20
    ),
    "source-down": RuleSpec(kind=AlertKind.source_down, threshold=1000, for_s=120, severity="critical"),
    "source-full": RuleSpec(kind=AlertKind.source_waits, threshold=1, for_s=300),
    "denials-jump": RuleSpec(kind=AlertKind.denials, threshold=5000, window_s=600, for_s=120, count_min=30),
    "ledger-behind": RuleSpec(kind=AlertKind.ledger_lag, threshold=60, for_s=120, severity="critical"),
    "ledger-inbox": RuleSpec(kind=AlertKind.ledger_inbox, threshold=10_000, for_s=300),
    "node-silent": RuleSpec(kind=AlertKind.node_silent, threshold=60, for_s=30, severity="critical"),
}  # fmt: skip


@contextmanager
def _changing(api: Api, actor: Actor, tenant: str, name: str, reason: Reason) -> Iterator[tuple[Tx, str]]:
    """A write transaction where the alerts of `tenant` are; gives their tenant's id."""
    if not NAME.fullmatch(name):
        raise BadRequest("name: 1 to 100 letters, digits and . _ @ + -, beginning and ending with a letter or digit",
                         param="name")  # fmt: skip
    where = "" if tenant == PLATFORM else tenant
    with api.configurator.acting(actor, Ref("alert", where, name), Action.alert_write, reason) as tx:
        yield tx, tx.names.tenant(where)


@contextmanager
def _reading(store: Store, tenant_id: str) -> Iterator[Connection[Any]]:
    with store.tenant(tenant_id) if tenant_id else store.platform() as conn:
        yield conn


def _keep_url(tx: Tx, made: Channel, sealed: bytes | None) -> None:
    if sealed is not None:
        alerts.put_url(tx.conn, made.id, sealed, made.url, made.mark)


def _channel(tx: Tx, tenant_id: str, name: str, spec: ChannelSpec, known: Channel | None) -> Channel:
    settings = tx.tools.settings
    id_ = tx.tools.new_id("alert_channel") if known is None else known.id
    made = Channel(id_, tenant_id, name, spec.kind)
    if spec.kind == "webhook":
        if spec.addresses or spec.secret is None:
            raise BadRequest("a webhook has a url and a secret, and no addresses", param="secret")
        kept = known is not None and known.kind == "webhook" and spec.url in ("", shown_url(known.url))
        if not kept:
            webhook.check_url(spec.url, settings)
        secret = CredentialRef(env=spec.secret.env, file=spec.secret.file)
        check_reference(secret, tenant_id, settings, "secret")
        if kept and known is not None:
            return msgspec.structs.replace(made, url=known.url, secret=secret, mark=known.mark)
        told = address.mark(spec.url, id_, tx.tools)
        return msgspec.structs.replace(made, url=shown_url(spec.url), secret=secret, mark=told)
    if spec.url or spec.secret is not None or not 1 <= len(spec.addresses) <= settings.alerts_addresses_max:
        raise BadRequest(
            f"e-mail has 1 to {settings.alerts_addresses_max} addresses (alerts_addresses_max), and nothing else",
            param="addresses",
        )
    for each in spec.addresses:
        mail.check_address(each, settings)
    return msgspec.structs.replace(made, addresses=spec.addresses)


def _most(tx: Tx) -> int:
    return tx.tools.settings.alerts_channels_max
