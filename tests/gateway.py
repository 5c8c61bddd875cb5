"""A real gateway worker inside the test process: real record log, limits, board, policies; no node, no database.

with WorkerHarness(World(...)) as gateway:
    gateway.url, gateway.key("alice"), gateway.records()
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import uvloop

from interlock.gateway.canary_table import CanaryTable
from interlock.gateway.claimant import Claimant
from interlock.gateway.keeper import Keeper
from interlock.gateway.link import (
    Configure,
    FeedbackAnswer,
    FeedbackClaim,
    KeyAnswer,
    KeyClaim,
    KeyEnd,
    LeaseGranted,
    LeaseRefused,
    LeaseReturned,
    LeaseWanted,
    NewSnapshot,
    StateAnswer,
    StateDropped,
    StateKept,
    StatePart,
    StateWanted,
    ToNode,
    ToWorker,
)
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.gateway.worker import Worker
from interlock.ledger.reader import epochs, read_epoch
from interlock.metering.limits import LimitTable
from interlock.policy.templates import render
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.seats import SeatTable
from interlock.types.apikey import mint
from interlock.types.budget import Budget
from interlock.types.clock import SystemClock
from interlock.types.identity import (
    ApiKey,
    DataClass,
    Issuer,
    Judging,
    LimitSet,
    Principal,
    PrincipalKind,
    Recording,
    Team,
    Tenant,
    Workload,
)
from interlock.types.learned import Weights, weights_part
from interlock.types.record import Record
from interlock.types.snapshot import (
    BUCKETS,
    FORMAT,
    Alias,
    Head,
    Part,
    PolicyText,
    Trial,
    bucket_of,
    bucket_part,
    key_digest,
    principal_digest,
    root_hash,
)
from interlock.types.source import Labels, Model, Source, SourceKind, SourceLimits

T = TypeVar("T")
PEPPER = b"a pepper of enough characters that only tests know of"
ABILITIES = ("chat", "completions", "embeddings", "tools", "json_schema", "logprobs", "vision")


def model(name: str = "m", **fields: Any) -> Model:
    """A model that can do everything, unless told otherwise."""
    return Model(name=name, **{"abilities": ABILITIES, "context_length": 32_768, **fields})


def source(name: str, url: str, *models: Model, **fields: Any) -> Source:
    """An on-prem source granted to everybody, unless told otherwise."""
    given: dict[str, Any] = {
        "id": f"src_{name}",
        "name": name,
        "kind": SourceKind.openai,
        "base_url": url,
        "granted_to": ("*",),
        "labels": Labels(region="eu", on_prem=True),
        "models": models or (model(),),
    }
    return Source(**{**given, **fields})


def permit_all(policy_id: str = "all", features: Iterable[str] = ()) -> PolicyText:
    """Every team-less principal may use every model, and the given field actions."""
    actions = ", ".join(f'Action::"{name}"' for name in ("infer", *features))
    return PolicyText(id=policy_id, cedar=f"permit(principal, action in [{actions}], resource);", words="all may")


def template(policy_id: str, name: str, tenant_id: str = "", **parameters: Any) -> PolicyText:
    """A policy rendered from a template."""
    rendered = render(name, parameters)
    return PolicyText(id=policy_id, cedar=rendered.cedar, words=rendered.words, tenant_id=tenant_id)


@dataclasses.dataclass
class Who:
    """One principal with one key."""

    name: str = "alice"
    tenant: str = "acme"
    team: str = "research"
    kind: PrincipalKind = PrincipalKind.user
    scopes: tuple[str, ...] = ("infer",)
    data_class: DataClass = DataClass.internal
    limits: LimitSet | None = None
    team_limits: LimitSet | None = None
    key_limits: LimitSet | None = None
    not_after_s: int = 0
    may_act_for: tuple[str, ...] = ()
    revoked: bool = False
    cut: bool = False
    recording: Recording = Recording.full
    """Of its team."""
    tenant_recording: Recording = Recording.full
    workload: Workload = Workload.interactive
    """Of its key."""
    principal_workload: Workload = Workload.interactive
    key: str = dataclasses.field(default_factory=lambda: mint("test", secrets.randbelow))


@dataclasses.dataclass
class World:
    """What a snapshot says, in the words of a test."""

    sources: list[Source]
    people: list[Who] = dataclasses.field(default_factory=lambda: [Who()])
    policies: list[PolicyText] = dataclasses.field(default_factory=lambda: [permit_all()])
    aliases: list[Alias] = dataclasses.field(default_factory=list)
    issuers: list[Issuer] = dataclasses.field(default_factory=list)
    budgets: list[Budget] = dataclasses.field(default_factory=list)
    trials: list[Trial] = dataclasses.field(default_factory=list)
    judging: Judging | None = None
    """Of every tenant."""
    learned: Weights | None = None
    """Likewise."""

    def parts(self, version: int) -> tuple[list[Part], Head]:
        """The parts of this world's snapshot, as the compiler would make them."""
        tenants = {
            w.tenant: Tenant(id=f"ten_{w.tenant}", name=w.tenant, recording=w.tenant_recording, judging=self.judging)
            for w in self.people
        }
        teams = {
            (w.tenant, w.team): Team(
                id=f"team_{w.tenant}_{w.team}",
                tenant_id=f"ten_{w.tenant}",
                name=w.team,
                limits=w.team_limits,
                recording=w.recording,
            )
            for w in self.people
            if w.team
        }
        small: dict[str, object] = {
            "tenants": list(tenants.values()),
            "teams": list(teams.values()),
            "sources": self.sources,
            "policies": self.policies,
            "aliases": self.aliases,
            "issuers": self.issuers,
            "budgets": self.budgets,
            "trials": self.trials,
            "router": {"version": 0},
            **{weights_part(each.id): self.learned for each in tenants.values() if self.learned is not None},
        }
        keys: list[dict[bytes, ApiKey]] = [{} for _ in range(BUCKETS)]
        principals: list[dict[str, Principal]] = [{} for _ in range(BUCKETS)]
        for w in self.people:
            principal_id = f"prn_{w.tenant}_{w.name}"
            digest = key_digest(PEPPER, w.key.encode())
            keys[bucket_of(digest)][digest] = ApiKey(
                id=f"key_{w.tenant}_{w.name}",
                tenant_id=f"ten_{w.tenant}",
                principal_id=principal_id,
                scopes=w.scopes,
                not_after_s=w.not_after_s,
                data_class=w.data_class,
                limits=w.key_limits,
                revoked=w.revoked,
                cut=w.cut,
                workload=w.workload,
            )
            principals[bucket_of(principal_digest(principal_id))][principal_id] = Principal(
                id=principal_id,
                tenant_id=f"ten_{w.tenant}",
                kind=w.kind,
                name=w.name,
                team_ids=(f"team_{w.tenant}_{w.team}",) if w.team else (),
                limits=w.limits,
                may_act_for=w.may_act_for,
                workload=w.principal_workload,
            )
        bodies = {name: msgspec.msgpack.encode(value) for name, value in small.items()}
        for n in range(BUCKETS):
            if keys[n]:
                bodies[bucket_part("keys", n)] = msgspec.msgpack.encode(keys[n])
            if principals[n]:
                bodies[bucket_part("principals", n)] = msgspec.msgpack.encode(principals[n])
        parts = [Part(name, version, sha256(body).digest(), body) for name, body in bodies.items()]
        head = Head(version, root_hash((p.name, p.sha256) for p in parts), FORMAT, SystemClock().wall_ns())
        return parts, head


