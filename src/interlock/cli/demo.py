"""`interlock up --demo`: two engines with a real model, two tenants with different rules, and what to try first.

The engine `local` has one slot; `spare`, in another region, has four and costs more, so it gets calls only when
`local` is saturated. The tenant acme may use both; globex must stay in its own region, so its calls never overflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlock.cli.client import pinned
from interlock.cli.demo_engine import MODEL, model_path
from interlock.cli.engines.llamacpp import check_package
from interlock.control.secrets import write_secret
from interlock.errors import Unavailable

if TYPE_CHECKING:
    from interlock.cli.client import AdminClient
    from interlock.settings import Settings

HOME = "~/.interlock"
"""Where the command line looks when it is told nothing."""
ENGINES = {"local": 1, "spare": 4}
"""Demo engines and their slots."""


def document(urls: dict[str, str], key_file: str) -> dict[str, Any]:
    """The demo's configuration, in the form of docs/configuration.md. `urls`: base URL by engine name;
    `key_file`: where the key is that the engines ask for."""
    sources = [
        {
            "name": "local",
            "kind": "llamacpp",
            "url": urls["local"],
            "credential": {"file": key_file},
            "granted_to": ["*"],
            "labels": {"region": "eu-central", "on_prem": True, "data_class_max": "restricted"},
            "limits": {"waiting_max": 0, "waiting_resume": 0},
        },
        {
            "name": "spare",
            "kind": "llamacpp",
            "url": urls["spare"],
            "credential": {"file": key_file},
            "granted_to": ["*"],
            "labels": {"region": "us-east", "on_prem": True, "data_class_max": "internal"},
            "models": [{"name": MODEL, "price": {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}}],
        },
    ]
    acme = {
        "name": "acme",
        "time_zone": "Europe/Berlin",
        "teams": [
            {"name": "research", "cost_center": "4711", "limits": {"requests_per_minute": 600}},
            {"name": "finance", "cost_center": "4712", "limits": {"requests_per_minute": 60}},
        ],
        "principals": [
            {"name": "rosa", "kind": "user", "teams": ["research"]},
            {"name": "felix", "kind": "user", "teams": ["finance"]},
        ],
        "keys": [
            {"name": "rosa-laptop", "principal": "rosa"},
            {"name": "felix-laptop", "principal": "felix", "data_class": "confidential"},
        ],
        "policies": [
            {
                "id": "research-models",
                "template": "team-may-use-models",
                "parameters": {"team": "research", "models": "*", "features": ["multiply"]},
            },
            {
                "id": "finance-models",
                "template": "team-may-use-models",
                "parameters": {"team": "finance", "models": [MODEL]},
            },
        ],
        "aliases": [{"name": "assistant", "targets": [{"model": MODEL}], "max_tokens": 256}],
    }
    globex = {
        "name": "globex",
        "teams": [{"name": "support"}],
        "principals": [{"name": "gina", "kind": "user", "teams": ["support"]}],
        "keys": [{"name": "gina-desk", "principal": "gina"}],
        "policies": [
            {
                "id": "support-models",
                "template": "team-may-use-models",
                "parameters": {"team": "support", "models": [MODEL]},
            },
            {"id": "stay-in-europe", "template": "region-stays-in-region", "parameters": {"regions": ["eu-central"]}},
        ],
    }
    return {"sources": sources, "tenants": [acme, globex]}


def ports(settings: Settings) -> dict[str, int]:
    """The engines' ports: those of the last start, so that the configuration stays as it is, or free ones."""
    file = settings.home_path("demo", "ports.json")
    try:
        known: dict[str, int] = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    chosen = {name: known.get(name, 0) for name in ENGINES}
    held = []
    try:
        for name, port in chosen.items():
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.append(sock)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                sock.bind(("127.0.0.1", 0))
            chosen[name] = sock.getsockname()[1]
    finally:
        for sock in held:
            sock.close()
    write_secret(file, json.dumps(chosen))
    return chosen


