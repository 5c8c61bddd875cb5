"""Follow a tenant's ledger: every entry in its order, to a file, to stdout or to an OpenTelemetry collector."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from interlock.cli.client import AdminClient, Refused
from interlock.cli.common import AsJson, Ca, Home, InTenant, Reason, Url, client_of
from interlock.cli.follow_files import Lines, Place, StateFile
from interlock.cli.output import put, put_json
from interlock.cli.records import seconds
from interlock.errors import BadRequest, InterlockError, Unavailable
from interlock.types.followed import FollowedEntry

INTERVAL_S_MIN, INTERVAL_S_MAX = 0.1, 3600.0
PAUSE_S_FIRST, PAUSE_S_MAX = 1.0, 60.0
"""Pauses after a failed attempt: twice as long each time, up to the longest."""
OTLP_BATCH = 100
"""Entries in one request to a collector."""
_T = TypeVar("_T")


def follow(
    tenant: InTenant,
    from_: Annotated[int | None, typer.Option("--from", help="Position of the first entry, the first time.")] = None,
    since: Annotated[str, typer.Option(help="How far back to begin, the first time: 30s, 10m, 2h, 7d.")] = "",
    output: Annotated[Path | None, typer.Option(help="Append lines to this file; stdout otherwise.")] = None,
    state: Annotated[Path | None, typer.Option(help="Keep here how far it is, and go on from there.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when everything that is there was written.")] = False,
    otlp: Annotated[str, typer.Option(help="Send log records to this OpenTelemetry collector instead.")] = "",
    interval: Annotated[float, typer.Option(help="Seconds between looks for what is new.")] = 1.0,
    home: Home = "",
    url: Url = "",
    ca: Ca = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Write every entry of a tenant's ledger as a line of JSON, in order, and go on as more come. It is recorded."""
    if from_ is not None and (from_ < 0 or since):
        raise BadRequest("--from is a position, from 0 on, and goes without --since", param="from")
    if not INTERVAL_S_MIN <= interval <= INTERVAL_S_MAX:
        raise BadRequest(f"--interval is from {INTERVAL_S_MIN} to {INTERVAL_S_MAX:.0f} seconds", param="interval")
    if otlp and output:
        raise BadRequest("--otlp and --output each need a follower of their own, with a state of its own", param="otlp")
    if output and state and output.resolve() == state.resolve():
        raise BadRequest("--state and --output are two files", param="state")
    since_ns = time.time_ns() - seconds(since) * 1_000_000_000 if since else 0
    source = Source(client_of(home, url, ca), tenant, reason)
    with contextlib.ExitStack() as stack:
        sink: Sink = stack.enter_context(contextlib.closing(Otlp(otlp) if otlp else Lines(output)))
        kept = stack.enter_context(contextlib.closing(StateFile(state))) if state is not None else None
        follower = Follower(source, sink, kept, Patience(None if once else time.sleep, _say))
        follower.begin(from_, since_ns)
        while True:
            if follower.step():
                if once:
                    break
                time.sleep(interval)
    if otlp or output:
        ended = {"entries": follower.written, "position": follower.position}
        if as_json:
            put_json(ended)
        else:
            put(f"{follower.written} entries, up to position {follower.position}.")


def add_to(app: typer.Typer) -> None:
    """The command of this file."""
    app.command()(follow)


class Sink(Protocol):
    """Where entries go."""

    def begin(self) -> Place | None:
        """What it has already, when it knows. Raises BadRequest when it holds something else."""

    def write(self, entries: Sequence[FollowedEntry]) -> None:
        """Take entries; they are safe when it returns. Raises Unavailable when it may be tried again."""

    def close(self) -> None:
        """End."""


