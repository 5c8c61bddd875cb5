"""In earnest: behind TLS, before an engine that Interlock did not start, put there by `interlock apply`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tests.engines import Engine, llamacpp, tool_example

from .certificates import make
from .documents import MODEL, one_engine, written
from .stack import Stack, fetch, running, temporary_home, until

__all__ = ["llamacpp"]

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Secured(NamedTuple):
    """A stack behind TLS, its files and its one key."""

    stack: Stack
    cert: Path
    key_file: Path
    key: str

    def trust(self) -> ssl.SSLContext:
        """A client context that trusts what is in the file now."""
        return ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="module")
def secured(llamacpp: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key_file = folder / "cert.pem", folder / "key.pem"
    make(cert, key_file, "first")
    environment = {
        "INTERLOCK_TLS_CERT_FILE": str(cert),
        "INTERLOCK_TLS_KEY_FILE": str(key_file),
        "INTERLOCK_TLS_RELOAD_INTERVAL_MS": "200",
        "INTERLOCK_WORKERS": "1",
    }
    with temporary_home() as home, running(home, environment=environment) as stack:
        assert stack.gateway.startswith("https://")
        made = stack.ok("apply", "-f", written(folder, one_engine(llamacpp.base_url)), "-m", "the first engine")
        found = Secured(stack, cert, key_file, made["keys"]["acme"]["alice-laptop"])
        tls = found.trust()
        until(lambda: fetch(stack.gateway, f"/v1/models/{MODEL}", found.key, tls=tls).status == 200, 180, "the key")
        yield found


@pytest.fixture(scope="module")
def client(secured: Secured) -> Iterator[openai.OpenAI]:
    http = httpx2.Client(verify=secured.trust(), timeout=180)
    with openai.OpenAI(
        base_url=f"{secured.stack.gateway}/v1", api_key=secured.key, max_retries=0, http_client=http
    ) as made:
        yield made


def test_the_engine_was_discovered(secured: Secured) -> None:
    shown = secured.stack.ok("source", "show", "workshop")
    assert shown["engine"] == "llama.cpp"
    (offer,) = shown["offers"]
    assert offer["name"] == MODEL
    assert offer["context_length"] == 4096
    assert {"chat", "tools", "json_schema"} <= set(offer["abilities"])


def test_calls_through_tls(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Say hello."}]
    whole = client.chat.completions.create(model=MODEL, messages=question, max_tokens=6, temperature=0, seed=1)
    stream = client.chat.completions.create(
        model=MODEL, messages=question, max_tokens=6, temperature=0, seed=1, stream=True
    )
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text == whole.choices[0].message.content


def test_tools_streamed_and_not(client: openai.OpenAI) -> None:
    messages: Any = [
        *tool_example("get_weather", {"city": "Oslo"}, "rain", "Weather in Oslo?"),
        {"role": "user", "content": "Weather in Paris?"},
    ]
    given: Any = {"model": MODEL, "messages": messages, "tools": [TOOL], "tool_choice": "auto"}
    answer = client.chat.completions.create(**given, max_tokens=60, temperature=0)
    calls = answer.choices[0].message.tool_calls
    assert calls, answer
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert "city" in json.loads(calls[0].function.arguments)
    parts = [
        call.function.arguments or ""
        for chunk in client.chat.completions.create(**given, max_tokens=60, temperature=0, stream=True)
        if chunk.choices
        for call in chunk.choices[0].delta.tool_calls or ()
        if call.function is not None
    ]
    assert json.loads("".join(parts)) == json.loads(calls[0].function.arguments)


def test_async_over_tls(secured: Secured) -> None:
    async def main() -> str:
        http = httpx2.AsyncClient(verify=secured.trust(), timeout=180)
        async with openai.AsyncOpenAI(
            base_url=f"{secured.stack.gateway}/v1", api_key=secured.key, max_retries=0, http_client=http
        ) as client:
            question: Any = [{"role": "user", "content": "Say hello."}]
            answer = await client.chat.completions.create(model=MODEL, messages=question, max_tokens=3)
            return answer.choices[0].message.content or ""

    assert asyncio.run(main())


def served(url: str) -> bytes:
    """The certificate (DER) that the gateway shows."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((parts.hostname or "", parts.port or 0), 60) as raw, context.wrap_socket(raw) as tls:
        return tls.getpeercert(binary_form=True) or b""


def test_the_certificate_is_taken_again_when_its_files_change(secured: Secured) -> None:
    url = secured.stack.gateway
    first = served(url)
    held = httpx2.Client(verify=secured.trust(), headers={"authorization": f"Bearer {secured.key}"})
    with held:
        assert held.get(f"{url}/v1/models").status_code == 200
        aside = secured.cert.with_suffix(".new"), secured.key_file.with_suffix(".new")
        second = make(*aside, "second")
        aside[0].replace(secured.cert)  # for a moment certificate and key do not belong together
        until(lambda: "certificate not reloaded" in secured.stack.log.read_text(), 180, "the mismatch to be noticed")
        assert served(url) == first, "the old pair stays in use"
        aside[1].replace(secured.key_file)
        until(lambda: served(url) == second, 180, "the new certificate")
        assert held.get(f"{url}/v1/models").status_code == 200, "connections that are open go on"
    assert fetch(url, "/health", tls=secured.trust()).status == 200


def test_plain_text_and_old_protocols_are_refused(secured: Secured) -> None:
    parts = urlsplit(secured.stack.gateway)
    with socket.create_connection((parts.hostname or "", parts.port or 0), 60) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = raw.recv(4096)
    assert b"200 OK" not in said
    assert b"HTTP/1.1" not in said
