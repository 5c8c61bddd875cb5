"""Tells channels of events: takes what is due out of the outbox, tries, and writes down what became of it.

At least once: a delivery that was taken by a process that died is due again when its lease is over. Every attempt has
the event's id, by which a receiver knows one that it had before.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections import Counter

import psycopg

from interlock.control.alerts import address, mail, webhook, words
from interlock.control.services.base import Names, Tools
from interlock.errors import DeliveryError, InterlockError
from interlock.identity.fetch import Resolve, resolve
from interlock.sources.credentials import CredentialStore
from interlock.storage import alert_events as outbox
from interlock.storage import alerts
from interlock.storage.alert_events import Due
from interlock.storage.pool import Store
from interlock.types.alert import Channel

logger = logging.getLogger(__name__)

LOOK_S = 1.0
AT_ONCE = 10
"""Deliveries taken at a time, one after another: each may take `alerts_timeout_ms`, in which its lease must not end."""
RETRY_S_MAX = 3600


class AlertSender:
    """One control process's; any number may send. `outcomes`: attempts by channel kind and outcome (delivered, retried,
    failed)."""

    def __init__(self, store: Store, tools: Tools, resolver: Resolve = resolve) -> None:
        self._store = store
        self._tools = tools
        self._credentials = CredentialStore(tools.settings)
        self._webhooks = webhook.Webhooks(tools.settings, resolver)
        self._mailer = mail.Mailer(tools.settings)
        self._turn = threading.Lock()
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. An outage of the database is waited out."""
        failing = False
        while not stop.wait(LOOK_S):
            try:
                while self.once() == AT_ONCE and not stop.is_set():
                    pass
                failing = False
            except (InterlockError, psycopg.Error) as e:
                if not failing:
                    logger.warning("nobody is told of alerts: %s", e.message if isinstance(e, InterlockError) else e)
                failing = True
            except Exception:
                logger.exception("nobody is told of alerts")
                failing = True

    def once(self, event_id: str = "") -> int:
        """Try what is due (`event_id`: of this event only); how many that were. Raises StoreError."""
        lease_s = 30 + 2 * AT_ONCE * self._tools.settings.alerts_timeout_ms / 1000
        with self._store.platform() as conn:
            taken = outbox.take(conn, self._tools.now(), lease_s, AT_ONCE, event_id)
        for due in taken:
            self._try(due)
        return len(taken)

    def _try(self, due: Due) -> None:
        with self._store.platform() as conn:
            channel = alerts.channel(conn, due.channel_id)
            tenant = Names(conn).of(due.event.tenant_id)
        kind, error, hopeless = channel.kind if channel is not None else "none", "", False
        try:
            if channel is None or channel.tenant_id != due.event.tenant_id:
                hopeless = True
                raise DeliveryError("the channel was removed")
            if due.attempts > self._tools.settings.alerts_attempts_max:
                raise DeliveryError("the processes that tried ended before they could tell")
            self._tell(due, channel, tenant)
        except InterlockError as e:
            error = e.message
        except Exception as e:
            logger.exception("a channel of alerts could not be told")
            error = type(e).__name__
        self._note(due, kind, error, hopeless)

    def _tell(self, due: Due, channel: Channel, tenant: str) -> None:
        settings = self._tools.settings
        url = f"{settings.console_url.rstrip('/')}/console/alerts" if settings.console_url else ""
        if channel.kind == "email":
            message = mail.message(due.event, tenant, channel.addresses, settings.alerts_mail_from, url)
            self._mailer.send(message, channel.addresses)
            return
        if channel.secret is None:
            raise DeliveryError("the channel has no signing secret")
        with self._turn:
            self._credentials.check(self._tools.clock.mono_ns() / 1e9)
            secret = self._credentials.secret(f"channel {channel.name!r}", channel.tenant_id, channel.secret)
        body = words.body(due.event, tenant, url)
        at_s = self._tools.clock.wall_ns() // 1_000_000_000
        with self._store.platform() as conn:
            sealed = alerts.sealed_url(conn, channel.id)
        to = address.opened(channel, sealed, self._tools)
        self._webhooks.post(to, body, webhook.headers(due.event.id, at_s, body, secret))

    def _note(self, due: Due, kind: str, error: str, hopeless: bool) -> None:
        now, settings = self._tools.now(), self._tools.settings
        with self._store.platform() as conn:
            if not error:
                outbox.delivered(conn, due, now)
                self.outcomes[kind, "delivered"] += 1
                return
            last = hopeless or due.event.kind == "test" or due.attempts >= settings.alerts_attempts_max
            again = None if last else now + datetime.timedelta(seconds=wait_s(due.attempts, settings.alerts_retry_s))
            outbox.missed(conn, due, error, again, now)
        self.outcomes[kind, "failed" if last else "retried"] += 1
        logger.log(
            logging.ERROR if last else logging.WARNING,
            "an alert was not delivered%s: %s",
            ", and is given up" if last else "",
            error,
            extra={"event": due.event.id, "channel": due.channel_id, "attempts": due.attempts},
        )


def wait_s(attempts: int, first_s: int) -> int:
    """Seconds until the next attempt after so many: doubled with each, at most an hour. Pure."""
    return int(min(RETRY_S_MAX, first_s << min(attempts - 1, 20)))
