"""Budgets under race and fire: 64 clients on four workers of two nodes spend a budget, while workers, nodes, shippers,
control and the database are killed and disks misbehave. What is charged is never above the budget, and exactly it in
the end. A third of the calls goes through a cascade of two steps, each charged to a budget on its own model.
Each round has a caller and a budget of its own: of calls, tokens or money. All clients call until they are told that
the budget is used up. Without faults exactly as many calls were answered as the budget has; with faults no more, and
once the logs of those that died are in the ledger it is used up to the last call. In the end what the admin API says,
what the entries of the ledger say and what the logs of both nodes say must be the same figure for each budget.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import msgspec

from interlock.errors import InterlockError
from interlock.ledger.charges import interrupted
from interlock.ledger.reader import tail
from interlock.types.budget import Charge
from interlock.types.record import Attempt, Intent, Interrupted, Outcome, StepEnd
from tests.postgres import owned_home

from .ledger import FAULTS, NODES, Stack, database, set_up
from .script import CASCADE, CHEAP, DEAR

CLIENTS = 64
ROUND_S = 180.0
SETTLE_S = 180.0
KINDS = ("nothing", "nothing", "nothing", "worker", "worker", "node", "shipper", "control", "database", *FAULTS)
MEASURES = ("calls", "calls", "tokens", "usd")
FINAL = ("budget_exceeded",)
CASCADE_TOKENS = 200
"""More than any answer of the engines has."""
STEPS = (
    {"name": "cheap-steps", "model": CHEAP, "tokens": 10**12, "window": "total"},
    {"name": "dear-steps", "model": DEAR, "usd": 10**6, "window": "total"},
)
"""Budgets that are never used up: they are charged what the steps on these models took."""


class Spender(threading.Thread):
    """Calls both nodes until it is told that the budget is used up."""

    def __init__(self, ports: list[int], key: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.whole = 0
        self.refused = ""
        self.odd: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._ports = ports
        self._key = key
        self._random = random.Random(seed)

    def run(self) -> None:
        while not self.stopped.is_set() and not self.refused:
            try:
                self._call()
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)

    def _call(self) -> None:
        streamed = self._random.random() < 0.5
        body: dict[str, Any] = {
            "model": "near-model",
            "messages": [{"role": "user", "content": "spend"}],
            "max_tokens": 20,
            "stream": streamed,
        }
        if self._random.random() < 1 / 3:  # whether the first step is enough follows from what is asked
            asked = [{"role": "user", "content": f"spend {self._random.randrange(1000)}"}]
            body |= {"model": CASCADE, "messages": asked, "max_tokens": CASCADE_TOKENS}
        connection = http.client.HTTPConnection("127.0.0.1", self._random.choice(self._ports), timeout=90)
        try:
            headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            with connection.getresponse() as response:
                text = response.read()
        finally:
            connection.close()
        if response.status == 200:
            if not streamed or text.rstrip().endswith(b"data: [DONE]"):
                self.whole += 1
            return
        code = json.loads(text)["error"]["code"]
        self.odd[code] += 1
        if code in FINAL:
            self.refused = code
        else:
            time.sleep(self._random.uniform(0.02, 0.2))


def prove(*, rounds: int, seed: int, progress: bool = True) -> dict[str, Any]:
    """Race for `rounds` rounds; returns the evidence."""
    rng = random.Random(f"budget {seed}")
    failures: list[str] = []
    killed: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    spent: dict[str, tuple[str, int]] = {}
    answered = 0
    with owned_home() as home, database(home) as server:
        stack = Stack(home.parent, server, INTERLOCK_LEASE_RETRY_MS="200")
        try:
            set_up(stack, *STEPS)
            for number in range(rounds):
                kind, measure = rng.choice(KINDS), rng.choice(MEASURES)
                killed[kind] += 1
                began = time.monotonic()
                name = f"round-{number}"
                spent[name] = _round(stack, rng, name, kind, measure, codes, failures)
                answered += spent[name][1]
                if progress:
                    took = time.monotonic() - began
                    sys.stderr.write(f"budget {number + 1}/{rounds} {kind} {measure}: {spent[name][0]}, {took:.1f} s\n")
            _judge(stack, spent, failures, figures)
        finally:
            stack.stop()
    if not answered:
        failures.append("nothing was proved: no call was answered")
    if rounds >= 3 and not all(figures[f"cascades of {steps} steps"] for steps in (1, 2)):
        failures.append(f"nothing was proved of cascades: {dict(figures)}")
    return {
        "seed": seed,
        "rounds": rounds,
        "killed": dict(killed),
        "answered_whole": answered,
        "told": dict(codes),
        "figures": dict(figures),
        "failures": failures,
    }


def _round(
    stack: Stack,
    rng: random.Random,
    name: str,
    kind: str,
    measure: str,
    codes: Counter[str],
    failures: list[str],
) -> tuple[str, int]:
    """One budget, spent to its end. Returns what it was, and how many calls were answered whole."""
    amount = {"calls": rng.randrange(40, 250), "tokens": rng.randrange(4000, 20_000), "usd": rng.randrange(1, 9) / 1000}
    key = _caller(stack, name, measure, amount[measure])
    ports = [stack.ports[node] for node in NODES]
    spenders = [Spender(ports, key, rng.randrange(1 << 30)) for _ in range(CLIENTS)]
    for spender in spenders:
        spender.start()
    if kind != "nothing":
        time.sleep(rng.uniform(0.1, 1.5))
        stack.kill(kind, rng)
    deadline = time.monotonic() + ROUND_S
    for spender in spenders:
        spender.join(max(deadline - time.monotonic(), 0))
    if late := [spender for spender in spenders if spender.is_alive()]:
        odd = sum((spender.odd for spender in late), Counter[str]())
        failures.append(f"{name}: {len(late)} clients were not told that the budget is used up: {dict(odd)}")
        for spender in late:
            spender.stopped.set()
            spender.join(120)
    for spender in spenders:
        codes.update(spender.odd)
    whole = sum(spender.whole for spender in spenders)
    if measure == "calls":
        if whole > amount["calls"]:
            failures.append(f"{name}: {whole} calls were answered of a budget of {amount['calls']} ({kind})")
        if kind == "nothing" and whole != amount["calls"]:
            failures.append(f"{name}: {whole} calls were answered, the budget has {amount['calls']} and nothing died")
    return f"{amount[measure]} {measure}", whole


def _caller(stack: Stack, name: str, measure: str, amount: float) -> str:
    """A new caller with a budget; its key."""
    tenant = {
        "name": "acme",
        "principals": [{"name": name, "kind": "service", "teams": ["research"]}],
        "keys": [{"name": name, "principal": name}],
        "budgets": [{"name": name, "principal": name, measure: amount, "window": "total"}],
    }
    files = [{"name": "round.json", "text": json.dumps({"tenants": [tenant]})}]
    until = time.monotonic() + 120
    while True:
        try:
            applied = stack.admin().call("POST", "/apply", {"files": files}, reason="a proof")
        except InterlockError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
            continue
        return str(applied["keys"]["acme"][name])


def _judge(stack: Stack, spent: dict[str, tuple[str, int]], failures: list[str], figures: Counter[str]) -> None:
    """Stop the nodes, wait for the ledger, compare what everybody says of each budget."""
    for node in NODES:
        stack.processes[node].stop()
        stack.start(node)  # an epoch that met a full disk vouches for nothing at its end: it is recovered by the next
    logs = _Logs(stack)
    logs.read()
    failures.extend(logs.failures)
    figures.update(logs.figures)
    logged, largest = logs.charged, logs.largest
    deadline = time.monotonic() + SETTLE_S
    uses: dict[str, Any] = {}
    while time.monotonic() < deadline:
        with contextlib.suppress(InterlockError):
            uses = {each["name"]: each for each in stack.admin().call("GET", "/tenants/acme/budget-use")}
            if all(use["used"] == logged.get(use["name"], 0) and not use["held"] for use in uses.values()):
                break
        time.sleep(0.5)
    standing = {str(budget["name"]) for budget in STEPS}
    if uses.keys() != spent.keys() | standing:
        failures.append(f"budgets are {sorted(uses)}, made were {sorted(spent)}")
    failures.extend(f"{name}: nothing was charged" for name in sorted(standing) if not logged.get(name))
    for name, use in uses.items():
        if use["used"] != logged.get(name, 0):
            failures.append(f"{name}: {use['used']} were charged, the logs say {logged.get(name, 0)}")
        if use["held"]:
            failures.append(f"{name}: {use['held']} are held though all workers are gone")
        if use["used"] > use["amount"]:
            failures.append(f"{name}: {use['used']} were charged of {use['amount']}")
        if name not in standing and use["amount"] - use["used"] >= largest.get(name, 1):
            failures.append(f"{name}: only {use['used']} of {use['amount']} could be spent ({use['text']})")
    entries = _entries(stack)
    if entries != logged:
        failures.append(f"entries of the ledger say {entries}, the logs say {logged}")


def _entries(stack: Stack) -> dict[str, int]:
    """What entries of the ledger charged to each budget, by its name."""
    names = {row["id"]: row["name"] for row in stack.admin().pages("/tenants/acme/budgets")}
    charged: Counter[str] = Counter()
    with stack.reading() as conn:
        rows = conn.execute("SELECT leaf FROM interlock.ledger_entries WHERE kind = 'call'")
        for (leaf,) in rows:
            for each in json.loads(leaf).get("budgets", ()):
                charged[names[each["budget"]]] += each["charged"]
    return dict(charged)


class _Call:
    """What the log has of a call that has not ended."""

    def __init__(self, charges: tuple[Charge, ...]) -> None:
        self.charges = charges
        self.tried: Attempt | None = None
        self.steps: list[StepEnd] = []


class _Logs:
    """By budget: what the logs of both nodes charged to it, and the most that one call reserved of it. Where a call
    went through a cascade, whether that is what its steps took."""

    def __init__(self, stack: Stack) -> None:
        self.charged: dict[str, int] = {}
        self.largest: dict[str, int] = {}
        self.failures: list[str] = []
        self.figures: Counter[str] = Counter()
        self._folders = [stack.base / node / "node" / "log" for node in NODES]
        self._names = {row["id"]: row["name"] for row in stack.admin().pages("/tenants/acme/budgets")}

    def read(self) -> None:
        """Read both from their beginning."""
        for folder in self._folders:
            open_: dict[tuple[str, int], _Call] = {}
            for one in tail(folder):
                record = one.stored.record
                match record:
                    case Intent():
                        open_[one.epoch, record.call] = _Call(record.charges)
                        for charge in record.charges:
                            name = self._names[charge.budget]
                            self.largest[name] = max(self.largest.get(name, 0), charge.reserved)
                    case Attempt():
                        open_[one.epoch, record.call].tried = record
                    case StepEnd():
                        open_[one.epoch, record.call].steps.append(record)
                    case Outcome():
                        # of two outcomes the first holds: see `ledger`
                        call = open_.pop((one.epoch, record.call), None)
                        if call is not None:
                            self._stepped(f"call {record.call} of {one.epoch}", call, record)
                            self._charge(call, record.charged)
                    case Interrupted():
                        call = open_[record.epoch, record.call]
                        self._charge(call, _of_interrupted(call, record))
                        self.figures["cascades interrupted behind a step"] += bool(call.steps)

    def _charge(self, call: _Call, amounts: tuple[int, ...]) -> None:
        for charge, amount in zip(call.charges, amounts, strict=True):
            name = self._names[charge.budget]
            self.charged[name] = self.charged.get(name, 0) + amount

    def _stepped(self, what: str, call: _Call, outcome: Outcome) -> None:
        """Each step of a cascade was charged once, to the budgets of its model."""
        if not call.steps or outcome.state != "completed":
            return
        self.figures[f"cascades of {len(call.steps)} steps"] += 1
        if len({step.attempt for step in call.steps}) != len(call.steps):
            self.failures.append(f"{what}: a step is in the log twice")
        for charge, amount in zip(call.charges, outcome.charged, strict=True):
            own = [step for step in call.steps if charge.model in ("", step.model)]
            took = {
                "calls": bool(own),
                "tokens": sum(step.usage.total_tokens for step in own),
                "nusd": sum(step.cost.nusd for step in own),
            }[charge.measure]
            if amount != took:
                name = self._names[charge.budget]
                self.failures.append(f"{what}: {amount} were charged to {name}, its steps took {took}")


def _of_interrupted(call: _Call, record: Interrupted) -> tuple[int, ...]:
    tried, spent = call.tried, sum(step.cost.nusd for step in call.steps)
    running = tried is not None and all(step.attempt != tried.number for step in call.steps)
    return interrupted(
        call.charges,
        ran=running,
        model=tried.model if tried is not None else "",
        cost=msgspec.structs.replace(record.cost, nusd=record.cost.nusd - spent),
        steps=call.steps,
    )
