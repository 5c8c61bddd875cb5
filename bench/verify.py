"""How fast a large export is verified: entries a second, on all cores as the command line does it, and of CPU on one.

    .venv/bin/python -m bench.verify [ENTRIES]

Writes an export of so many entries of calls with four contents each (1.8 KB; eight epochs in turns, as two nodes of
four workers leave them; a checkpoint for each `CHECKPOINT` entries), verifies it a few times, and prints JSON. Two
seconds of work are the least that tells anything of several processes, so a million is the default: 2 GB of disk.
Beside it, in turns, it is verified without the native part, and each line is hashed with hashlib and nothing else
is done: machines differ and are shared, so these ratios are what can be compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from interlock.ledger.proof import entry, parts
from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.coverage import SETTLED_START, Coverage, NodeSeen, OpenEpoch, SettledHead
from interlock.ledger.proof.entry import encode_leaf
from interlock.ledger.proof.folder import ENTRIES, ExportWriter, Manifest
from interlock.ledger.proof.merkle import CompactRange, leaf_hash
from interlock.ledger.proof.note import Ed25519Signer, sign_note
from interlock.ledger.proof.verify import verify_export
from interlock.native.scan import native

NUMBER = 1_000_000
CHECKPOINT = 20_000
ROUNDS = 5
TREE = "ten_bench"
EPOCHS = tuple(f"01m8h1pvvz80hm{number:02d}" for number in range(8))
BEGUN_NS = 1_795_000_000_000_000_000
STEP_NS = 3_000_000
"""Between two calls."""


def leaf(number: int) -> bytes:
    """The entry at this index: a call with a prompt of one message, an answer, parameters and its records."""
    epoch, n = EPOCHS[number % len(EPOCHS)], number // len(EPOCHS) + 1
    digests = [hashlib.sha256(f"{number} {what}".encode()).hexdigest() for what in range(8)]
    contents: list[dict[str, Any]] = [{"role": "messages", "list": digests[0], "digest": digests[1], "count": 1}]
    for role, at, size in (("request", 2, 58), ("answer", 4, 94), ("record", 6, 340)):
        contents.append({"role": role, "id": digests[at], "sha256": digests[at + 1], "bytes": size + number % 7})
    return encode_leaf(
        {
            "v": 1, "tree": TREE, "kind": "call", "at": BEGUN_NS + number * STEP_NS, "epoch": epoch, "n": n,
            "clock": BEGUN_NS + number * STEP_NS - 1234, "request": f"req_{epoch}_{n}", "contents": contents,
            "cost": {"nusd": 1234 + number % 1000, "price": "source", "version": "v1"},
            "decided": {"root": "0" * 64, "router": 0, "seed": number * 7919, "snapshot": 7},
            "energy": {"high_uj": 90, "low_uj": 10, "method": "estimated", "ug_per_kwh": 350_000_000, "uj": 40},
            "result": {"bytes": 0, "chunks": 0, "code": "", "finish": ["stop"], "state": "completed", "status": 200},
            "times": {"first_us": 100 + number % 900, "total_us": 2_000 + number % 9000},
            "tokens": {"cache_write": 0, "cached": 0, "completion": number % 900, "origin": "engine", "prompt": 250},
            "what": {
                "alias": "", "class": "", "data_class": 1, "dialect": "openai", "mode": "balanced", "model": "m",
                "operation": "chat", "recording": "full", "stream": False, "workload": "interactive",
            },
            "where": {
                "attempts": 1, "engine": "vllm", "engine_version": "0.32", "model": "m", "name": "local",
                "off_prem": False, "served": "m", "source": "src_1", "version": "",
            },
            "who": {
                "auth": "api_key", "credential": "key_bench", "delegation": "", "delegator": "", "kind": "user",
                "principal": f"prn_{number % 500:03d}", "subject": f"prn_{number % 500:03d}", "team": "team_bench",
            },
        }
    )  # fmt: skip


def write(folder: Path, entries: int, signer: Ed25519Signer) -> None:
    """An export of a tree of so many entries, from its beginning."""
    end_ns = BEGUN_NS + entries * STEP_NS
    manifest = Manifest(
        tree=TREE, cell="bench.example", from_ns=BEGUN_NS, to_ns=end_ns, start_size=0, end_size=entries,
        made_at=end_ns, payloads=False, pruned=None,
    )  # fmt: skip
    grown = CompactRange()
    with ExportWriter(folder, manifest, [signer.verifier_key.text]) as writer:
        writer.start(0, [], {})
        while grown.size < entries:
            leaves = [leaf(n) for n in range(grown.size, min(grown.size + CHECKPOINT, entries))]
            for each in leaves:
                writer.entry(each)
            grown.extend([leaf_hash(each) for each in leaves])
            writer.checkpoint(*signed(grown, signer))


def signed(grown: CompactRange, signer: Ed25519Signer) -> tuple[str, bytes]:
    """The tree's checkpoint and its coverage: the epochs' entries, and everything until the next call."""
    size, at = grown.size, BEGUN_NS + grown.size * STEP_NS
    whole, rest = divmod(size, len(EPOCHS))
    epochs = tuple(
        OpenEpoch(epoch, f"node-{place // 4}", whole + (place < rest), at, False) for place, epoch in enumerate(EPOCHS)
    )
    coverage = Coverage(
        tree=TREE,
        at=at,
        settled=SettledHead(count=0, digest=SETTLED_START.hex()),
        epochs=epochs,
        nodes=(NodeSeen("node-0", at), NodeSeen("node-1", at)),
    ).encode()
    made = Checkpoint(f"bench.example/{TREE}", size, grown.root(), at, hashlib.sha256(coverage).digest())
    return sign_note(made.text(), [signer]), coverage


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """(seconds on the clock, CPU seconds of this process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def lines(folder: Path) -> Iterator[bytes]:
    """The entries, one by one."""
    with (folder / ENTRIES).open("rb") as file:
        for line in file:
            yield line[:-1]


def without(check: Callable[[], None]) -> None:
    """`check` without the native part."""
    with patch.object(entry, "native", lambda: None), patch.object(parts, "native", lambda: None):
        check()


def measure(entries: int) -> dict[str, Any]:
    """All figures. Takes a folder of its own, and removes it."""
    base = Path(tempfile.mkdtemp(prefix="interlock-bench-verify-"))
    signer = Ed25519Signer("bench.example", bytes(32))
    cores = len(os.sched_getaffinity(0))
    folder = base / "export"

    def check(processes: int = 1) -> None:
        report = verify_export(folder, [signer.verifier_key], processes=processes)
        assert (report.verdict, report.entries) == ("complete", entries), report.words

    try:
        write(folder, entries, signer)
        turns = [
            (
                timed(lambda: check(cores))[0],
                timed(check)[1],
                timed(lambda: without(check))[1],
                timed(lambda: [hashlib.sha256(line).digest() for line in lines(folder)])[1],
            )
            for _ in range(ROUNDS)
        ]
        size = (folder / ENTRIES).stat().st_size
    finally:
        shutil.rmtree(base, ignore_errors=True)
    rates = [[entries / seconds for seconds in turn] for turn in turns]
    median = [round(statistics.median(column)) for column in zip(*rates, strict=True)]
    part = native()
    return {
        "entries": entries,
        "bytes_an_entry": round(size / entries),
        "native": part.name if part else None,
        "processes": cores,
        "verified_per_s": median[0],
        "verified_per_s_most": round(max(rate[0] for rate in rates)),
        "verified_per_cpu_s": median[1],
        "verified_per_cpu_s_most": round(max(rate[1] for rate in rates)),
        "verified_in_python_per_cpu_s": median[2],
        "hashed_by_hashlib_per_cpu_s": median[3],
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else NUMBER)))
