"""Alerts by e-mail, through a mail server that is not ours: TLS or nothing, and no header but those that are meant."""

from __future__ import annotations

import contextlib
import datetime
import email
import email.policy
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from interlock.control.alerts import mail
from interlock.errors import BadRequest, DeliveryError
from interlock.settings import Settings
from interlock.storage.alert_events import Event
from tests.e2e import certificates
from tests.integration.control_client import Running, control_over
from tests.ports import free_port

from .scene import Process, clock_of_now

PASSWORD = "the mail server's password"
EVENT = Event("ale_1", "", "alr_1", "node-silent", "node_silent", "n1", "firing", "critical", 75, 60, "not heard of", 1,
              datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC))  # fmt: skip


class Post:
    """What a mail server took."""

    def __init__(self) -> None:
        self.took: list[Envelope] = []
        self.tls: list[bool] = []
        self.users: list[str] = []
        self.refuses = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuses:
            self.refuses -= 1
            return "451 later, please"
        self.took.append(envelope)
        self.tls.append(session.ssl is not None)
        return "250 taken"

    def check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == PASSWORD.encode())


@contextlib.contextmanager
def server(folder: Path, post: Post, *, tls: bool = True) -> Iterator[dict[str, Any]]:
    """A mail server on 127.0.0.1; gives the settings that reach it."""
    certificates.make(folder / "cert.pem", folder / "key.pem", "mail")
    (folder / "password").write_text(PASSWORD + "\n")
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    controller = Controller(
        post,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=context,
        require_starttls=tls,
        authenticator=post.check,
        auth_required=tls,
        auth_require_tls=tls,
    )
    controller.start()
    try:
        yield {
            "alerts_smtp_host": "127.0.0.1",
            "alerts_smtp_port": controller.port,
            "alerts_mail_from": "interlock@example.com",
            "alerts_ca_file": str(folder / "cert.pem"),
            "alerts_smtp_user": "interlock" if tls else "",
            "alerts_smtp_password_file": str(folder / "password"),
        }
    finally:
        controller.stop()


def send(settings: Settings, event: Event = EVENT, to: tuple[str, ...] = ("ops@example.com",)) -> None:
    mail.Mailer(settings).send(mail.message(event, "", to, settings.alerts_mail_from, ""), to)


def test_an_alert_arrives_by_starttls_with_the_servers_password(tmp_path: Path) -> None:
    post = Post()
    with server(tmp_path, post) as reached:
        send(Settings(**reached), to=("ops@example.com", "sec@example.com"))
    (took,) = post.took
    assert post.tls == [True] and post.users == ["interlock"]
    assert took.rcpt_tos == ["ops@example.com", "sec@example.com"] and took.mail_from == "interlock@example.com"
    assert isinstance(took.content, bytes)
    seen = email.message_from_bytes(took.content, policy=email.policy.default)
    assert seen["subject"] == "[critical] node-silent of n1 fires: 75 s, threshold 60 s"
    assert seen["auto-submitted"] == "auto-generated" and "not heard of" in seen.get_content()


def test_without_tls_nothing_is_sent_unless_the_setting_says_plain(tmp_path: Path) -> None:
    post = Post()
    with server(tmp_path, post, tls=False) as reached:
        with pytest.raises(DeliveryError):
            send(Settings(**reached))
        with pytest.raises(DeliveryError):
            send(Settings(**reached, alerts_smtp_security="tls"))
        assert post.took == []
        send(Settings(**reached, alerts_smtp_security="plain"))
    assert post.tls == [False]


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    post = Post()
    with server(tmp_path, post) as reached, pytest.raises(DeliveryError, match="TLS"):
        send(Settings(**{**reached, "alerts_ca_file": ""}))
    assert post.took == []


@pytest.mark.parametrize(
    "words", ["x\r\nBcc: eve@example.com", "x\nBcc: eve@example.com", "x\u2028y", "x\x00y", "x" * 5000, "käse 🧀"]
)
def test_no_name_becomes_a_header(words: str, tmp_path: Path) -> None:
    """Names of rules cannot have such characters (refused at the door); should one get in, it stays in its header."""
    event = Event("ale_2", "", "alr_1", words, "node_silent", words, "firing", "critical", 75, 60, words, 1, EVENT.at)
    post = Post()
    with server(tmp_path, post) as reached:
        send(Settings(**reached), event)
    assert isinstance(post.took[0].content, bytes)
    seen = email.message_from_bytes(post.took[0].content, policy=email.policy.default)
    assert seen["bcc"] is None and post.took[0].rcpt_tos == ["ops@example.com"]
    assert sorted(map(str.lower, seen.keys())) == sorted(
        ["subject", "from", "to", "date", "message-id", "auto-submitted", "content-type", "mime-version",
         "content-transfer-encoding", *(["x-peer"] if seen["x-peer"] else [])]
    )  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "a@b.c\r\nBcc: eve@example.com", "a@b.c\n", "\na@b.c", "a b@c.d", "a@b.c,e@f.g", "a@b.c>", "<a@b.c>", "a",
        "@b.c", "a@", "a@-b.c", "a..b@c.d", '"a b"@c.d', "a@[127.0.0.1]", "ä@b.c", "a@b\u3002c", "a@b.c\x00",
        "a" * 65 + "@b.c",
    ],
)  # fmt: skip
def test_addresses_that_a_channel_cannot_have(address: str) -> None:
    with pytest.raises(BadRequest):
        mail.check_address(address, Settings())


def test_addresses_may_be_bound_to_domains() -> None:
    bound = Settings(alerts_mail_domains="example.com, example.org")
    mail.check_address("o'brien+x@EXAMPLE.com", bound)
    for address in ("a@example.net", "a@sub.example.com", "a@example.com.evil.net"):
        with pytest.raises(BadRequest, match="domains"):
            mail.check_address(address, bound)


@pytest.fixture
def running(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Running, Post]]:
    post = Post()
    with server(tmp_path, post) as reached, control_over(postgres_url, **reached) as running:
        yield running, post


def test_a_channel_by_mail_is_told_and_told_again_when_the_server_was_busy(running: tuple[Running, Post]) -> None:
    control, post = running
    owner = control.owner
    body = {"kind": "email", "addresses": ["ops@example.com"]}
    assert owner.call("PUT", "/alerts/channels/m", {**body, "url": "https://example.com"})[0] == 400
    assert owner.call("PUT", "/alerts/channels/m", {**body, "addresses": ["a@b.c\r\nX: y"]})[0] == 400
    owner.do("PUT", "/alerts/channels/m", body)
    assert owner.do("POST", "/alerts/channels/m/test", {})["delivery"]["state"] == "delivered"
    rule = {"kind": "ledger_inbox", "threshold": 1, "for_s": 0, "channels": ["m"]}
    owner.do("PUT", "/alerts/rules/inbox", rule)  # which itself waits for its place in the ledger
    process = Process(control, clock_of_now(control))
    assert ("inbox", "", "firing") in process.look()
    post.refuses = 1
    process.send()
    failed = owner.get("/alerts")["events"][0]["deliveries"][0]
    assert failed["state"] == "waiting" and "451" in failed["error"] and "please" not in failed["error"]
    process.send(6)
    assert len(post.took) == 2
    assert owner.get("/alerts")["events"][0]["deliveries"][0]["state"] == "delivered"
