"""`kill -9` at random points under load: no byte at a client without a record, no end without its outcome, and every
interrupted call is found, once.

A round is planned by (seed, round number): how many clients ask what, who is killed when. The plan and the answers are
the same each time; where exactly a signal meets a process is up to the machine. The log goes on over all rounds, so
that every recovery meets what the ones before left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interlock.ledger.folder import recovering_in, segment_path, segments
from interlock.ledger.reader import read_epoch
from interlock.types.identity import LimitSet
from interlock.types.record import EpochOpen, EpochRecovered, Intent, Interrupted, Outcome, Refusal
from tests.gateway import Who

from .books import Books, CallBook
from .client import Client, Received
from .gateway import Gateway, alive, gateway, wait_gone
from .judge import Judge, PowerLoss, Verdict

KINDS = {"worker": 36, "twice": 10, "recovering": 14, "workers": 12, "node": 8, "everything": 8, "power": 12}
"""Who is killed, and how often of a hundred: a worker; one, and shortly after another or its successor; one, and the
one that is just recovering it; all workers; the node alone; all; all, and what had not become durable is lost."""
RECOVERING_S = 10.0
WITHIN_RECOVERY_S = 0.015
MUST_OCCUR = (
    "completed at the client",
    "events with text",
    "off-premises requests",
    "interrupted calls found",
    "answers of a first step",
    "answers of a second step",
)
"""What a proof of a few rounds cannot be without. It goes on for so many more while one is missing: a round whose
kill met no call shows nothing of calls."""
MORE_ROUNDS = 8
RECOVERY_S = 120.0
SETTLE_S = 60.0
STREAM_SYNC_MS = 50
LOOKED_UP = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One round. `again_s`: pause before the second kill; `slow_disk`, `settings`: of a node that is started in it."""

    seed: int
    number: int
    kind: str
    clients: int
    kill_after_s: float
    again_s: float
    go_on_s: float
    slow_disk: bool
    settings: dict[str, int]

    @staticmethod
    def of(seed: int, number: int) -> Plan:
        """The plan of a round."""
        rng = random.Random(f"{seed} {number}")
        return Plan(
            seed=seed,
            number=number,
            kind=rng.choices(list(KINDS), list(KINDS.values()))[0],
            clients=rng.randrange(6, 25),
            kill_after_s=rng.uniform(0.02, 0.5),
            again_s=rng.uniform(0.0, 0.8),
            go_on_s=rng.uniform(0.0, 0.2),
            slow_disk=rng.random() < 0.5,
            settings={
                "workers": rng.choice((2, 3, 4)),
                "segment_bytes": rng.choice((65_536, 300_000, 67_108_864)),
                "stream_sync_ms": STREAM_SYNC_MS,
            },
        )


@dataclasses.dataclass
class Evidence:
    """What all rounds together showed."""

    figures: Counter[str] = dataclasses.field(default_factory=Counter)
    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    text_lost_ms_max: float = 0.0
    recovery_s: list[float] = dataclasses.field(default_factory=list)
    rounds: int = 0


