"""What the ledger costs: CPU of a call, records shipped and entries sequenced a second of CPU, bytes a conversation.

A record log of calls (1 KB prompts, an Intent, an Attempt and an Outcome each) is shipped to a PostgreSQL of its own
and sequenced, in rounds, all on one core, with the settings' defaults; an export of it must verify in the end. CPU is
that of this process: the database's own is not in it. Run as `python -m bench.ledger CALLS`, it prints one JSON object.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.quiet import undisturbed
from interlock.control.main import ledger_signer
from interlock.control.secrets import ensure_ledger_keys
from interlock.control.sequencer import Sequencer
from interlock.control.services.ledger import Export
from interlock.gateway.garbage import NEW_OF_A_BATCH, collect_rarely
from interlock.gateway.shipper import Shipper
from interlock.ledger.log import RecordLog
from interlock.ledger.proof.folder import ExportWriter, Manifest
from interlock.ledger.proof.verify import verify_export
from interlock.settings import Settings
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store
from interlock.types.clock import SystemClock
from interlock.types.decision import Candidate, RouteDecision
from interlock.types.identity import DataClass
from interlock.types.record import Attempt, Intent, Outcome
from interlock.types.request import Features, Target
from interlock.types.usage import Cost, Usage

RECORDS_PER_CALL = 3
PROMPT_BYTES = 1024
TURNS = (1, 10, 40)
ROUNDS = 20
TENANT = "ten_bench"


def intent(call: int, messages: list[dict[str, str]], principal: str = "prn_bench") -> Intent:
    """A call that was admitted."""
    body = json.dumps({"model": "m", "max_tokens": 50, "messages": messages}).encode()
    return Intent(
        call=call, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns(), tenant_id=TENANT, team_id="team_bench",
        principal_id=principal, principal_kind="user", delegator_id="", delegation="", auth_method="api_key",
        credential_id="key_bench", dialect="openai", features=Features("chat", "m", DataClass.internal),
        target=Target("model", model="m"), snapshot_version=7, snapshot_root=bytes(32), permits=(),
        route=RouteDecision("balanced", (Candidate("local::m", 1),), (), (), 0, 42), parameters={"max_tokens": 50},
        body_sha256=b"", body=body, reserved_tokens=100,
    )  # fmt: skip


def records(call: int, messages: list[dict[str, str]], principal: str = "prn_bench") -> list[Any]:
    """What the log has of one call."""
    answer = json.dumps({"id": str(call), "choices": [{"message": {"content": f"answer {call} " * 12}}]}).encode()
    ended = Outcome(
        call=call, mono_ns=time.monotonic_ns(), state="completed", status=200, attempt=0, source="local", model="m",
        served_model="m", finish_reasons=("stop",), usage=Usage(250, 0, 40), first_byte_us=100, total_us=200,
        body=answer, cost=Cost(1234, "source", "v1"),
    )  # fmt: skip
    tried = Attempt(call, 0, time.monotonic_ns(), "src_1", "local", "m", "vllm", "0.32", "", False)
    return [intent(call, messages, principal), tried, ended]


async def fill(folder: Path, settings: Settings, calls: list[list[Any]]) -> None:
    """One epoch that holds these calls."""
    loop = asyncio.get_running_loop()
    log = RecordLog.open(folder, node="bench", slot=0, version="0", settings=settings, loop=loop, clock=SystemClock())
    for number, call in enumerate(calls):
        for record in call:
            log.append(record)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await log.close()


def timed(action: Callable[[], Any]) -> float:
    """CPU seconds of this process that it takes."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


