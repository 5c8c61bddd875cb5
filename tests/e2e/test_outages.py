"""What fails while calls run: the database, a worker. Allowed traffic goes on, and everything comes back by itself."""

from __future__ import annotations

import os
import signal
import time

from tests.figures import note

from .documents import MODEL
from .stack import Stack, alive, fetch, processes_of, until
from .streams import Reader


def serves(demo: Stack, key: str) -> bool:
    return demo.chat(key, MODEL, max_tokens=1).status == 200 and fetch(demo.gateway, "/ready").status == 200


def test_a_database_that_stands_still_stops_nobody(demo: Stack, rosa: str) -> None:
    frozen = [pid for pid, words in processes_of(demo.home).items() if "postgres" in words.split()[0]]
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            assert serves(demo, rosa)
        assert demo.chat("il_live_unknown", MODEL).status == 401
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    until(lambda: demo.run("source", "list").code == 0, 180, "the admin API to come back")


def test_a_database_that_is_stopped_is_started_again(demo: Stack, rosa: str) -> None:
    server = demo.postgres()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGINT)
    began = time.monotonic()
    until(lambda: not alive(first), 180, "PostgreSQL to stop")
    assert serves(demo, rosa)
    until(lambda: server.pid not in (None, first), 180, "PostgreSQL to be started again")
    note(f"PostgreSQL, stopped from outside, ran again after {time.monotonic() - began:.1f} s")
    until(lambda: fetch(demo.control, "/ready").status == 200, 180, "the admin API to come back")
    assert serves(demo, rosa)
    demo.ok("key", "create", "after-the-outage", "-t", "acme", "-p", "rosa")
    key = demo.ok("key", "rotate", "after-the-outage", "-t", "acme")["key"]
    until(lambda: serves(demo, key), 180, "a change made after the outage to reach the gateway")
    demo.ok("key", "revoke", "after-the-outage", "-t", "acme")
    until(lambda: demo.chat(key, MODEL).status == 401, 180, "a revocation made after the outage to reach the gateway")


def test_a_killed_worker_is_replaced_and_its_calls_are_found(demo: Stack, rosa: str) -> None:
    slots = {r["epoch"]: r["pid"] for r in demo.ok_lines("ledger", "tail") if r["kind"] == "EpochOpen"}
    before = demo.workers()
    reader = Reader(demo, rosa, 1500, f"spare::{MODEL}")
    victim = slots[reader.request_id.split("_")[1]]
    assert victim in before
    os.kill(victim, signal.SIGKILL)
    reader.join(300)
    assert not reader.is_alive()
    assert b"[DONE]" not in reader.data
    until(lambda: victim not in demo.workers() and all(map(alive, demo.workers())), 180, "another worker")
    until(lambda: len(demo.workers()) == len(before) and 0 not in demo.workers(), 180, "as many workers as before")
    for _ in range(6):
        assert serves(demo, rosa)

    def interrupted() -> bool:
        records = demo.ok_lines("ledger", "tail", "--since", "1h")
        return any(r["kind"] == "Interrupted" and r.get("request_id") == reader.request_id for r in records)

    until(interrupted, 180, "the interrupted call to be recorded", every_s=0.3)
    assert demo.ok("route", "explain", reader.request_id)["state"] == "interrupted"
