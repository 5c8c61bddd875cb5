"""The gateway of these tests: its configuration, its clients, its records."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import openai

from interlock.ledger.reader import find_call, tail
from interlock.types.record import AttemptEnd, Intent, Outcome
from interlock.types.source import LoadReading
from tests.e2e.documents import written
from tests.e2e.stack import Answer, Stack, fetch, until

from .engines import MODEL, Vllm

WAITING_MAX = 2
"""Queue depth above which `near` counts as saturated."""
TAPPED = ("pass", "drop", "refuse")
"""Sources `tapped-<rule>` reach `near` through a tap, one per `extra_fields` rule."""
T = TypeVar("T")


class Tap:
    """A listener before one port that notes what passes upwards: what the engine was really sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def bodies(self) -> list[dict[str, Any]]:
        """JSON bodies of the calls since the last look, without what discovery asks."""
        found: list[dict[str, Any]] = []
        for connection in self._sent:
            sent = bytes(connection)
            del connection[: len(sent)]
            found += [json.loads(sent[m.end() : m.end() + int(m[1])]) for m in _POST.finditer(sent)]
        return [body for body in found if "min_tokens" not in body]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()
                    continue
                sent = bytearray()
                self._sent.append(sent)
                threading.Thread(target=_pump, args=(client, server, sent), daemon=True).start()
                threading.Thread(target=_pump, args=(server, client, None), daemon=True).start()


_POST = re.compile(rb"POST [^\r]*\r\n(?:[^\r]+\r\n)*?content-length: (\d+)\r\n(?:[^\r]+\r\n)*\r\n", re.IGNORECASE)


def _pump(come: socket.socket, go: socket.socket, note: bytearray | None) -> None:
    with contextlib.suppress(OSError), go:
        while data := come.recv(65_536):
            if note is not None:
                note += data
            go.sendall(data)


def document(vllm: dict[str, Vllm], tap: Tap) -> dict[str, Any]:
    """Two sources, one engine again behind the tap, and four tenants of which globex must stay in the EU; and for a
    fifth both engines again as replicas of each other."""
    price = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.2}
    near = {
        "name": "near",
        "kind": "vllm",
        "url": vllm["near"].url,
        "granted_to": ["acme", "globex"],
        "labels": {"region": "eu"},
        "price": price,
        "limits": {"waiting_max": WAITING_MAX, "waiting_resume": 0},
    }
    far = {
        "name": "far",
        "kind": "vllm",
        "url": vllm["far"].url,
        "granted_to": ["acme", "globex"],
        "labels": {"region": "us"},
        "price": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 4},
        "limits": {"waiting_max": 64},  # takes whatever overflows
    }
    tapped = [
        {"name": f"tapped-{rule}", "kind": "vllm", "url": tap.url, "granted_to": ["initech", "umbrella"]}
        | {"labels": {"region": "eu"}, "extra_fields": rule}
        for rule in TAPPED
    ]
    twins = [
        {"name": f"twin-{name}", "kind": "vllm", "url": vllm[name].url, "granted_to": ["hooli"]}
        | {"labels": {"region": "eu"}, "price": price, "limits": {"waiting_max": 64}}
        for name in ("near", "far")
    ]
    tenants = [_tenant(name) for name in ("acme", "globex", "initech", "umbrella", "hooli")]
    acme, globex, *_ = tenants
    acme["aliases"] = [{"name": "wordy", "targets": [{"model": MODEL, "source": "near"}], "max_tokens": 5000}]
    acme["policies"][0]["parameters"] = {"team": "all", "models": "*", "features": ["multiply"]}
    globex["policies"].append(
        {"id": "stay-in-europe", "template": "region-stays-in-region", "parameters": {"regions": ["eu"]}}
    )
    return {"sources": [near, far, *tapped, *twins], "tenants": tenants}


def _tenant(name: str) -> dict[str, Any]:
    policy = {"id": "models", "template": "team-may-use-models", "parameters": {"team": "all", "models": [MODEL]}}
    return {
        "name": name,
        "teams": [{"name": "all"}],
        "principals": [{"name": "app", "kind": "service", "teams": ["all"]}],
        "keys": [{"name": "key", "principal": "app"}],
        "policies": [policy],
    }


