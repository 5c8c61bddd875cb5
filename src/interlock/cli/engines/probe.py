"""Asking an engine: is it well, does it ask for its key, does it serve the model, what does it work on.

A thread asks for its health, so that an engine that hangs holds nobody up; the other questions are asked once.
"""

from __future__ import annotations

import http.client
import json
import threading
import time

from interlock.cli.engines.launch import HOST
from interlock.sources.load import parse_metrics
from interlock.types.source import SourceKind

INTERVAL_S = 1.0
LOADING_INTERVAL_S = 0.2
ANSWER_BYTES_MAX = 4_000_000


def ask(port: int, path: str, *, key: str = "", body: bytes | None = None, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body of one request. Raises OSError or HTTPException when there is no answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if body is not None:
        headers["content-type"] = "application/json"
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()


def fault(port: int, key: str, name: str, timeout_s: float) -> str:
    """Why an engine that says it is well may not be used: it answers whoever asks, refuses its own key, or serves
    another model. "" when it may."""
    try:
        # a request that no engine takes for work
        status, _ = ask(port, "/v1/chat/completions", body=b"{}", timeout_s=timeout_s)
        if status not in (401, 403):
            return f"it answers without its key (status {status}): somebody could go around Interlock"
        status, page = ask(port, "/v1/models", key=key, timeout_s=timeout_s)
        if status != 200:
            return f"it refuses its own key (status {status}): something else may listen on its port"
        names = [str(entry.get("id")) for entry in json.loads(page)["data"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as e:
        return f"it cannot be asked for its models ({type(e).__name__})"
    return "" if name in names else f"it serves {', '.join(names) or 'nothing'} and not {name}"


def running(port: int, key: str, kind: str) -> int:
    """Requests that it works on or has queued; 0 when it does not say."""
    try:
        status, page = ask(port, "/metrics", key=key, timeout_s=1.0)
    except (OSError, http.client.HTTPException):
        return 0
    load = parse_metrics(SourceKind(kind), page) if status == 200 else parse_metrics(SourceKind.openai, b"")
    return max(0, load.running) + max(0, load.waiting)


class Health(threading.Thread):
    """Asks for the health of the engine on a port until `end`. `well`: the last answer was 200; `failures`: since."""

    def __init__(self, port: int, timeout_s: float) -> None:
        super().__init__(name="health", daemon=True)
        self._port = port
        self._timeout_s = timeout_s
        self._over = threading.Event()
        self.well = False
        self.was_well = False
        self.failures = 0

    def run(self) -> None:
        """Ask until the end."""
        while not self._over.wait(INTERVAL_S if self.was_well else LOADING_INTERVAL_S):
            began = time.monotonic()
            try:
                well = ask(self._port, "/health", timeout_s=self._timeout_s)[0] == 200
            except (OSError, http.client.HTTPException):
                well = False
            self.well = well
            self.was_well = self.was_well or well
            self.failures = 0 if well else self.failures + 1
            if not well and self.was_well:
                # a failure stands for as long as an answer may take
                self._over.wait(max(0.0, self._timeout_s - (time.monotonic() - began)))

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
