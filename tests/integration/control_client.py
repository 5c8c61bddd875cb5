"""The admin API over a real database, called in process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.identity import ensure_admin
from interlock.control.main import Control
from interlock.control.services.sources import Found
from interlock.settings import Settings
from interlock.types.source import Model, Source


class Engines:
    """Stands for the network: what discovery finds, by URL; anything else does not answer."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[Model, ...]] = {}
        self.asked: list[Source] = []

    def __call__(self, source: Source) -> Found:
        self.asked.append(source)
        models = self.models.get(source.base_url)
        if models is None:
            return Found(error=f"source {source.name!r} refused the connection")
        return Found(engine="scripted", engine_version="1.0", models=models)


class Admin:
    """A client with one key. Answers are (status, JSON)."""

    def __init__(self, http: TestClient, key: str) -> None:
        self.http = http
        self.key = key

    def call(self, method: str, path: str, body: Any = None, reason: str = "test", **headers: str) -> tuple[int, Any]:
        """One request to /admin/v1."""
        sent = {"authorization": f"Bearer {self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if reason:
            sent["x-interlock-reason"] = reason
        answer = self.http.request(method, "/admin/v1" + path, json=body, headers=sent)
        return answer.status_code, answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    def get(self, path: str) -> Any:
        """A GET that must succeed."""
        status, value = self.call("GET", path, reason="")
        assert status == 200, value
        return value

    def do(self, method: str, path: str, body: Any = None) -> Any:
        """A change that must succeed."""
        status, value = self.call(method, path, body)
        assert status in (200, 201), value
        return value

    def apply(self, text: str, name: str = "x.yaml") -> Any:
        """Apply one document; it must succeed."""
        return self.do("POST", "/apply", {"files": [{"name": name, "text": text}]})


class Running:
    """A control plane without threads and server: compiled when a test says so."""

    def __init__(self, control: Control, http: TestClient, engines: Engines) -> None:
        self.control = control
        self.http = http
        self.engines = engines
        self.owner = Admin(http, Path(control.settings.home, "secrets", "admin_key").read_text().strip())

    def as_(self, key: str) -> Admin:
        """A client with another key."""
        return Admin(self.http, key)


@contextmanager
def control_over(url: str, **settings: Any) -> Iterator[Running]:
    """A control plane over this database, with its own home folder."""
    with tempfile.TemporaryDirectory() as home:
        engines = Engines()
        control = Control(Settings(home=home, **settings), url, discover=engines)
        try:
            ensure_admin(control.store, control.tools)
            control.compiler.compile_once()
            with TestClient(make_app(control.api), raise_server_exceptions=False) as http:
                yield Running(control, http, engines)
        finally:
            control.close()