class KillProof:
    """Plays rounds on one gateway."""

    def __init__(self, made: Gateway, seed: int) -> None:
        self.gateway = made
        self.seed = seed
        self.books = Books(made.log, made.home / "syncs")
        self.judge = Judge(self.books)
        self.evidence = Evidence()
        self._seen: dict[str, int] = {}
        self._notes_read = 0
        self._killed: set[str] = set()
        self._pids: dict[str, int] = {}

    def play(self, plan: Plan) -> list[str]:
        """One round; returns what was wrong."""
        rng = random.Random(f"{plan.seed} {plan.number} play")
        if self.gateway.node is None:
            self._start(plan)
        began_ns = time.monotonic_ns()
        received, loss = asyncio.run(self._load_and_kill(plan, rng))
        verdict = Verdict()
        if not self._settled():
            verdict.failures.append(f"accounts that nobody closes: {self._unsettled()}")
        self._judge(received, loss, began_ns, rng, verdict)
        evidence = self.evidence
        evidence.rounds += 1
        evidence.figures.update(verdict.figures)
        evidence.text_lost_ms_max = max(evidence.text_lost_ms_max, verdict.text_lost_ms)
        failures = [f"seed {plan.seed} round {plan.number} ({plan.kind}): {words}" for words in verdict.failures]
        evidence.failures.extend(failures)
        return failures

    def missing(self) -> list[str]:
        """What a proof cannot be without and has not seen yet."""
        return [what for what in MUST_OCCUR if not self.evidence.figures[what]]

    def finish(self) -> None:
        """Stop the node in good order and read everything once more, with the public reader."""
        failures = self.evidence.failures
        code = self.gateway.stop()
        if code != 0:
            failures.append(f"seed {self.seed}: the node ended with exit code {code}")
        self.books.read()
        self.books.close()
        if self.books.open_epochs():
            failures.append(f"seed {self.seed}: after the stop {self.books.open_epochs()} are not closed")
        failures.extend(f"seed {self.seed}: {words}" for words in _read_all(self.books, self.evidence.figures))
        if self.evidence.rounds >= 3:
            failures.extend(f"seed {self.seed}: nothing was proved, there were no {what}" for what in self.missing())

    def _start(self, plan: Plan) -> None:
        self.gateway.environment["PROVE_SLOW"] = "1" if plan.slow_disk else ""
        self.gateway.start(**plan.settings)

    # -- load and kill

    async def _load_and_kill(self, plan: Plan, rng: random.Random) -> tuple[list[Received], PowerLoss | None]:
        key = self.gateway.people[0].key
        clients = [Client(lambda: self.gateway.port, key, _markers(plan, number)) for number in range(plan.clients)]
        running = [asyncio.create_task(client.run()) for client in clients]
        try:
            await asyncio.sleep(plan.kill_after_s)
            loss = await self._kill(plan, rng)
            began = time.monotonic()
            if self.gateway.node is None:
                await asyncio.to_thread(self._start, plan)
            await self._recovered()
            self.evidence.recovery_s.append(time.monotonic() - began)
            await asyncio.sleep(plan.go_on_s)
        finally:
            for client in clients:
                client.stop()
            await asyncio.gather(*running)
        return [each for client in clients for each in client.received], loss

    async def _kill(self, plan: Plan, rng: random.Random) -> PowerLoss | None:
        made, kills = self.gateway, self.evidence.kills
        kills[plan.kind] += 1
        workers = made.workers()
        before = set(self.books.open_epochs())
        at_ns = time.monotonic_ns()
        if plan.kind in ("worker", "twice", "recovering", "workers"):
            victims = workers if plan.kind == "workers" else [rng.choice(workers)]
            for pid in victims:
                made.kill_worker(pid)
            if plan.kind in ("twice", "recovering"):
                victims.append(await self._second(plan, before, rng))
                made.kill_worker(victims[-1])
            for pid in victims:
                await asyncio.to_thread(wait_gone, pid)
            kills["processes"] += len(victims)
        else:
            self._kill_node(plan, workers, rng)
            kills["processes"] += 1 + (len(workers) if plan.kind != "node" else 0)
        self._killed.update(before)
        if plan.kind != "power":
            return None
        for pid in workers:
            wait_gone(pid)
        return self._lose_power(at_ns, rng)

    async def _second(self, plan: Plan, before: set[str], rng: random.Random) -> int:
        """The next one to be killed, when its moment has come."""
        deadline = time.monotonic() + RECOVERING_S
        while plan.kind == "recovering" and time.monotonic() < deadline:
            for epoch in before:
                for other in recovering_in(self.gateway.log, epoch):
                    pid = self._pid(other)
                    if pid in self.gateway.workers():
                        await asyncio.sleep(rng.uniform(0, WITHIN_RECOVERY_S))
                        return pid
            await asyncio.sleep(0.001)
        await asyncio.sleep(plan.again_s)
        left = self.gateway.workers()
        return left[-1] if rng.random() < 0.5 else rng.choice(left)

    def _kill_node(self, plan: Plan, workers: list[int], rng: random.Random) -> None:
        """The node alone, or all its workers with it; workers that lose their node finish their calls and stop."""
        node = self.gateway.node
        assert node is not None
        if plan.kind != "node":
            for pid in rng.sample(workers, rng.randrange(len(workers) + 1)):
                self.gateway.kill_worker(pid)
            left = self.gateway.workers()
            for pid in left:
                self.gateway.kill_worker(pid)
        node.kill()
        node.wait()
        for pid in workers if plan.kind != "node" else ():
            if alive(pid):
                wait_gone(pid)
        self.gateway.node = None

    def _lose_power(self, at_ns: int, rng: random.Random) -> PowerLoss:
        """Cut the segments of all open epochs somewhere behind what was durable."""
        self.books.read()
        for epoch in self.books.open_epochs():
            for segment in segments(self.gateway.log, epoch):
                path = segment_path(self.gateway.log, epoch, segment)
                written, durable = path.stat().st_size, self.books.durable_size(epoch, segment)
                if written > durable:
                    keep = durable if rng.random() < 0.5 else rng.randrange(durable, written + 1)
                    os.truncate(path, keep)
                    self.evidence.figures["bytes lost by power loss"] += written - keep
            self.books.forget(epoch)
        return PowerLoss(at_ns, STREAM_SYNC_MS + 2 * self.books.sync_ns_max / 1e6 + 100)

    async def _recovered(self) -> None:
        """Wait until the workers are complete again, and no epoch is open but theirs."""
        deadline = time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline:
            workers = self.gateway.workers()
            open_epochs = self.books.open_epochs()
            if len(workers) == len(open_epochs) == int(self.gateway.settings["workers"]):
                pids = await asyncio.to_thread(lambda epochs: {self._pid(e) for e in epochs}, open_epochs)
                if pids == set(workers):
                    return
            await asyncio.sleep(0.01)

    def _pid(self, epoch: str) -> int:
        """The process whose epoch this is; 0 while it is being made."""
        pid = self._pids.get(epoch, 0)
        if not pid:
            for stored in read_epoch(self.gateway.log, epoch):
                if isinstance(stored.record, EpochOpen):
                    pid = self._pids[epoch] = stored.record.pid
                break
        return pid

    # -- judging

    def _settled(self) -> bool:
        deadline = time.monotonic() + SETTLE_S
        while self._unsettled():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _unsettled(self) -> list[str]:
        self.books.read()
        living = set(self.gateway.workers())
        dead = [e for e in self.books.open_epochs() if self._pid(e) not in living]
        return dead or [call.id for call in self.books.calls() if call.intent is not None and not call.settled][:5]

    def _judge(
        self,
        received: list[Received],
        loss: PowerLoss | None,
        began_ns: int,
        rng: random.Random,
        verdict: Verdict,
    ) -> None:
        judge = self.judge
        judge.log(verdict, self._seen)
        judge.clients(received, loss, verdict)
        judge.sources(self._notes(), self._killed, verdict)
        epochs = {id_.split("_")[1] for id_ in (each.request_id for each in received) if id_}
        judge.kept(verdict, epochs | (set(self._killed) if loss is not None else set()))
        interrupted = [
            call.id
            for call in self.books.calls()
            if call.interrupted and call.intent and call.intent.mono_ns > began_ns
        ]
        verdict.figures["interrupted calls found"] += len(interrupted)
        for call in self.books.calls():
            if call.steps and call.intent is not None and call.intent.mono_ns > began_ns:
                verdict.figures[_stepped(call)] += 1
        ids = [each.request_id for each in received if each.request_id]
        judge.looked_up({*interrupted[:LOOKED_UP], *rng.sample(ids, min(LOOKED_UP, len(ids)))}, verdict)
        for epoch in [e for e in self._killed if self.books.is_over(e)]:
            self._killed.discard(epoch)

    def _notes(self) -> Iterator[dict[str, Any]]:
        """What the sources noted since the last round."""
        path = self.gateway.home / "engine.notes"
        with path.open("rb") as file:
            file.seek(self._notes_read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._notes_read += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)


