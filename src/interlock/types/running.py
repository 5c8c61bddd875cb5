"""What gateway nodes tell of calls that run now: who, where, how far; never what was said."""

from __future__ import annotations

import msgspec

from interlock.types.source import SourceState


class RunningCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that is under way.

    `age_ms`: how long ago it came, when it was told. `asked`: the model name of the request. `model`, `source`: where
    it is now, "" before that is known. `state`: "waiting" (for `why`), "seat" (it waits for a seat), "asked" (a source
    has it, no byte came), "streaming", or "ending" (its outcome is being made durable). `pieces`: of text that came, a
    token each at least, -1 where an answer comes whole; `events`: of the stream that were forwarded. `attempts`: tries
    so far. `waited_ms`: for a seat. `why`: how its source was found, in a few words.
    """

    request: str
    tenant_id: str
    team_id: str
    principal_id: str
    asked: str
    age_ms: int
    state: str
    why: str = ""
    model: str = ""
    source: str = ""
    pieces: int = -1
    events: int = 0
    attempts: int = 0
    waited_ms: int = 0
    shadow: bool = False


class WorkerCalls(msgspec.Struct, frozen=True, array_like=True):
    """The calls of one worker. `epoch`: of its record log. `counts`: how many each tenant has there, of the tenants
    that `calls` is of; `calls` are at most as many as a worker tells of."""

    epoch: str
    calls: tuple[RunningCall, ...] = ()
    counts: dict[str, int] = {}


class NodeTold(msgspec.Struct, frozen=True):
    """What a node tells: its sources, and while somebody watches its calls."""

    sources: list[SourceState]
    workers: list[WorkerCalls] | None = None
    """None: it does not tell of calls now."""
