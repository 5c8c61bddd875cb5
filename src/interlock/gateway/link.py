"""The link between a node and each of its workers: a socket pair that carries one JSON message per line.

    node -> worker   Configure   once, first: settings, slot, where shared things are
                     NewSnapshot a newer snapshot is stored
                     Reload      look again at credentials, certificates or issuers' keys
                     Stop        finish running calls within the grace, then exit
                     Measured    energy of calls that ended, from a source's meter
                     LeaseGranted, LeaseRefused   the answer to LeaseWanted
                     LeaseRecalled   others need what can be spared of a budget's share
                     KeyAnswer   what there is under an idempotency key
                     StatePart, StateAnswer   stored responses
                     FeedbackAnswer   whose call it is that somebody gives feedback on
                     TellCalls   somebody watches: which calls run
                     Ping        answered here, so that a stuck worker is found
    worker -> node   Ready       serving, on this snapshot
                     Runs        now runs on this snapshot
                     Rejected    keeps the one it had, and why
                     RefreshKeys a token names a key id that the issuer's stored keys do not have
                     Worked      what was under way at sources that have a meter
                     LeaseWanted, LeaseReturned   shares of budgets
                     KeyClaim, KeyEnd   a call claims an idempotency key; how it ended
                     StateWanted, StateKept, StateDropped   stored responses: read, keep, delete
                     FeedbackClaim   somebody gives feedback on a call
                     CallsTold   the calls that run
                     Pong        its event loop turns

Either end sees the other one die as the end of the stream: a worker whose node is gone stops as if told to, so no
worker is left behind. Messages are small and rare; the hot path does not pass here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from interlock.errors import InterlockError
from interlock.types.running import WorkerCalls

LINK_FD = 0
"""The worker's end is its standard input, so that a worker needs no arguments."""
LINE_BYTES_MAX = 1_048_576
"""Longest message. A longer one ends the link: its sender is not one of ours."""
UNREAD_BYTES_MAX = 4 * LINE_BYTES_MAX
"""Bytes that may wait for the other end. More means that it is stuck."""


class Configure(msgspec.Struct, frozen=True, tag_field="is", tag="configure"):
    """What a worker needs to start. Sent over the link because arguments and environments are readable by others.

    `settings`: the fields of `Settings` by name. `run_dir` holds `board.shm`, `limits.shm` and the metrics files,
    `snapshot_dir` the stored snapshot, `jwks_dir` the issuers' keys, `log_dir` the record log. `listen_fd` is the
    inherited listening socket, `port` what it is bound to.
    """

    settings: dict[str, Any]
    node: str
    slot: int
    workers: int
    generation: int
    """How many workers have been in this slot before."""
    run_dir: str
    snapshot_dir: str
    jwks_dir: str
    log_dir: str
    listen_fd: int
    port: int


class NewSnapshot(msgspec.Struct, frozen=True, tag_field="is", tag="snapshot"):
    """Snapshot `version` is stored; `file` (a name in the snapshot folder) holds what it changes, or all of it."""

    version: int
    file: str


class Reload(msgspec.Struct, frozen=True, tag_field="is", tag="reload"):
    """Something outside the snapshot changed. `what`: "jwks" (with `name` an issuer id) or "credentials"."""

    what: str
    name: str = ""


class Stop(msgspec.Struct, frozen=True, tag_field="is", tag="stop"):
    """Take no more connections, let running calls finish for `grace_ms` milliseconds, then exit."""

    grace_ms: int


class Ready(msgspec.Struct, frozen=True, tag_field="is", tag="ready"):
    """The worker accepts connections. `snapshot`: version it runs on, 0 when it has none yet."""

    snapshot: int


class Runs(msgspec.Struct, frozen=True, tag_field="is", tag="runs"):
    """The worker has taken a snapshot over: every call from now on begins with it."""

    snapshot: int


class Rejected(msgspec.Struct, frozen=True, tag_field="is", tag="rejected"):
    """The worker could not load a snapshot and keeps the one it has."""

    snapshot: int
    keeps: int
    words: str


class RefreshKeys(msgspec.Struct, frozen=True, tag_field="is", tag="refresh_keys"):
    """Fetch an issuer's keys again (no more often than `jwks_refetch_min_s`)."""

    issuer_id: str


class Worked(msgspec.Struct, frozen=True, tag_field="is", tag="worked"):
    """What a worker did at sources with a meter since it said so last. Instants on the monotonic clock.

    `open`: source id -> when the oldest attempt began that is under way there, `at_ns` when there is none: what began
    before and ended has been told. `calls`: (source id, call, began, ended, work).
    """

    epoch: str
    at_ns: int
    open: dict[str, int]
    calls: list[tuple[str, int, int, int, int]]
    lost_ns: int = 0
    """Calls that ended until then are not all told; 0: they are."""