def _stepped(call: CallBook) -> str:
    """What became of a call whose first step was over."""
    if call.interrupted:
        return "cascades interrupted behind a step"
    if call.outcome is None or call.outcome.state != "completed":
        return "cascades that ended behind a step"
    return f"answers of a {'first' if len(call.steps) == 1 else 'second'} step"


def _markers(plan: Plan, client: int) -> Any:
    numbers = itertools.count()
    return lambda: f"{plan.seed}:{plan.number}:{client}:{next(numbers)}"


def _read_all(books: Books, figures: Counter[str]) -> Iterator[str]:
    """A second reading of the whole log from its beginning, by the public reader, against the running books."""
    intents: set[tuple[str, int]] = set()
    ends: Counter[tuple[str, int]] = Counter()
    recovered: Counter[str] = Counter()
    for epoch, book in books.epochs.items():
        last = 0
        for stored in read_epoch(books.folder, epoch):
            if stored.seq != last + 1:
                yield f"epoch {epoch}: record {stored.seq} follows {last}"
            last = stored.seq
            record = stored.record
            if isinstance(record, Intent):
                intents.add((epoch, record.call))
            elif isinstance(record, Outcome):
                ends[epoch, record.call] += 1
            elif isinstance(record, Interrupted):
                ends[record.epoch, record.call] += 1
                figures["interrupted records"] += 1
            elif isinstance(record, EpochRecovered):
                recovered[record.epoch] += 1
            elif isinstance(record, Refusal):
                figures["refusals"] += 1
            figures["records"] += 1
        if last != book.records:
            yield f"epoch {epoch}: {last} records, {book.records} when it was followed"
    figures["epochs"] = len(books.epochs)
    figures["epochs recovered"] = len(recovered)
    figures["intents"] = len(intents)
    figures["segments"] = sum(len(segments(books.folder, epoch)) for epoch in books.epochs)
    for epoch, number in intents:
        if ends[epoch, number] != 1:
            yield f"call {number} of epoch {epoch} has {ends[epoch, number]} ends"
    for call in ends.keys() - intents:
        yield f"call {call[1]} of epoch {call[0]} has an end and no Intent"
    for epoch, count in recovered.items():
        if count != 1:
            yield f"epoch {epoch} was recovered {count} times"


