"""A real vLLM that dies in the middle of an answer, and comes back."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from interlock.ledger.reader import find_call
from interlock.types.record import Attempt, AttemptEnd, Chunk, Intent
from tests.e2e.stack import Answer, fetch, until

from .conftest import note
from .engines import MODEL, Vllm
from .site import Site

BREAKER_FAILURES = 5
"""The setting's default."""
CODES = {"upstream_cut_off", "upstream_error", "upstream_closed", "upstream_stale"}


class Broken:
    """A stream whose engine is ended after some events: what the caller got."""

    def __init__(self, site: Site, model: str, kill: Any) -> None:
        parts = urlsplit(site.up.gateway)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Tell me a long story."}],
            "max_tokens": 600,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {site.keys['acme']}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        self.status = answer.status
        self.request_id = answer.headers["x-interlock-request-id"]
        data, self.whole = b"", True
        while data.count(b"data: ") < 6:
            data += answer.read1(65_536)
        kill()
        killed_at = time.monotonic()
        try:
            while part := answer.read1(65_536):
                data += part
        except (http.client.IncompleteRead, ConnectionError):
            self.whole = False
        self.told_s = time.monotonic() - killed_at
        connection.close()
        self.events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event.startswith(b"data: ")]


def check_broken(site: Site, broken: Broken, instance: Vllm) -> None:
    """The caller was told in the stream, and the record has every byte it saw."""
    assert broken.status == 200
    *pieces, last = broken.events
    assert last["error"]["code"] in CODES, last
    assert instance.name in last["error"]["message"]
    assert not broken.whole, "the connection is cut, so that no client takes this for an end"
    outcome = site.outcome(broken.request_id)
    assert (outcome.state, outcome.code) == ("failed", last["error"]["code"])
    assert (outcome.source, outcome.usage.origin) == (instance.name, "reserved")
    call = find_call(site.up.home / "node" / "log", broken.request_id)
    assert call is not None
    recorded = "".join(s.record.text for s in call.stored if isinstance(s.record, Chunk))
    seen = "".join(c["delta"].get("content") or "" for piece in pieces for c in piece["choices"])
    assert seen == recorded


def test_an_instance_is_lost_and_comes_back(site: Site) -> None:
    broken = Broken(site, MODEL, site.near.kill)
    check_broken(site, broken, site.near)

    lost = site.lost_at("near")
    with ThreadPoolExecutor() as pool:  # before the probes notice
        next_call = pool.submit(site.chat, text="And now?")
        until(lambda: site.lost_at("near") > lost, 10, "the next call to find out", 0.02)
        refused = [site.chat("acme", f"near::{MODEL}") for _ in range(BREAKER_FAILURES)]
    answer = next_call.result()
    assert (answer.status, answer.headers["x-interlock-source"]) == (200, "far")
    attempts = [s.record for s in find_stored(site, answer.request_id)]
    failed = [r for r in attempts if isinstance(r, AttemptEnd)]
    tried = [r.source for r in attempts if isinstance(r, Attempt)]
    assert tried == ["near", "far"], "the next call finds out, and goes on"
    assert failed[0].code == "connect_failed"
    assert {a.status for a in refused} <= {502, 503}
    until(lambda: site.gauge("interlock_source_breaker", "near") > 0, 20, "the breaker to open")
    until(lambda: site.gauge("interlock_source_up", "near") == 0, 60, "the probes to notice")
    answer = site.chat()
    assert [r.source for r in (s.record for s in find_stored(site, answer.request_id)) if isinstance(r, Attempt)] == [
        "far"
    ], "and is no longer tried"
    bound = site.chat("globex")
    assert (bound.status, bound.error["code"]) == (503, "no_candidate")
    assert fetch(site.up.gateway, "/ready").status == 200

    site.near.start()
    answered_ns = time.time_ns()
    answers: list[Answer] = []

    def back() -> bool:
        answers.append(site.chat())
        return answers[-1].headers["x-interlock-source"] == "near"

    until(back, 15, "calls to come back")
    back_s = (site.record(answers[-1].request_id, Intent).wall_ns - answered_ns) / 1e9
    assert site.chat("globex").status == 200
    note(
        f"instance killed mid-stream: the caller was told after {broken.told_s:.2f} s; "
        f"the first call that came back was sent {back_s:.1f} s after the instance did"
    )


def find_stored(site: Site, request_id: str) -> tuple[Any, ...]:
    """All records of a call."""
    call = find_call(site.up.home / "node" / "log", request_id)
    assert call is not None
    return tuple(call.stored)


def test_the_process_with_the_model_is_lost(site: Site) -> None:
    """vLLM's HTTP server survives its engine for a moment, and reports the error inside the stream."""
    broken = Broken(site, f"far::{MODEL}", site.far.kill_core)
    check_broken(site, broken, site.far)
    until(lambda: site.gauge("interlock_source_up", "far") == 0, 60, "the probes to notice")
    assert site.chat().headers["x-interlock-source"] == "near"
    note(f"engine core killed mid-stream: the caller was told after {broken.told_s:.2f} s")