class StoredResponses:
    """Stored responses without a node and a database. `rows`: by tenant, subject and id."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self.rows: dict[tuple[str, str, str], StateKept] = {}
        self.turns_max = 100

    def answer(self, message: StateWanted | StateKept | StateDropped) -> list[StatePart | StateAnswer]:
        """What the node says."""
        owner = (message.tenant_id, message.subject)
        place = (*owner, message.id)
        if isinstance(message, StateKept):
            known = self.keys.get(owner, (b"", b""))[0] == message.key_name
            if known:
                self.rows[place] = message
            return [StateAnswer(message.epoch, message.number, "kept" if known else "refused")]
        if isinstance(message, StateDropped):
            gone = self.rows.pop(place, None)
            return [StateAnswer(message.epoch, message.number, "dropped" if gone is not None else "missing")]
        if message.new_key:
            self.keys.setdefault(owner, (message.key_name, message.new_key))
        state, found = self._chain(message)
        parts: list[StatePart | StateAnswer] = [
            StatePart(message.epoch, message.number, row.id, row.previous, row.sealed) for row in reversed(found)
        ]
        return [*parts, StateAnswer(message.epoch, message.number, state, *self.keys.get(owner, (b"", b"")))]

    def _chain(self, message: StateWanted) -> tuple[str, list[StateKept]]:
        found: list[StateKept] = []
        name = message.id
        while name:
            row = self.rows.get((message.tenant_id, message.subject, name))
            if row is None:
                return ("broken" if found else "missing"), []
            found.append(row)
            name = "" if message.alone else row.previous
            if len(found) >= self.turns_max and name:
                return "too_long", []
        return "found", found


class _Slot:
    """The worker of a harness as a node sees it."""

    number = 0
    unsent = 0

    def __init__(self, harness: WorkerHarness) -> None:
        self._harness = harness

    def send(self, message: StatePart | StateAnswer | KeyAnswer | FeedbackAnswer, /) -> bool:
        """Tell it."""
        self._harness.worker.on_message(message)
        return True


class WorkerHarness:
    """Runs a `Worker` on an event loop of its own thread."""

    def __init__(self, world: World, folder: Path | None = None, **settings: Any) -> None:
        self.world = world
        self._temporary = tempfile.TemporaryDirectory(prefix="interlock-") if folder is None else None
        self.folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        pepper = self.folder / "pepper"
        pepper.write_bytes(PEPPER)
        given = {"home": str(self.folder), "pepper_file": str(pepper), "metrics_interval_ms": 50, **settings}
        self.settings = Settings(**given)
        self.told: list[ToNode] = []
        self.purse: dict[str, int] | None = {}
        """What is left of each budget for this worker, by budget id; None: the node does not answer."""
        self.keys: dict[tuple[str, str, bytes], tuple[KeyClaim, str, bytes]] = {}
        """Idempotency keys: who claimed each, what became of it, the sealed answer."""
        self.keys_answered = True
        self.states = StoredResponses()
        self.states_answered = True
        self.keeper: Keeper | None = None
        self.claimant: Claimant | None = None
        """For feedback: a node's, where there is a database. Without one it is answered as the node does then."""
        if self.settings.database_url:
            self.keeper = Keeper(self.settings.database_url, self.settings, lambda: [_Slot(self)])
            self.claimant = Claimant(self.settings.database_url, self.settings, lambda: [_Slot(self)])
        self._versions = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._confirming = True

    # -- life

    def __enter__(self) -> Self:
        for name in ("run", "snapshot", "jwks"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        run = self.folder / "run"
        self.board = Board.create(run / "board.shm", rows=64, workers=1, settings=self.settings)
        self.canaries = CanaryTable.create(run / "canaries.shm", self.settings)
        self.limits = LimitTable.create(run / "limits.shm", slots=self.settings.limit_slots, workers=1)
        self.seats = SeatTable.create(run / "seats.shm", rows=64, tenants=self.settings.queue_tenants_max, workers=1)
        self.snapshots = SnapshotFolder(self.folder / "snapshot", deltas_max=64)
        self._store()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(1024)
        self.port: int = self._socket.getsockname()[1]
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.result(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        self.board.close()
        self.canaries.close()
        self.limits.close()
        self.seats.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def stop(self, grace_ms: int = 2000) -> None:
        """Stop the worker as the node would. Idempotent."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.worker.stop, grace_ms)
            self._thread.join(20)
            assert not self._thread.is_alive(), "the worker did not stop"

    def _tell(self, message: ToNode) -> bool:
        """What the worker says to its node; of budgets it gets what is in the purse."""
        self.told.append(message)
        if isinstance(message, KeyClaim | KeyEnd):
            return self._key(message)
        if isinstance(message, FeedbackClaim):
            return self._feedback(message)
        if isinstance(message, StateWanted | StateKept | StateDropped):
            return self._state(message)
        if self.purse is None or not isinstance(message, LeaseWanted | LeaseReturned):
            return True
        left = self.purse.get(message.budget, 0)
        if isinstance(message, LeaseReturned):
            self.purse[message.budget] = left + message.amount
            return True
        given = min(message.want, left) if left >= message.need else 0
        self.purse[message.budget] = left - given
        answer: ToWorker = LeaseGranted(message.epoch, message.budget, message.start_s, given)
        if message.need and not given:
            amount = next((b.amount for b in self.world.budgets if b.id == message.budget), -1)
            used = amount - left
            answer = LeaseRefused(message.epoch, message.budget, message.start_s, "spent", used, amount)
        assert self._loop is not None
        self._loop.call_soon(self.worker.on_message, answer)
        return True

    def _key(self, message: KeyClaim | KeyEnd) -> bool:
        """What a node and its database make of an idempotency key, without either."""
        name = (message.tenant_id, message.principal_id, message.digest)
        if isinstance(message, KeyEnd):
            claim, _, _ = self.keys.pop(name)
            if message.state != "free":
                self.keys[name] = (claim, message.state, message.answer)
            return True
        if not self.keys_answered:
            return True
        claim, state, answer = self.keys.setdefault(name, (message, "running", b""))
        if claim is message:
            state = "fresh"
        elif claim.fingerprint != message.fingerprint:
            state = "other"
        said = KeyAnswer(message.epoch, message.number, state, claim.request, answer if state == "done" else b"")
        assert self._loop is not None
        self._loop.call_soon(self.worker.on_message, said)
        return True

    def _feedback(self, message: FeedbackClaim) -> bool:
        if self.claimant is not None:
            self.claimant.claim(0, message)
        else:
            said = FeedbackAnswer(message.epoch, message.number, "unavailable")
            assert self._loop is not None
            self._loop.call_soon(self.worker.on_message, said)
        return True

    def _state(self, message: StateWanted | StateKept | StateDropped) -> bool:
        """What a node and its database make of stored responses: the real ones where there is a database."""
        assert self._loop is not None
        if self.keeper is not None:
            self.keeper.ask(0, message)
        elif self.states_answered:
            for said in self.states.answer(message):
                self._loop.call_soon(self.worker.on_message, said)
        return True

    def _run(self, started: Future[None]) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            config = Configure(
                settings=msgspec.to_builtins(dataclasses.asdict(self.settings)),
                node="test",
                slot=0,
                workers=1,
                generation=0,
                run_dir=str(self.folder / "run"),
                snapshot_dir=str(self.folder / "snapshot"),
                jwks_dir=str(self.folder / "jwks"),
                log_dir=str(self.folder / "log"),
                listen_fd=self._socket.detach(),
                port=self.port,
            )
            try:
                self.worker = Worker(config, SystemClock(), self._loop)
                self.worker.send = self._tell
                await self.worker.start()
            except BaseException as e:
                started.set_exception(e)
                raise
            started.set_result(None)
            services = [each for each in (self.keeper, self.claimant) if each is not None]
            serving = [self._loop.create_task(each.run()) for each in services]
            await self.worker.stopped
            for task in serving:
                task.cancel()
            self.worker.board.close()
            self.worker.canaries.close()
            self.worker.limits.close()
            self.worker.seats.close()

        uvloop.run(main())

    # -- what tests do

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    def key(self, name: str = "alice") -> str:
        """The API key of a person."""
        return next(w.key for w in self.world.people if w.name == name)

    def call(self, action: Callable[[], T]) -> T:
        """Run `action` on the worker's loop."""
        assert self._loop is not None

        async def on_loop() -> T:
            return action()

        return self.wait(on_loop())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the worker's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def change(self, world: World) -> None:
        """Give the worker a new snapshot and wait until it runs on it."""
        self.world = world
        name = self._store()
        self.call(lambda: self.worker.on_message(NewSnapshot(self.view.version, name)))

    def _store(self) -> str:
        parts, head = self.world.parts(next(self._versions))
        self.view = SnapshotView.from_parts(parts, head, cache_max=1024)
        name = self.snapshots.store(self.view, None, parts)
        for known in self.view.sources:
            self.board.row(known.id)
        if self._confirming:
            self.board.confirm_snapshot(head.version, SystemClock().wall_ns())
        return name

    def records(self) -> list[Record]:
        """Every record written so far, in order, of every epoch."""
        found: list[Record] = []
        for epoch in epochs(self.folder / "log"):
            found.extend(stored.record for stored in read_epoch(self.folder / "log", epoch))
        return found

    def told_of(self, kind: type[T]) -> list[T]:
        """What the worker has told its node, of one kind."""
        return [message for message in self.told if isinstance(message, kind)]

    def records_of(self, kind: type[T]) -> list[T]:
        """Records of one kind."""
        return [record for record in self.records() if isinstance(record, kind)]


__all__ = ["SourceLimits", "Who", "WorkerHarness", "World", "model", "permit_all", "source", "template"]