class Measured(msgspec.Struct, frozen=True, tag_field="is", tag="measured"):
    """The energy of calls of this epoch: (call, microjoules)."""

    epoch: str
    method: str
    calls: list[tuple[int, int]]


class LeaseWanted(msgspec.Struct, frozen=True, tag_field="is", tag="lease_wanted"):
    """A worker needs a share of a budget's period: `need` more at least (0: it asks in advance), `want` if there is
    plenty. Answered once."""

    epoch: str
    tenant_id: str
    budget: str
    start_s: int
    need: int
    want: int


class LeaseReturned(msgspec.Struct, frozen=True, tag_field="is", tag="lease_returned"):
    """A worker gives `amount` of its share back. `recall`: number of the recall that this answers, 0: none."""

    epoch: str
    budget: str
    start_s: int
    amount: int
    recall: int


class LeaseGranted(msgspec.Struct, frozen=True, tag_field="is", tag="lease_granted"):
    """The worker's share grows by `amount`."""

    epoch: str
    budget: str
    start_s: int
    amount: int


class LeaseRefused(msgspec.Struct, frozen=True, tag_field="is", tag="lease_refused"):
    """What was needed cannot be had. `why`: "spent", "held" (by workers that do not answer) or "unavailable" (the
    database is away). `used`: what was charged so far, `amount`: the budget's; -1 when unknown."""

    epoch: str
    budget: str
    start_s: int
    why: str
    used: int = -1
    amount: int = -1


class LeaseRecalled(msgspec.Struct, frozen=True, tag_field="is", tag="lease_recalled"):
    """Give back what can be spared of a share, and say so under this number. `asker`: the epoch that needs it."""

    budget: str
    start_s: int
    number: int
    asker: str


class KeyClaim(msgspec.Struct, frozen=True, tag_field="is", tag="key_claim"):
    """The call `request` claims a principal's idempotency key; see `interlock.gateway.idempotency`. Answered once."""

    epoch: str
    number: int
    tenant_id: str
    principal_id: str
    digest: bytes
    fingerprint: bytes
    subject: str
    request: str


class KeyEnd(msgspec.Struct, frozen=True, tag_field="is", tag="key_end"):
    """How the call ended that has a key: "done" (`answer`: sealed, b"" when it is not kept), "lost", or "free" when
    nothing was done."""

    tenant_id: str
    principal_id: str
    digest: bytes
    request: str
    state: str
    answer: bytes


class KeyAnswer(msgspec.Struct, frozen=True, tag_field="is", tag="key_answer"):
    """What there is under a key: "fresh", "other", "running", "done", "lost", or "unavailable". `request`: the call
    that has it."""

    epoch: str
    number: int
    state: str
    request: str = ""
    answer: bytes = b""


class StateWanted(msgspec.Struct, frozen=True, tag_field="is", tag="state_wanted"):
    """Stored responses of a subject are wanted, see `interlock.gateway.states`: the one of this id and, unless `alone`,
    those that it goes on from (`id` "": none). `new_key`: what becomes the subject's key where it has none, wrapped, by
    this name; b"": none is needed. Answered by any number of StatePart, the oldest first, and one StateAnswer."""

    epoch: str
    number: int
    tenant_id: str
    subject: str
    id: str
    alone: bool
    key_name: bytes = b""
    new_key: bytes = b""


class StateKept(msgspec.Struct, frozen=True, tag_field="is", tag="state_kept"):
    """A response is to be stored for `keep_s` seconds under the subject's key of this name. Answered once."""

    epoch: str
    number: int
    tenant_id: str
    subject: str
    id: str
    previous: str
    key_name: bytes
    sealed: bytes
    keep_s: int


class StateDropped(msgspec.Struct, frozen=True, tag_field="is", tag="state_dropped"):
    """A stored response is to be deleted. Answered once."""

    epoch: str
    number: int
    tenant_id: str
    subject: str
    id: str


class StatePart(msgspec.Struct, frozen=True, tag_field="is", tag="state_part"):
    """One stored response."""

    epoch: str
    number: int
    id: str
    previous: str
    sealed: bytes


class StateAnswer(msgspec.Struct, frozen=True, tag_field="is", tag="state_answer"):
    """What there is: "found", "missing", "broken" (one that it goes on from is gone), "too_long"; "kept" or "refused"
    (the key was destroyed meanwhile); "dropped" or "missing"; or "unavailable". `key`: the subject's, wrapped."""

    epoch: str
    number: int
    state: str
    key_name: bytes = b""
    key: bytes = b""


class FeedbackClaim(msgspec.Struct, frozen=True, tag_field="is", tag="feedback_claim"):
    """Somebody gives feedback on a call; see `interlock.storage.feedback.Claim`. Answered once."""

    epoch: str
    number: int
    tenant_id: str
    request: str
    giver: str
    feedback_id: str
    digests: dict[str, bytes]
    recent: bool
    thumb: str
    score_micro: int


