"""The settings of alerts. They are part of `interlock.settings.Settings`, which is what everybody uses."""

from __future__ import annotations

import dataclasses

from interlock.settings_keys import OwnKeySettings
from interlock.settings_waits import setting


@dataclasses.dataclass(init=False, repr=False, eq=False, frozen=True, slots=True, kw_only=True)
class AlertSettings(OwnKeySettings):
    """See Settings."""

    alerts_interval_s: int = setting(15, "How often rules of alerts are evaluated.", group="alerts", minimum=1)
    alerts_rules_max: int = setting(
        50, "Rules that a tenant, or the platform, may have.", group="alerts", minimum=1
    )  # fmt: skip
    alerts_channels_max: int = setting(
        20, "Channels that a tenant, or the platform, may have.", group="alerts", minimum=1
    )
    alerts_addresses_max: int = setting(10, "E-mail addresses of one channel.", group="alerts", minimum=1)
    alerts_attempts_max: int = setting(
        12, "Attempts at telling a channel of an event, before that is given up.", group="alerts", minimum=1
    )
    alerts_retry_s: int = setting(
        5, "Wait before the second attempt; doubled with each, up to an hour.", group="alerts", minimum=1
    )
    alerts_keep_days: int = setting(30, "How long events are kept.", group="alerts", minimum=1)
    alerts_events_max: int = setting(
        100_000, "Events that are kept; of more, the oldest go.", group="alerts", minimum=100
    )
    alerts_hosts_private: str = setting(
        "",
        "Host names of webhooks, with commas between them, that may have private or loopback addresses; loopback ones"
        " may use http.",
        group="alerts",
    )
    alerts_ca_file: str = setting(
        "", "CA bundle (PEM) for webhooks and the mail server; empty: the system's.", group="alerts"
    )
    alerts_timeout_ms: int = setting(10_000, "Longest attempt to tell a channel.", group="alerts", minimum=100)
    alerts_answer_bytes_max: int = setting(
        16_384, "Largest answer of a webhook that is read.", group="alerts", minimum=1024
    )
    alerts_smtp_host: str = setting(
        "", "Mail server (submission, RFC 6409) for channels by e-mail; empty: no e-mail is sent.", group="alerts"
    )
    alerts_smtp_port: int = setting(587, "Its port.", group="alerts", minimum=1)
    alerts_smtp_security: str = setting(
        "starttls",
        "How it is spoken to: starttls, tls (from the first byte, RFC 8314), or plain: without either.",
        group="alerts",
    )
    alerts_smtp_user: str = setting("", "User there; empty: none.", group="alerts")
    alerts_smtp_password_file: str = setting("", "File with that user's password.", group="alerts")
    alerts_mail_from: str = setting("", "Address that alerts are sent from.", group="alerts")
    alerts_mail_domains: str = setting(
        "", "Domains that e-mail may go to, with commas between them; empty: any.", group="alerts"
    )