class Bench:
    """A home, a database, and what works on them."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.settings = Settings(home=str(home), log_disk_free_bytes_min=0)
        self.store = Store(url, self.settings)
        ensure_ledger_keys(self.settings, os.urandom)
        self.shipper = Shipper(self.store, home / "log", "bench", self.settings, SystemClock(), os.urandom)
        self.signer = ledger_signer(self.settings)
        self.sequencer = Sequencer(self.store, self.settings, SystemClock(), [self.signer])

    def rates(self, calls: int) -> dict[str, float]:
        """Records a second of CPU shipped, and entries sequenced: the median of the rounds, and of the undisturbed."""
        prompt = os.urandom(PROMPT_BYTES // 2).hex()
        each, recording_s, shipping_s, sequencing_s = max(calls // ROUNDS, 1), [], [], []
        collect_rarely(NEW_OF_A_BATCH)  # as the shipper's process does
        for number in range(ROUNDS):
            first = number * each + 1
            said = [[{"role": "user", "content": f"{n} {prompt}"}] for n in range(first, first + each)]
            made = [records(n, messages) for n, messages in enumerate(said, first)]
            recording_s.append(timed(partial(asyncio.run, fill(self.home / "log", self.settings, made))) / each)
            del made, said
            shipping_s.append(timed(self.shipper.pass_once) / each)
            sequencing_s.append(timed(self.sequencer.pass_once) / each)
        self.check(ROUNDS * each)
        recorded_s, shipped_s, sequenced_s = map(statistics.median, (recording_s, shipping_s, sequencing_s))
        return {
            "records_shipped_per_cpu_s": round(RECORDS_PER_CALL / shipped_s),
            "records_shipped_per_cpu_s_undisturbed": round(RECORDS_PER_CALL / undisturbed(shipping_s)),
            "entries_sequenced_per_cpu_s": round(1 / sequenced_s),
            "entries_sequenced_per_cpu_s_undisturbed": round(1 / undisturbed(sequencing_s)),
            "record_cpu_us_per_call": round(recorded_s * 1e6, 1),
            "ship_cpu_us_per_call": round(shipped_s * 1e6, 1),
            "sequence_cpu_us_per_call": round(sequenced_s * 1e6, 1),
            "ledger_cpu_us_per_call": round((recorded_s + shipped_s + sequenced_s) * 1e6, 1),
        }

    def check(self, calls: int) -> None:
        """Raises AssertionError unless an export of what was shipped verifies and has so many entries."""
        signing = dataclasses.replace(self.settings, ledger_checkpoint_s=0)
        Sequencer(self.store, signing, SystemClock(), [self.signer]).sequence(TENANT)
        folder = self.home / "export"
        self.export(folder)
        report = verify_export(folder, [self.signer.verifier_key])
        assert report.verdict in ("complete", "open tail"), report.words
        assert report.entries == calls, report

    def export(self, folder: Path) -> None:
        """Everything so far, as an auditor gets it."""
        keys = [self.signer.verifier_key.text]
        made = Export(self.store, self.settings, TENANT, 0, time.time_ns(), keys)
        head = {k: v for k, v in made.manifest.items() if k != "keys"}
        writer = ExportWriter(folder, Manifest.decode(msgspec.json.encode(head)), keys)
        for kind, value in made.lines():
            if kind == "start":
                writer.start(value["size"], [bytes.fromhex(each) for each in value["hashes"]], value["counts"])
            elif kind == "settled":
                writer.settled(value.encode())
            elif kind == "checkpoint":
                writer.checkpoint(value["note"], value["coverage"].encode())
            elif kind == "entry":
                writer.entry(value.encode())
        writer.close()

    def conversation(self, turns: int) -> int:
        """Bytes of contents and lists that a chat of so many turns, each with all before it, leaves in the database."""
        subject = f"prn_turns{turns}"
        messages: list[dict[str, str]] = []
        made = []
        for turn in range(1, turns + 1):
            messages.append({"role": "user", "content": os.urandom(PROMPT_BYTES // 2).hex()})
            made.append(records(turn, list(messages), subject))
            messages.append({"role": "assistant", "content": os.urandom(200).hex()})
        asyncio.run(fill(self.home / "log", self.settings, made))
        self.shipper.pass_once()
        with self.store.shipping() as conn:
            row = conn.execute(
                "SELECT (SELECT coalesce(sum(octet_length(id) + octet_length(data)), 0) FROM interlock.ledger_contents"
                " WHERE subject = %(s)s) + (SELECT coalesce(sum(octet_length(id) + octet_length(previous)"
                " + octet_length(item)), 0) FROM interlock.ledger_lists WHERE subject = %(s)s)",
                {"s": subject},
            ).fetchone()
        assert row is not None
        return int(row[0])


def measure(calls: int) -> dict[str, Any]:
    """All figures. Takes a folder and a database server of its own, and removes both."""
    base = Path(tempfile.mkdtemp(prefix="interlock-bench-ledger-"))
    try:
        server = EmbeddedPostgres(
            base / "database", Settings(home=str(base / "database"), embedded_start_timeout_ms=300_000)
        )
        server.start()
        try:
            home = base / "home"
            home.mkdir(mode=0o700)
            migrate(server.url, Settings(home=str(home)))
            bench = Bench(home, server.url)
            found: dict[str, Any] = {"calls": calls, **bench.rates(calls)}
            found["bytes_per_conversation"] = {str(turns): bench.conversation(turns) for turns in TURNS}
            bench.shipper.close()
            bench.store.close()
            return found
        finally:
            server.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