def prove(*, rounds: int, seed: int, only: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Play the rounds (or `only` one of them) and return the evidence; `failures` in it must be empty."""
    started = time.monotonic()
    people = [Who(limits=LimitSet(requests_per_minute=10_000_000, tokens_per_minute=10**10, concurrency=10_000))]
    with gateway(people) as made:
        proof = KillProof(made, seed)
        numbers = range(1, rounds + 1 + MORE_ROUNDS) if only is None else [only]
        try:
            for number in numbers:
                if number > rounds and only is None and not proof.missing():
                    break
                plan = Plan.of(seed, number)
                failures = proof.play(plan)
                if progress:
                    _say(proof, plan, rounds, failures, time.monotonic() - started)
            proof.finish()
        finally:
            proof.books.close()
        evidence = proof.evidence
        if evidence.failures:
            _keep(made)
        recovery = sorted(evidence.recovery_s)
        return {
            "seed": seed,
            "rounds": evidence.rounds,
            "kills": dict(evidence.kills),
            "figures": dict(sorted(evidence.figures.items())),
            "syncs": proof.books.syncs,
            "sync_ms_max": round(proof.books.sync_ns_max / 1e6, 1),
            "text_lost_ms_max": round(evidence.text_lost_ms_max, 1),
            "recovery_s_median": round(recovery[len(recovery) // 2], 2),
            "recovery_s_max": round(recovery[-1], 2),
            "node_start_failures": made.start_failures,
            "seconds": round(time.monotonic() - started, 1),
            "failures": evidence.failures,
        }


def _say(proof: KillProof, plan: Plan, rounds: int, failures: list[str], seconds: float) -> None:
    figures = proof.evidence.figures
    sys.stderr.write(
        f"kill {plan.number}/{rounds} {plan.kind:<10} {figures['calls']} calls, {figures['bytes']} bytes,"
        f" {figures['interrupted calls found']} interrupted, {len(proof.evidence.failures)} failures, {seconds:.0f} s\n"
    )
    for words in failures[:20]:
        sys.stderr.write(f"  {words}\n")
    sys.stderr.flush()


def _keep(made: Gateway) -> None:
    """Keep the log of a proof that failed, for whoever looks into it."""
    kept = Path(f"{made.home}-failed")
    made.home.rename(kept)
    made.home.mkdir()
    sys.stderr.write(f"kept for inspection: {kept}\n")
