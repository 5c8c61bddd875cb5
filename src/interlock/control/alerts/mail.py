"""E-mail by a mail server of the operator's: TLS unless a setting says otherwise, nothing that could end a header."""

from __future__ import annotations

import re
import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from interlock.control.alerts import words
from interlock.errors import BadRequest, DeliveryError
from interlock.settings import Settings
from interlock.storage.alert_events import Event

ADDRESS_CHARS_MAX = 254
LOCAL_CHARS_MAX = 64
"""RFC 5321, section 4.5.3.1."""
SUBJECT_CHARS_MAX = 200
_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@"
    r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
"""`Dot-string "@" Domain` of RFC 5321: no quoted strings, no address literals, and no white space of any kind."""


def check_address(address: str, settings: Settings) -> None:
    """Whether e-mail may go there. Raises BadRequest."""
    long = len(address) > ADDRESS_CHARS_MAX or len(address.partition("@")[0]) > LOCAL_CHARS_MAX
    if long or not _ADDRESS.fullmatch(address):
        raise BadRequest("addresses: such as ops@example.com, at most 254 characters", param="addresses")
    domains = [each.strip().lower() for each in settings.alerts_mail_domains.split(",") if each.strip()]
    if domains and address.rpartition("@")[2].lower() not in domains:
        raise BadRequest("addresses: e-mail goes to the domains of alerts_mail_domains only", param="addresses")


def message(event: Event, tenant: str, addresses: tuple[str, ...], sender: str, url: str) -> EmailMessage:
    """The e-mail of an event. INVARIANT: no header has a control character, whatever a name is."""
    out = EmailMessage(policy=SMTP)
    subject = "".join(c if c.isprintable() else " " for c in f"[{event.severity}] {words.summary(event)}")
    out["Subject"] = subject[:SUBJECT_CHARS_MAX]
    out["From"] = sender
    out["To"] = ", ".join(addresses)
    out["Date"] = format_datetime(event.at)
    out["Message-ID"] = f"<{event.id}@{sender.rpartition('@')[2]}>"
    out["Auto-Submitted"] = "auto-generated"
    out.set_content(words.text(event, tenant, url))
    return out


class Mailer:
    """Sends by the mail server of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def send(self, mail: EmailMessage, addresses: tuple[str, ...]) -> None:
        """Raises DeliveryError, also when one of the addresses was refused."""
        settings = self._settings
        if not settings.alerts_smtp_host:
            raise DeliveryError("no mail server is set (alerts_smtp_host)")
        if not _ADDRESS.fullmatch(settings.alerts_mail_from):
            raise DeliveryError("no address to send from is set (alerts_mail_from)")
        try:
            with self._connected() as server:
                if settings.alerts_smtp_user:
                    server.login(settings.alerts_smtp_user, self._password())
                refused = server.send_message(mail, settings.alerts_mail_from, list(addresses))
        except (OSError, smtplib.SMTPException, ValueError) as e:
            raise DeliveryError(f"the mail server did not take it: {_reason(e)}") from None
        if refused:
            raise DeliveryError(f"the mail server refused {len(refused)} of {len(addresses)} addresses")

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        host, port, timeout_s = settings.alerts_smtp_host, settings.alerts_smtp_port, settings.alerts_timeout_ms / 1000
        if settings.alerts_smtp_security == "plain":
            return smtplib.SMTP(host, port, timeout=timeout_s)
        context = ssl.create_default_context(cafile=settings.alerts_ca_file or None)
        if settings.alerts_smtp_security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=context)
        server = smtplib.SMTP(host, port, timeout=timeout_s)
        try:
            # INVARIANT: raises where the server offers none, so that nothing goes in the clear
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server

    def _password(self) -> str:
        path = self._settings.alerts_smtp_password_file
        if not path:
            raise DeliveryError("alerts_smtp_user is set, and alerts_smtp_password_file is not")
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as e:
            raise DeliveryError(f"{path} cannot be read: {e.strerror}") from None


def _reason(error: Exception) -> str:
    """Without what the server said: that may repeat addresses, and is not ours."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.smtp_code}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'not verified'})"
    return str(error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__
