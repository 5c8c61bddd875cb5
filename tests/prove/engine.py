"""The engines of a proof, in a process of their own: one scripted engine per source.

    python -m tests.prove.engine NOTES      (writes one line of JSON, the base URLs by source, when it listens)

Each inference request is noted in the file NOTES as a line of JSON: source, request id, marker, arrival (monotonic ns).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Script

from .script import CHEAP, FAR, MODELS, SHAKY, STEADY, cheap, marker_of, shaky, sound

PARENT_POLL_S = 0.5


def by_marker(source: str, notes: int) -> Script:
    """The script of a source: it notes the request and answers by its marker."""

    def script(received: Received) -> object:
        marker = marker_of(received.json)
        line = {
            "source": source,
            "request_id": received.header("x-request-id"),
            "marker": marker,
            "at_ns": received.at_ns,
        }
        os.write(notes, json.dumps(line).encode() + b"\n")
        says = shaky if source == SHAKY else cheap if received.json.get("model") == CHEAP else sound
        return says(marker)(received)

    return script  # type: ignore[return-value]


async def serve(notes: int) -> None:
    """Until the process that started this one is gone."""
    engines = {
        source: ScriptedEngine(kind="openai", models=MODELS[source], default=by_marker(source, notes))
        for source in (STEADY, FAR, SHAKY)
    }
    for engine in engines.values():
        await engine.start()
    sys.stdout.write(json.dumps({source: engine.base_url for source, engine in engines.items()}) + "\n")
    sys.stdout.flush()
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_POLL_S)
        for engine in engines.values():
            engine.requests.clear()


if __name__ == "__main__":
    asyncio.run(serve(os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)))
