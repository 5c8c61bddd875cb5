"""Engines that Interlock itself runs: what their supervisors say of them, and those that are not heard of any more."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import msgspec

from interlock.control.services.base import Tx
from interlock.control.services.sources import find
from interlock.storage import sources
from interlock.storage.sources import SourceRow
from interlock.storage.table import Stored
from interlock.types.source import ENGINE_COLD, EngineState

WORDS_MAX = 500


class EngineReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a supervisor says. `words`: one sentence about the state; `host`, `log`: where it runs, and the file of what
    it prints; `restarts`: since the supervisor began; `ready_s`: how long it took to become ready the last time."""

    state: Literal["starting", "loading", "ready", "restarting", "stopping", "stopped", "failed"]
    words: str = ""
    host: str = ""
    log: str = ""
    restarts: int = 0
    ready_s: float | None = None


def report(tx: Tx, name: str, said: EngineReport) -> Stored[SourceRow]:
    """Keep what a supervisor says. Raises NotFound."""
    stored = find(tx, name)
    facts: dict[str, Any] = msgspec.to_builtins(said)
    del facts["state"]
    for field in ("words", "host", "log"):
        facts[field] = facts[field][:WORDS_MAX]
    return sources.report(tx.conn, stored.value.id, tx.by, state=said.state, said=facts)


def expire(tx: Tx, rows: list[Stored[SourceRow]]) -> list[str]:
    """Call lost what has not been heard of for `engine_silent_s`; the names of these sources.

    One that was stopped, or given up, has nothing more to say.
    """
    oldest = tx.by.at - datetime.timedelta(seconds=tx.tools.settings.engine_silent_s)
    alive = ENGINE_COLD | {EngineState.ready, EngineState.stopping}
    lost = []
    for row in rows:
        source = row.value
        if source.engine_state in alive and (source.engine_seen_at is None or source.engine_seen_at < oldest):
            said = {**source.engine_report, "words": "its supervisor is not heard of any more"}
            sources.report(tx.conn, source.id, tx.by, state=EngineState.lost.value, said=said, silent_since=oldest)
            lost.append(source.name)
    return lost
