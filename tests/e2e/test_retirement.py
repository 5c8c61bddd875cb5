"""A node that was retired by mistake, while it runs: its workers are replaced, and their calls are in the ledger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.figures import note

from .stack import Stack, running, until


def call_in_ledger(stack: Stack, request_id: str) -> bool:
    ran = stack.run("ledger", "show", request_id, "-t", "acme", "--json")
    return ran.code == 0 and bool(ran.json()["entries"])


def test_a_node_that_was_retired_while_it_runs_serves_on_in_new_epochs(home: Path) -> None:
    environment = {
        "INTERLOCK_WORKERS": "1",
        "INTERLOCK_LEDGER_CHECKPOINT_S": "1",
        "INTERLOCK_LEDGER_RETIRE_SILENT_S": "0",
    }
    with running(home, demo=True, environment=environment) as stack:
        key = stack.key("acme", "rosa-laptop")
        first = stack.chat(key).request_id
        until(lambda: call_in_ledger(stack, first), 180, "the first call to be in the ledger")
        (node,) = [each["name"] for each in stack.admin("GET", "/snapshot").json()["nodes"]]
        done = stack.ok("ledger", "retire-node", node, "--yes")
        assert len(done["epochs"]) == 1
        began = time.monotonic()
        last: dict[str, Any] = {}

        def served_and_recorded() -> bool:
            answer = stack.chat(key)
            assert answer.status == 200, "calls go on, whatever becomes of the record"
            last["id"] = answer.request_id
            time.sleep(1)
            return call_in_ledger(stack, answer.request_id)

        until(served_and_recorded, 180, "a call to be in the ledger again")
        note(f"from the retirement of a serving node to its next call in the ledger: {time.monotonic() - began:.1f} s")
        assert last["id"].split("_")[1] != first.split("_")[1], "of a new epoch"
        assert not call_in_ledger(stack, "req_" + first.split("_")[1] + "_2")
        assert "workers are replaced" in stack.log.read_text()
