"""How each source is: what nodes tell of it, put together, and in words why it gets no traffic when it gets none."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import msgspec

from interlock.storage.nodes import Told
from interlock.storage.sources import SourceRow
from interlock.types.identity import DataClass
from interlock.types.source import EngineState, SourceState

HEARD_S = 15
"""What a node told longer ago counts for nothing: it tells every few seconds."""
PREFIX_S = 60
"""Prefix cache hits are those of about the last minute."""
BREAKERS = ("open", "half_open", "cooling")


class SourceLine(msgspec.Struct, frozen=True):
    """A source now. `state`: a word for its badge, `tone` its colour (green, yellow, red, ""), `why` a sentence.

    `inflight`: calls of all nodes there; `seats`: how many all nodes may have there together, None without a limit.
    `waiting`, `running`: at the engine, by the newest reading, -1 when it does not say; `kv_permille` likewise.
    `prefix_permille`: tokens found in its prefix cache of those looked up in the last minute, -1 without any.
    """

    name: str
    kind: str
    state: str
    tone: str
    why: str
    nodes: int
    inflight: int = 0
    seats: int | None = None
    waiting: int = -1
    running: int = -1
    kv_permille: int = -1
    prefix_permille: int = -1
    breaker: str = "closed"


class PrefixRates:
    """Remembers the prefix caches' counters, which only rise, to tell what was found lately."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], collections.deque[tuple[float, int, int]]] = {}

    def note(self, told: Sequence[Told], now_s: float) -> None:
        """Take what nodes told at this instant (any monotonic clock), and forget sources that nobody tells of."""
        seen = {}
        for each in told:
            for state in each.states:
                if state.prefix_queries < 0 or state.prefix_hits < 0:
                    continue
                key = (each.node, state.id)
                samples = self._seen.get(key) or collections.deque()
                if samples and state.prefix_queries < samples[-1][1]:
                    samples.clear()  # the engine was started anew
                while len(samples) > 1 and samples[1][0] < now_s - PREFIX_S:
                    samples.popleft()
                if not samples or now_s - samples[-1][0] >= 1:
                    samples.append((now_s, state.prefix_queries, state.prefix_hits))
                seen[key] = samples
        self._seen = seen

    def permille(self, source_id: str) -> int:
        """Hits of those looked up, over what any node saw of the source; -1 when nothing was looked up."""
        queries = hits = 0
        for (_, source), samples in self._seen.items():
            if source == source_id:
                queries += samples[-1][1] - samples[0][1]
                hits += samples[-1][2] - samples[0][2]
        return min(1000, hits * 1000 // queries) if queries > 0 else -1


def lines(
    sources: Sequence[SourceRow], told: Sequence[Told], prefixes: PrefixRates, ended: Mapping[str, int], none: str
) -> list[SourceLine]:
    """One line a source. `ended`: calls that ended there in the window, by its name; `none`: what is said without."""
    heard = [each for each in told if each.seconds_ago < HEARD_S]
    heard.sort(key=lambda each: each.seconds_ago)
    by_source: dict[str, list[SourceState]] = {}
    for each in heard:
        for state in each.states:
            by_source.setdefault(state.id, []).append(state)
    return [
        _line(source, by_source.get(source.id, []), prefixes, ended.get(source.name, 0), none) for source in sources
    ]


def _line(source: SourceRow, states: Sequence[SourceState], prefixes: PrefixRates, ended: int, none: str) -> SourceLine:
    cap = source.limits.concurrency
    seats = cap * len(states) if cap is not None and states else None
    inflight = sum(state.inflight for state in states)
    breaker = min((s.breaker for s in states if s.breaker in BREAKERS), key=BREAKERS.index, default="closed")
    newest = [s for s in states if s.waiting >= 0 or s.running >= 0]
    word, tone, why = _condition(source, states, breaker, inflight, seats, ended, none)
    return SourceLine(
        source.name,
        source.kind.value,
        word,
        tone,
        why,
        len(states),
        inflight,
        seats,
        newest[0].waiting if newest else -1,
        newest[0].running if newest else -1,
        newest[0].kv_permille if newest else -1,
        prefixes.permille(source.id),
        breaker,
    )


def _condition(
    source: SourceRow,
    states: Sequence[SourceState],
    breaker: str,
    inflight: int,
    seats: int | None,
    ended: int,
    none: str,
) -> tuple[str, str, str]:
    """Badge, tone and sentence: the first reason that holds, what nobody can get around first."""
    if source.drained:
        return "drained", "yellow", "An administrator drained it: no new call is sent there."
    if source.engine_state and source.engine_state != EngineState.ready:
        return source.engine_state, "yellow", f"Its engine, which we run, is {source.engine_state}."
    if not source.models:
        error = f": {source.discovery_error}" if source.discovery_error else "."
        return "no model", "red", f"No model is known to be served there{error}"
    if not states:
        return "not heard of", "yellow", "No gateway node has told of it in the last seconds."
    if not source.tenant_id and not source.granted_to:
        return "granted to nobody", "yellow", "It is the platform's, and granted to no tenant."
    down = sum(not state.healthy for state in states)
    if down:
        which = "It does" if down == len(states) else f"To {down} of {len(states)} nodes it does"
        return "down", "red", f"{which} not answer as healthy: nothing is sent there."
    return _load(source, states, breaker, inflight, seats, ended, none)


def _load(
    source: SourceRow,
    states: Sequence[SourceState],
    breaker: str,
    inflight: int,
    seats: int | None,
    ended: int,
    none: str,
) -> tuple[str, str, str]:
    where = "" if len(states) == 1 else f" on {sum(s.breaker == breaker for s in states)} of {len(states)} nodes"
    if breaker == "open":
        return "breaker open", "red", f"Calls there failed one after another: nothing is sent for a while{where}."
    if breaker == "half_open":
        return "breaker half open", "yellow", f"After failures a few calls try whether it works again{where}."
    if breaker == "cooling":
        return "cooling down", "yellow", f"It asked for a pause (Retry-After), which is kept{where}."
    if any(state.saturated for state in states):
        return "saturated", "yellow", f"More calls wait there than its limit ({source.limits.waiting_max})."
    if any(state.contended for state in states):
        taken = f"all {seats} seats are taken" if seats is not None else "the engine has a queue"
        return "calls wait", "yellow", f"Calls wait for their turn: {taken}."
    if inflight or ended:
        return "in use", "green", "It is healthy and in use."
    most = DataClass(source.labels.data_class_max)
    bound = "" if most is DataClass.restricted else f" It takes data up to class {most.name}, and nothing above."
    return "idle", "green", f"It is healthy; {none}.{bound}"
