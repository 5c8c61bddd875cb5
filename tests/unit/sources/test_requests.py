"""Heads of requests: exact bytes, and nothing in them that a value could break."""

from __future__ import annotations

import pytest

from interlock import __version__
from interlock.errors import ConfigError, UpstreamError
from interlock.sources.requests import build_get, build_head, split_url
from interlock.types.source import Source, SourceKind


def _source(url: str = "http://engine:8000", prefix: str = "/v1") -> Source:
    return Source("src_1", "local", SourceKind.vllm, url, api_prefix=prefix)


def test_the_bytes_of_a_head() -> None:
    head = build_head(
        _source(), "/chat/completions", 12, b"authorization: Bearer x\r\n", [(b"traceparent", b"00-a-b-01")]
    )
    assert head == (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        b"host: engine:8000\r\n"
        b"user-agent: interlock/" + __version__.encode() + b"\r\n"
        b"accept: application/json, text/event-stream\r\n"
        b"content-type: application/json\r\n"
        b"content-length: 12\r\n"
        b"authorization: Bearer x\r\n"
        b"traceparent: 00-a-b-01\r\n"
        b"\r\n"
    )


def test_a_get_beside_the_prefix() -> None:
    request = build_get(_source("https://api.example/base/"), "/metrics", api=False)
    assert request.startswith(b"GET /base/metrics HTTP/1.1\r\nhost: api.example\r\n")
    assert request.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a", b"a"),
        ("http://a:80/", b"a"),
        ("https://a:443", b"a"),
        ("http://a:443", b"a:443"),
        ("http://[::1]:8000", b"[::1]:8000"),
        ("http://b\u00fccher.example", b"xn--bcher-kva.example"),
    ],
)
def test_host_headers(url: str, host: bytes) -> None:
    assert b"\r\nhost: " + host + b"\r\n" in build_head(_source(url), "/x", 0)


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nx: y", b"a\rb", b"a\0b"])
def test_a_value_cannot_start_a_header_of_its_own(value: bytes) -> None:
    with pytest.raises(UpstreamError, match="line break") as e:
        build_head(_source(), "/x", 0, b"", [(b"x-request-id", value)])
    assert e.value.code == "invalid_header"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "engine:8000",
        "ftp://a",
        "http://",
        "http://user:secret@a",
        "http://a?x=1",
        "http://a#f",
        "http://a:99999",
        "http://a/b c",
        "http://a/b\r\nx: y",
        "http://[::1",
        "http://a/\u00e9",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as e:
        split_url(url, "base_url")
    assert e.value.param == "base_url"
    assert e.value.message.startswith("base_url: ")