class FeedbackAnswer(msgspec.Struct, frozen=True, tag_field="is", tag="feedback_answer"):
    """What comes of it; see `interlock.storage.feedback.Found`, and "unavailable"."""

    epoch: str
    number: int
    state: str
    kind: str = ""
    subject: str = ""
    recording: str = ""
    data_class: int = 0


class TellCalls(msgspec.Struct, frozen=True, tag_field="is", tag="tell_calls"):
    """Somebody watches: tell of at most `most` calls that run."""

    most: int


class CallsTold(msgspec.Struct, frozen=True, tag_field="is", tag="calls_told"):
    """The answer to TellCalls."""

    calls: WorkerCalls


class Ping(msgspec.Struct, frozen=True, tag_field="is", tag="ping"):
    """Are you there? Answered by the worker's end itself."""


class Pong(msgspec.Struct, frozen=True, tag_field="is", tag="pong"):
    """The answer to Ping."""


State = StateWanted | StateKept | StateDropped
ToWorker = (
    Configure
    | NewSnapshot
    | Reload
    | Stop
    | Measured
    | LeaseGranted
    | LeaseRefused
    | LeaseRecalled
    | KeyAnswer
    | StatePart
    | StateAnswer
    | FeedbackAnswer
    | TellCalls
    | Ping
)
ToNode = (
    Ready
    | Runs
    | Rejected
    | RefreshKeys
    | Worked
    | LeaseWanted
    | LeaseReturned
    | KeyClaim
    | KeyEnd
    | State
    | FeedbackClaim
    | CallsTold
    | Pong
)
In = TypeVar("In")
Out = TypeVar("Out")

_TO_WORKER: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
_TO_NODE: msgspec.json.Decoder[ToNode] = msgspec.json.Decoder(ToNode)


class LinkError(InterlockError):
    """The other end of a link sent what is not a message, or does not read."""

    code = "link_broken"


class End(asyncio.Protocol, Generic[In, Out]):
    """One end of a link. `on_message` is called for each message, `on_closed` once when the link is over:
    with None when the other end is gone, with a LinkError when it misbehaved. Nothing is called after `close`."""

    def __init__(
        self,
        decoder: msgspec.json.Decoder[In],
        on_message: Callable[[In], None],
        on_closed: Callable[[LinkError | None], None],
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._error: LinkError | None = None
        self._closed = False

    def send(self, message: Out) -> bool:
        """Send a message. False when the link is over, or the other end does not read (the link then ends)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._fail("the other end does not read")
            return False
        transport.write(msgspec.json.encode(message) + b"\n")
        return True

    @property
    def unsent(self) -> int:
        """Bytes that wait for the other end to read."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """End the link from this side; `on_closed` is not called."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        received = self._received
        received += data
        while not self._closed and self._error is None:
            end = received.find(b"\n")
            if end < 0:
                if len(received) > LINE_BYTES_MAX:
                    self._fail(f"a message of more than {LINE_BYTES_MAX} bytes")
                return
            line = bytes(received[:end])
            del received[: end + 1]
            try:
                message = self._decoder.decode(line)
            except msgspec.MsgspecError as e:
                self._fail(f"not a message of this version: {e}")
                return
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Part of asyncio.Protocol."""
        self._transport = None
        if not self._closed:
            self._closed = True
            self._on_closed(self._error)

    def _fail(self, words: str) -> None:
        self._error = LinkError(f"link between node and worker: {words}")
        if self._transport is not None:
            self._transport.abort()


NodeEnd = End[ToNode, ToWorker]
WorkerEnd = End[ToWorker, ToNode]


async def node_end(
    sock: socket.socket, on_message: Callable[[ToNode], None], on_closed: Callable[[LinkError | None], None]
) -> NodeEnd:
    """The node's end of a link, over its half of a socket pair."""
    return await _connected(NodeEnd(_TO_NODE, on_message, on_closed), sock)


async def worker_end(
    on_message: Callable[[ToWorker], None],
    on_closed: Callable[[LinkError | None], None],
    fd: int = LINK_FD,
) -> WorkerEnd:
    """A worker's end of its link, over the inherited file descriptor; the worker owns it from here on."""

    def receive(message: ToWorker) -> None:
        if isinstance(message, Ping):
            end.send(Pong())
        else:
            on_message(message)

    end = WorkerEnd(_TO_WORKER, receive, on_closed)
    return await _connected(end, socket.socket(fileno=fd))


async def _connected(end: End[In, Out], sock: socket.socket) -> End[In, Out]:
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().create_connection(lambda: end, sock=sock)
    except BaseException:
        with contextlib.suppress(OSError):
            sock.close()
        raise
    return end