class Patience:
    """Tries again what fails for now, with growing pauses, and says so once. `sleep` None: fails at once."""

    def __init__(self, sleep: Callable[[float], None] | None, say: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._say = say

    def until_done(self, action: Callable[[], _T], after_failure: Callable[[], None] | None = None) -> _T:
        """What `action` returns at last. `after_failure`: done first, after one."""
        pause_s, words = PAUSE_S_FIRST, ""
        while True:
            try:
                if words and after_failure is not None:
                    after_failure()
                done = action()
            except InterlockError as e:
                if self._sleep is None or not _passes(e):
                    raise
                if e.message != words:
                    self._say(f"{e.message}; trying again")
                words = e.message
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
                continue
            if words:
                self._say("going on")
            return done


def _passes(error: InterlockError) -> bool:
    """Whether it may work later without anybody changing what was asked."""
    if isinstance(error, Refused):
        return error.status >= 500 or error.status == 429
    return isinstance(error, Unavailable) and error.code != "untrusted_certificate"


class Page:
    """What the admin API gave: checked entries, the tree they are of, and its size."""

    def __init__(self, answer: dict[str, Any]) -> None:
        """Raises InterlockError when an entry is not what its hash says, or not in its place."""
        from interlock.ledger.entry import encode_leaf
        from interlock.ledger.proof.merkle import leaf_hash

        self.tree: str = answer["tree"]
        self.size: int = answer["size"]
        self.next: int = answer["next"]
        self.entries = [FollowedEntry(each["position"], each["hash"], each["leaf"]) for each in answer["items"]]
        last = -1
        for entry in self.entries:
            if leaf_hash(encode_leaf(entry.leaf)).hex() != entry.hash or entry.leaf["tree"] != self.tree:
                raise InterlockError(f"entry {entry.position} is not what the tree has its hash of", code="altered")
            if not last < entry.position < self.size:
                raise InterlockError(f"entry {entry.position} came out of its order", code="altered")
            last = entry.position


class Source:
    """A tenant's ledger as the admin API gives it."""

    def __init__(self, client: AdminClient, tenant: str, reason: str) -> None:
        self.tenant = tenant
        self._client = client
        self._reason = reason

    def after(self, position: int, since_ns: int = 0, limit: int = 0) -> Page:
        """What comes after a position. Raises Refused, Unavailable."""
        query: dict[str, object] = {"after": position, "since_ns": since_ns or "", "limit": limit or ""}
        return Page(self._client.call("GET", f"/tenants/{self.tenant}/ledger/follow", query=query, why=self._reason))


class Follower:
    """Brings entries from a source to a sink, in order and none left out, and keeps how far it is.

    INVARIANT: the state names an entry only when the sink has it and everything before it.
    """

    def __init__(self, source: Source, sink: Sink, state: StateFile | None, patience: Patience) -> None:
        self._source = source
        self._sink = sink
        self._state = state
        self._patience = patience
        self._last: Place | None = None
        self.position = -1
        self.written = 0

    def begin(self, position: int | None, since_ns: int) -> None:
        """Go on where sink and state say; the first time at `position`, or at what was admitted since an instant.

        Raises BadRequest when they are of another ledger, or of another past of this one.
        """
        has, kept = self._sink.begin(), self._state.load() if self._state is not None else None
        if has is not None and kept is not None and has.tree != kept.tree:
            raise BadRequest("--state is of another tenant than --output", param="state")
        # the lines themselves know best; the state is for a file that was rotated, and for what holds no lines
        self._last = has or kept
        if self._last is not None:
            self.position = self._last.position
            self._patience.until_done(self._check)
        elif position is not None:
            self.position = position - 1
        elif since_ns:
            first = self._patience.until_done(lambda: self._source.after(-1, since_ns, 1))
            self.position = first.entries[0].position - 1 if first.entries else first.next

    def step(self) -> bool:
        """Bring what is there, at most one answer of it; whether that was all."""
        page = self._patience.until_done(self._next, after_failure=self._check)
        if page.entries:
            first, last = page.entries[0], page.entries[-1]
            if first.position > self.position + 1:
                _say(f"entries {self.position + 1} to {first.position - 1} are not in the ledger any more")
            self._patience.until_done(lambda: self._sink.write(page.entries))
            self._last = Place(page.tree, last.position, last.hash)
            self.position = last.position
            self.written += len(page.entries)
            if self._state is not None:
                self._state.save(self._last)
        return not page.entries or self.position + 1 >= page.size

    def _next(self) -> Page:
        page = self._source.after(self.position)
        if self._last is not None and (page.tree != self._last.tree or page.size <= self.position):
            raise self._other_past(page)
        return page

    def _check(self) -> None:
        """That the ledger still has the entry that was the last one, as it was."""
        last = self._last
        if last is None:
            return
        page = self._source.after(last.position - 1, limit=1)
        same = page.entries and (page.entries[0].position > last.position or page.entries[0].hash == last.hash)
        if page.tree != last.tree or page.size <= last.position or not same:
            raise self._other_past(page)

    def _other_past(self, page: Page) -> InterlockError:
        assert self._last is not None  # noqa: S101 - nothing was followed that could differ
        if page.tree != self._last.tree:
            return BadRequest(
                f"what was followed is of the tenant with id {self._last.tree}, and {self._source.tenant} is"
                f" {page.tree}: name another --state and --output",
                param="state",
            )
        return InterlockError(
            f"the ledger of {self._source.tenant} has {page.size} entries, and not the one at position"
            f" {self._last.position} that was followed: its database may be an older one, restored; compare both, then"
            " follow it to another --state and --output",
            code="other_history",
        )


class Otlp:
    """Entries as log records to a collector."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError: no URL of a collector, extra missing."""
        from interlock import __version__
        from interlock.telemetry.log_records import LogCollector

        self._collector = LogCollector(url, __version__, time.time_ns)

    def begin(self) -> Place | None:
        """A collector does not say what it has."""
        return None

    def write(self, entries: Sequence[FollowedEntry]) -> None:
        """Send entries, some at a time: one request has a bounded size."""
        for start in range(0, len(entries), OTLP_BATCH):
            self._collector.send(entries[start : start + OTLP_BATCH])

    def close(self) -> None:
        """Close the connection."""
        self._collector.close()


def _say(words: str) -> None:
    sys.stderr.write(f"interlock: {words}\n")
    sys.stderr.flush()
