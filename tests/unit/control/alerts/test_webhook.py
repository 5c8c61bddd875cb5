"""Webhooks: signed as the specification says, and sent to no address that a stranger may not choose."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
from typing import Any

import pytest

from interlock.control.alerts import webhook, words
from interlock.errors import BadRequest, DeliveryError
from interlock.settings import Settings
from interlock.storage.alert_events import Event
from tests.integration.alerts.scene import SECRET, Receiver

SETTINGS = Settings(alerts_hosts_private="127.0.0.1,localhost,hooks.intern", alerts_timeout_ms=2000)
EVENT = Event("ale_1", "ten_1", "alr_1", "budget-nearly-used", "budget_used", "month", "firing", "critical", 935, 900,
              "used of it", 1, datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC))  # fmt: skip


def to(*addresses: str) -> webhook.Resolve:
    async def resolver(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolver


def test_the_signature_is_that_of_the_specification() -> None:
    """Against the example that its libraries test themselves with."""
    sent = webhook.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', SECRET)
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (sent["webhook-id"], sent["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


@pytest.mark.parametrize("part", ["event", "time", "body", "secret"])
def test_each_part_is_signed(part: str) -> None:
    given: dict[str, Any] = {"event_id": "e", "at_s": 5, "body": b"{}", "secret": "s" * 24}
    other = {**given, **{"event": {"event_id": "f"}, "time": {"at_s": 6}, "body": {"body": b"[]"},
                         "secret": {"secret": "t" * 24}}[part]}  # fmt: skip
    one, two = webhook.headers(**given), webhook.headers(**other)
    assert one["webhook-signature"] != two["webhook-signature"]
    plain = hmac.new(b"s" * 24, b"e.5.{}", hashlib.sha256).digest()
    assert one["webhook-signature"] == "v1," + base64.b64encode(plain).decode()


@pytest.mark.parametrize("secret", ["short", "whsec_AAAA", "whsec_???", ""])
def test_a_secret_that_signs_nothing_is_refused_without_being_said(secret: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        webhook.key_of(secret)
    assert not secret or secret not in caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "::1", "10.0.0.5", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "fe80::1", "fd00::1", "::ffff:10.0.0.5", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "224.0.0.1", "255.255.255.255", "198.18.0.1", "::127.0.0.1", "::169.254.169.254", "64:ff9b:1::7f00:1",
        "fec0::1",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_before_anything_is_sent(address: str) -> None:
    for addresses in ((address,), ("93.184.216.34", address)):
        sender = webhook.Webhooks(SETTINGS, to(*addresses))
        with pytest.raises(DeliveryError, match="address") as caught:
            sender.post("https://evil.example/hook", b"{}", {})
        assert address not in caught.value.message, "what a name resolves to inside is not told"


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "fe80::1", "224.0.0.1", "::127.0.0.1", "fec0::1"])
def test_no_setting_allows_link_local_or_multicast(address: str) -> None:
    with pytest.raises(DeliveryError, match="no webhook can have"):
        webhook.Webhooks(SETTINGS, to(address)).post("https://hooks.intern/", b"{}", {})


def test_a_named_private_host_is_dialled_as_it_was_resolved_and_only_once() -> None:
    asked = []

    async def rebinds(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    with Receiver() as hook:
        webhook.Webhooks(SETTINGS, rebinds).post(f"http://localhost:{hook.port}/x?y=1", b"{}", {"a": "b"})
        assert asked == ["localhost"] and hook.got[0].path == "/x?y=1"
        assert hook.got[0].headers["host"] == f"localhost:{hook.port}"


def test_a_redirect_is_not_followed_and_a_slow_or_endless_answer_is_given_up() -> None:
    with Receiver() as hook, Receiver() as other:
        hook.statuses, hook.headers = [302], {"location": other.url}
        with pytest.raises(DeliveryError, match="redirect"):
            webhook.Webhooks(SETTINGS).post(hook.url, b"{}", {})
        assert other.got == []
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        short = dataclasses.replace(SETTINGS, alerts_timeout_ms=300)
        with pytest.raises(DeliveryError):
            webhook.Webhooks(short).post(f"http://127.0.0.1:{silent.getsockname()[1]}/", b"{}", {})


def test_http_goes_to_loopback_only() -> None:
    with pytest.raises(DeliveryError, match="https"):
        webhook.Webhooks(SETTINGS, to("10.0.0.1")).post("http://hooks.intern/", b"{}", {})


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "ftp://example.com", "https://", "https://a:b@example.com/", "https://example.com/#f",
        "https://example.com/a b", "https://example.com/\r\nX: y", "https://example.com/\nx", "https://exa\tmple.com/",
        "https://example.com/\u2028", "https://example.com:99999/", "https://[::1", "example.com", "", "file:///etc",
        "https://example.com/" + "a" * 2048, "javascript:alert(1)",
    ],
)  # fmt: skip
def test_urls_that_a_channel_cannot_have(url: str) -> None:
    with pytest.raises(BadRequest):
        webhook.check_url(url, SETTINGS)


@pytest.mark.parametrize("url", ["https://example.com/x?y=z", "https://[2606:4700::1]/", "http://127.0.0.1:9/x"])
def test_urls_that_it_can(url: str) -> None:
    webhook.check_url(url, SETTINGS)


def test_the_words_have_values_with_units() -> None:
    assert words.summary(EVENT) == "budget-nearly-used of month fires: 93.5 %, threshold 90 %"
    assert words.shown(120, "ledger_lag") == "120 s" and words.shown(17, "source_queue") == "17"
