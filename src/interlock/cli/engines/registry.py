"""The engine's source in the admin API: registered, reported on, removed. A thread, so that an admin API which is slow
or away stops neither the engine nor its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from interlock.cli.client import AdminClient, Refused
from interlock.control.documents import SourceSpec
from interlock.errors import ConfigError, InterlockError
from interlock.types.source import ENGINE_COLD, EngineState

logger = logging.getLogger(__name__)

RETRY_S = 1.0
_ALIVE = ENGINE_COLD | {EngineState.ready.value, EngineState.stopping.value}


class Registration(NamedTuple):
    """What is registered. `options`: fields of the declaration that were given by hand; others stay as they are."""

    source: str
    kind: str
    url: str
    key_file: str
    model: str
    options: Mapping[str, Any]
    host: str
    log: str


def declared(now: Mapping[str, Any] | None, wanted: Registration, version: str) -> dict[str, Any]:
    """The declaration of the engine's source: what there is of it, with the engine's address, credential and version.

    `now`: the source as the admin API shows it, None when there is none. Raises ConfigError when it is not ours.
    """
    if now is not None:
        _check_ours(now, wanted)
    fields = set(SourceSpec.__struct_encode_fields__)
    spec = {name: value for name, value in (now or {}).items() if name in fields and value is not None}
    spec |= {"name": wanted.source, "kind": wanted.kind, "url": wanted.url, "credential": {"file": wanted.key_file}}
    labels = {**(spec.get("labels") or {}), **wanted.options.get("labels", {})}
    spec |= {**wanted.options, "labels": labels}
    pins = [dict(pin) for pin in spec.get("models", ())]
    pin = next((pin for pin in pins if pin["name"] == wanted.model), None)
    if pin is None:
        pin = {"name": wanted.model}
        pins.append(pin)
    pin["version"] = version
    spec["models"] = pins
    return spec


def _check_ours(now: Mapping[str, Any], wanted: Registration) -> None:
    managed = now.get("managed")
    if not managed and (now.get("credential") or {}).get("file") != wanted.key_file:
        raise ConfigError(
            f"there is a source {wanted.source!r} already, and no engine of ours behind it ({now['url']});"
            " --name gives this one another name",
            param="name",
        )
    if managed and managed["state"] in _ALIVE and managed["host"] not in ("", wanted.host):
        raise ConfigError(
            f"the engine of source {wanted.source!r} runs on {managed['host']}; --name gives this one another name",
            param="name",
        )


NODE_SILENT_S = 60


def check_nodes(nodes: list[dict[str, Any]]) -> None:
    """Raise ConfigError when several gateway nodes are at work: each would look for the engine on its own machine."""
    alive = sorted(node["name"] for node in nodes if node["seen_s_ago"] < NODE_SILENT_S)
    if len(alive) > 1:
        raise ConfigError(
            f"gateways run on {', '.join(alive)}: a managed engine listens on this machine's loopback only."
            " Start the engine by other means and register it by an address that all of them reach",
            param="source",
        )


class Registry(threading.Thread):
    """Keeps the source as the supervisor wants it. `refused`: why the admin API does not want it, then nothing more is
    tried."""

    def __init__(self, admin: AdminClient, wanted: Registration, report_s: float) -> None:
        super().__init__(name="registry", daemon=True)
        self._admin = admin
        self._wanted = wanted
        self._report_s = report_s
        self._path = f"/sources/{quote(wanted.source, safe='')}"
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._version = ""
        self._said: dict[str, Any] = {}
        self._registered = ""
        """The version that the source was registered with."""
        self._sent: dict[str, Any] = {}
        self._closed = threading.Event()
        self.refused: InterlockError | None = None

    def say(self, state: EngineState, words: str, *, version: str = "", **facts: Any) -> None:
        """The engine's state from now on, and the digest of its weights once that is known."""
        with self._lock:
            self._version = version or self._version
            said = {"state": state.value, "words": words, "host": self._wanted.host, "log": self._wanted.log, **facts}
            self._said = said
        logger.info("engine %s: %s", state.value, words, extra={"source": self._wanted.source})
        self._changed.set()

    def run(self) -> None:
        """Register and report until closed."""
        failing = False
        while True:
            self._changed.wait(RETRY_S if failing else self._report_s)
            self._changed.clear()
            if self._closed.is_set():
                return
            try:
                self._bring()
                failing = False
            except Refused as e:
                if e.status < 500:
                    self.refused = e
                    return
                failing = self._told(failing, e)
            except ConfigError as e:
                self.refused = e
                return
            except InterlockError as e:
                failing = self._told(failing, e)

    def _told(self, failing: bool, error: InterlockError) -> bool:
        if not failing:
            logger.warning("the engine cannot be reported for now: %s", error.message)
        return True

    def _bring(self) -> None:
        with self._lock:
            version, said = self._version, dict(self._said)
        if not version or not said:
            return
        if version != self._registered:
            self._register(version, said)
        words = f"the engine of {self._wanted.source} is {said['state']}"
        if said["state"] == EngineState.ready and self._sent.get("state") != EngineState.ready:
            # what it offers is known before the first call goes there
            self._admin.call("POST", f"{self._path}/refresh", {}, reason=words)
        self._admin.call("POST", f"{self._path}/engine", said, reason=words)
        self._sent = said

    def _register(self, version: str, said: dict[str, Any]) -> None:
        wanted = self._wanted
        check_nodes(self._admin.call("GET", "/snapshot")["nodes"])
        now: dict[str, Any] | None
        try:
            now = self._admin.call("GET", self._path)
        except Refused as e:
            if e.status != 404 or self._registered:
                raise
            now = None
        spec = declared(now, wanted, version)
        words = f"interlock source run: {wanted.kind} on {wanted.host}"
        if now is None:
            # nobody is given it before it is known that its engine is only starting
            self._admin.call("POST", "/sources", {**spec, "granted_to": []}, reason=words)
        self._admin.call("POST", f"{self._path}/engine", said, reason=words)
        if now is not None or spec.get("granted_to"):
            self._admin.call("PUT", self._path, spec, reason=words)
        self._registered = version

    @property
    def reported(self) -> str:
        """The state that the admin API was told last, "" when it was told none."""
        return str(self._sent.get("state", ""))

    def wait_for(self, state: EngineState, timeout_s: float) -> bool:
        """Whether the admin API is told of this state in time."""
        deadline = time.monotonic() + timeout_s
        while self.reported != state.value and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.reported == state.value

    def close(self, timeout_s: float, *, remove: bool) -> None:
        """Have the last state told, within this time, and nothing after it. `remove`: remove the source too."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            last = EngineState(self._said.get("state", EngineState.stopped))
        self.wait_for(last, timeout_s)
        self._closed.set()
        self._changed.set()
        if remove and self._registered:
            worker = threading.Thread(target=self._remove, daemon=True)
            worker.start()
            worker.join(max(0.1, deadline - time.monotonic()))

    def _remove(self) -> None:
        try:
            self._admin.call("DELETE", self._path, why=f"interlock source run on {self._wanted.host} has ended")
        except InterlockError as e:
            logger.warning("source %s was not removed: %s", self._wanted.source, e.message)