def configure(up: Stack, vllm: dict[str, Vllm], tap: Tap) -> dict[str, str]:
    """`interlock apply`, as an operator does it; returns a key by tenant, once the gateway knows them all."""
    with tempfile.TemporaryDirectory() as folder:
        applied = up.ok("apply", "-f", written(Path(folder), document(vllm, tap)))
    assert applied["discovery"] == {}, applied["discovery"]
    keys: dict[str, str] = {tenant: made["key"] for tenant, made in applied["keys"].items()}

    def known() -> bool:
        return all(fetch(up.gateway, f"/v1/models/{MODEL}", key).status == 200 for key in keys.values())

    until(known, 10, "the configuration to reach the gateway")
    return keys


class Site:
    """A running gateway before both instances."""

    def __init__(self, up: Stack, keys: dict[str, str], vllm: dict[str, Vllm], tap: Tap) -> None:
        self.up = up
        self.keys = keys
        self.vllm = vllm
        self.tap = tap

    @property
    def near(self) -> Vllm:
        """The preferred instance."""
        return self.vllm["near"]

    @property
    def far(self) -> Vllm:
        """The instance in another region, which costs more."""
        return self.vllm["far"]

    def client(self, tenant: str = "acme") -> openai.OpenAI:
        """An application that changed base_url and api_key, and nothing else."""
        return openai.OpenAI(base_url=f"{self.up.gateway}/v1", api_key=self.keys[tenant], max_retries=0, timeout=300)

    def client_async(self, tenant: str = "acme") -> openai.AsyncOpenAI:
        """The same, asynchronous."""
        url = f"{self.up.gateway}/v1"
        return openai.AsyncOpenAI(base_url=url, api_key=self.keys[tenant], max_retries=0, timeout=600)

    def chat(self, tenant: str = "acme", model: str = MODEL, text: str = "Say hello.", **fields: Any) -> Answer:
        """One chat completion, raw."""
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": text}], **fields}
        return fetch(self.up.gateway, "/v1/chat/completions", self.keys[tenant], body, timeout_s=300)

    def record(self, request_id: str, kind: type[T]) -> T:
        """The last record of one kind of a call, from the log."""
        call = find_call(self.up.home / "node" / "log", request_id)
        assert call is not None
        return [stored.record for stored in call.stored if isinstance(stored.record, kind)][-1]

    def lost_at(self, source: str) -> int:
        """How many attempts at a source have ended because nobody answered there, by the log."""
        records = (tailed.stored.record for tailed in tail(self.up.home / "node" / "log"))
        return sum(isinstance(r, AttemptEnd) and r.code == "connect_failed" and source in r.words for r in records)

    def outcome(self, request_id: str) -> Outcome:
        """How a recorded call ended."""
        return self.record(request_id, Outcome)

    def names(self) -> dict[str, str]:
        """Names of the sources, by id."""
        return {source["id"]: source["name"] for source in self.up.ok("source", "list")}

    def readings(self, intent: Intent, names: Mapping[str, str]) -> dict[str, LoadReading]:
        """What was known of each source's load when a call was routed, by source name."""
        return {names[source_id]: reading for source_id, reading in intent.route.readings}

    def gauge(self, name: str, source: str, **more: str) -> float:
        """A gauge of the gateway's own metrics; -1 when it is not there. `more`: its other labels."""
        page = fetch(self.up.gateway, "/metrics").body.decode()
        labels = ",".join(f'{label}="{value}"' for label, value in {"source": source, **more}.items())
        found = re.search(rf"^{name}\{{{labels}\}} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else -1

    def settle(self, timeout_s: float = 120) -> None:
        """Wait until both instances are idle, and the gateway takes both for up, free and without an open breaker."""
        names = ("near", "far")
        until(lambda: all(self.vllm[n].queue() == (0, 0) for n in names), timeout_s, "idle engines", 0.2)

        def free() -> bool:
            return all(
                self.gauge("interlock_source_up", name) == 1
                and self.gauge("interlock_source_breaker", name) <= 0
                and self.gauge("interlock_source_saturated", name) == 0
                and self.gauge("interlock_source_inflight", name) == 0
                for name in names
            )

        until(free, timeout_s, "the gateway to see idle engines", 0.2)


def seconds(began: float) -> float:
    """Since `began` (monotonic)."""
    return time.monotonic() - began
