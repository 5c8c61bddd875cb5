"""The calls that run now, for people who watch: gathered when the node asks, from what workers know anyway.

Calls do nothing for it. While nobody watches, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from interlock.gateway.link import CallsTold, TellCalls
from interlock.routing.explain import brief
from interlock.types.running import RunningCall, WorkerCalls

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.gateway.run import Run
    from interlock.gateway.runtime import Runtime

TOLD_MAX = 300
NAME_CHARS = 100
"""Of a name: as much as anybody reads. INVARIANT: what a worker tells fits into a message of the link."""
AN_ENGINE = "an engine that is starting"
"""What a run waits for that has no attempt."""


def running_calls(runtime: Runtime, now_ns: int, most: int) -> WorkerCalls:
    """At most `most` calls of this worker: of each tenant as many as of the others, the oldest and the newest.

    `now_ns`: monotonic.
    """
    by_tenant: dict[str, list[tuple[Call, Run | str]]] = {}
    for call, what in _all(runtime):
        if call.identity is not None:
            by_tenant.setdefault(call.identity.tenant_id, []).append((call, what))
    chosen = list(islice(_fairly([_ends(each) for each in by_tenant.values()]), min(most, TOLD_MAX)))
    calls = tuple(_told(call, what, now_ns) for call, what in chosen)
    return WorkerCalls(runtime.log.epoch, calls, {c.tenant_id: len(by_tenant[c.tenant_id]) for c in calls})


def _all(runtime: Runtime) -> Iterator[tuple[Call, Run | str]]:
    for run in runtime.runs:
        yield run.call, run
    for waiting in runtime.waiting:
        told = waiting.told()
        if told is not None:
            yield told


def _ends(calls: list[tuple[Call, Run | str]]) -> list[tuple[Call, Run | str]]:
    """The oldest, the newest, the second oldest, and so on."""
    calls.sort(key=lambda each: each[0].started_ns)
    half = (len(calls) + 1) // 2
    return [each for pair in zip_longest(calls[:half], reversed(calls[half:])) for each in pair if each is not None]


def _fairly(lists: list[list[tuple[Call, Run | str]]]) -> Iterator[tuple[Call, Run | str]]:
    """One of each list, then the next of each."""
    return (each for each in chain.from_iterable(zip_longest(*lists)) if each is not None)


def _told(call: Call, what: Run | str, now_ns: int) -> RunningCall:
    identity, parsed = call.identity, call.parsed
    assert identity is not None  # noqa: S101 - others were left out
    out = RunningCall(
        call.id,
        identity.tenant_id,
        identity.team_id,
        identity.caller.principal.id,
        _short(parsed.model) if parsed is not None else "",
        max(0, now_ns - call.started_ns) // 1_000_000,
        "waiting",
        what if isinstance(what, str) else AN_ENGINE,
        shadow=call.unasked,
    )
    return out if isinstance(what, str) else _how_far(out, call, what, now_ns)


def _how_far(out: RunningCall, call: Call, run: Run, now_ns: int) -> RunningCall:
    attempt, why = run.last_attempt, _short(brief(call.target, call.route, run.rank))
    if run.ticket is not None and not run.ended:
        waited_ms = max(run.waited_ms, (now_ns - run.waiting_ns) // 1_000_000)
        return replace(out, state="seat", why=_short(brief(call.target, call.route, -1)), attempts=run.attempts,
                       waited_ms=waited_ms)  # fmt: skip
    if attempt is None:
        return replace(out, state="ending", why=why) if run.ended else replace(out, attempts=run.attempts)
    relay = attempt.relay
    events = relay.events if relay is not None else 0
    return replace(
        out,
        state="ending" if run.ended else "streaming" if events else "asked",
        why=why,
        model=_short(attempt.offer.model.name),
        source=_short(attempt.link.source.name),
        pieces=relay.chunks if relay is not None else 0 if run.stream else -1,
        events=events,
        attempts=run.attempts,
        waited_ms=run.waited_ms,
    )


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else name[: NAME_CHARS - 1] + "…"


class Worker(Protocol):
    """A slot of the node, as far as this module needs it."""

    number: int

    def send(self, message: TellCalls, /) -> bool:
        """Tell the worker; False when there is none."""


class RunningCalls:
    """The node's side: asks its workers, and has what they said last."""

    def __init__(self, workers: Callable[[], Sequence[Worker]], most: int) -> None:
        self._workers = workers
        self._most = most
        self._told: dict[int, WorkerCalls] = {}

    def ask(self) -> None:
        """Ask every worker. The answers come when they come."""
        slots = self._workers()
        for slot in slots:
            if not slot.send(TellCalls(max(1, self._most // len(slots)))):
                self._told.pop(slot.number, None)

    def told(self, slot: int, message: CallsTold) -> None:
        """A worker's answer."""
        self._told[slot] = message.calls

    def died(self, slot: int) -> None:
        """The slot's worker is gone, and its calls with it."""
        self._told.pop(slot, None)

    def now(self) -> list[WorkerCalls]:
        """What is known of all workers."""
        return [self._told[slot] for slot in sorted(self._told)]