def engine_key(settings: Settings) -> Path:
    """The file of the key that the demo's engines ask for, made when there is none: nobody goes around Interlock."""
    file = settings.home_path("demo", "engine_key").absolute()
    if not file.exists():
        write_secret(file, secrets.token_urlsafe(32) + "\n")
    return file


def configure(settings: Settings, admin: AdminClient, urls: dict[str, str]) -> dict[str, Any]:
    """Apply the demo's configuration; returns tenants with their keys, those of earlier starts included."""
    text = json.dumps(document(urls, str(engine_key(settings))))
    answer = admin.call(
        "POST",
        "/apply",
        {"files": [{"name": "demo.json", "text": text}]},
        reason="the demo's configuration",
    )
    file = settings.home_path("demo", "keys.json")
    try:
        keys: dict[str, dict[str, str]] = json.loads(file.read_text())
    except (OSError, ValueError):
        keys = {}
    for tenant, new in answer.get("keys", {}).items():
        keys.setdefault(tenant, {}).update(new)
    write_secret(file, json.dumps(keys, indent=2) + "\n")
    order = {"acme": ("rosa-laptop", "felix-laptop"), "globex": ("gina-desk",)}
    return {
        tenant: {"keys": {name: keys[tenant][name] for name in names if name in keys.get(tenant, {})}}
        for tenant, names in order.items()
    }


def wait_for_models(settings: Settings, gateway: str, tenants: dict[str, Any], deadline: float) -> None:
    """Wait until the first key sees the demo's model: the configuration has reached the gateway.

    Raises Unavailable when it does not by `deadline` (monotonic seconds).
    """
    key = next(iter(tenants["acme"]["keys"].values()))
    request = urllib.request.Request(f"{gateway}/v1/models/{MODEL}", headers={"authorization": f"Bearer {key}"})  # noqa: S310
    tls = pinned(settings.tls_cert_file) if settings.tls_cert_file else None
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(request, timeout=5, context=tls),  # noqa: S310
        ):
            return
        time.sleep(0.05)
    raise Unavailable("the demo's configuration did not reach the gateway in time")


def check() -> Path:
    """The model's file, before anything is started. Raises ConfigError naming what is missing."""
    check_package()
    return model_path()


def first_minute(settings: Settings, gateway: str, tenants: dict[str, Any]) -> str:
    """What to try first: a permitted call, a denied one with its reason, an overflow."""
    curl = f"curl --cacert {shlex.quote(settings.tls_cert_file)}" if settings.tls_cert_file else "curl"
    home = "" if settings.home in (HOME, os.environ.get("INTERLOCK_HOME")) else f" --home {shlex.quote(settings.home)}"
    rosa = tenants["acme"]["keys"]["rosa-laptop"]
    felix = tenants["acme"]["keys"]["felix-laptop"]
    url = f"{gateway}/v1/chat/completions"
    ask = '{"model": "%s", "max_tokens": 40, "messages": [{"role": "user", "content": "%s"}]}'
    lines = [
        "",
        "Try it (each is one line):",
        "",
        "1. A permitted call; the headers say where it went and why:",
        f"   {curl} -si {url} -H 'authorization: Bearer {rosa}' --json '{ask % ('auto', 'What is a railway signal?')}'",
        "",
        "2. A denied one, with its reason: Felix's calls are confidential, this source may not see them:",
        f"   {curl} -s {url} -H 'authorization: Bearer {felix}' --json '{ask % ('spare::' + MODEL, 'Hello')}'",
        "",
        "3. An overflow: four calls at once, the engine 'local' has one slot; see x-interlock-source:",
        f"   for i in 1 2 3 4; do {curl} -si {url} -H 'authorization: Bearer {rosa}' --json "
        f"'{ask % (MODEL, 'Tell me a story.')}' | grep -i -E 'x-interlock-(source|decision)' & done; wait",
        "",
        f"Then: interlock ledger tail{home}    interlock route explain REQUEST_ID{home}",
        f"      interlock ledger show REQUEST_ID -t acme{home}    Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)
