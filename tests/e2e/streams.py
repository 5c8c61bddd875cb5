"""Clients that hold on: connections that stay open, streams that are read to their end."""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

from .documents import MODEL
from .stack import ANSWER_S, Stack

_UNKNOWN_MODEL = json.dumps({"model": "nothing", "messages": [{"role": "user", "content": "x"}]})
"""A request that a worker answers by itself: 404 to a key that it knows, 401 to any other."""


class Held:
    """Connections that stay open, at least one to each worker."""

    def __init__(self, demo: Stack, key: str) -> None:
        self._parts = urlsplit(demo.gateway)
        self._headers = {"authorization": f"Bearer {key}"}
        self.by_worker: dict[str, http.client.HTTPConnection] = {}
        self._all: list[http.client.HTTPConnection] = []
        for _ in range(64):
            connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=ANSWER_S)
            self._all.append(connection)
            status, worker = self.ask(connection)
            assert status == 404
            self.by_worker.setdefault(worker, connection)
            if len(self.by_worker) == len(demo.workers()):
                return
        raise AssertionError("no connection reached one of the workers")

    def ask(self, connection: http.client.HTTPConnection) -> tuple[int, str]:
        """(status, epoch of the worker) of one request."""
        connection.request("POST", "/v1/chat/completions", _UNKNOWN_MODEL, self._headers)
        with connection.getresponse() as answer:
            answer.read()
        return answer.status, (answer.getheader("x-interlock-request-id") or "none_none").split("_")[1]

    def close(self) -> None:
        """Close them all."""
        for connection in self._all:
            connection.close()


class Reader(threading.Thread):
    """Reads one stream to its end."""

    def __init__(self, demo: Stack, key: str, tokens: int, model: str = MODEL) -> None:
        super().__init__()
        self._parts = urlsplit(demo.gateway)
        self._key = key
        self._body = json.dumps(
            {
                "model": model,
                "stream": True,
                "max_tokens": tokens,
                "messages": [{"role": "user", "content": "Count from one to a thousand, in words."}],
                "ignore_eos": True,
            }
        )
        self.data = b""
        self.request_id = ""
        self.ended_at = 0.0
        self.started = threading.Event()
        self.start()
        assert self.started.wait(ANSWER_S), "the stream did not start"

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=ANSWER_S)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", self._body, headers)
            with connection.getresponse() as answer:
                self.request_id = answer.getheader("x-interlock-request-id") or ""
                while part := answer.read1(65_536):
                    self.data += part
                    if self.data.count(b"data:") > 2:
                        self.started.set()
        except (http.client.HTTPException, OSError):
            pass  # a stream that is cut off ends like this
        finally:
            self.ended_at = time.monotonic()
            self.started.set()
            connection.close()
