"""120 % of what one's own engine can do, for ten minutes: only the excess goes to the cloud, and what must stay stays.

A node of two workers with its control process and a database, before two simulated engines: `own` (on-prem, eu, eight
slots) and `cloud` (off-prem, us, priced). Callers of acme may use both and call in all three classes; globex must stay
in the EU. Calls arrive one by one at even distances, whatever becomes of those before them.

1. *over*: 120 % of the capacity of `own` is offered.
2. *back*: 50 % is offered.
3. *capped*: 120 % again, after acme was given a budget of a few calls' worth of cloud.

Judged by what the engines themselves were asked, what the callers were told, and the kernel's list of sockets of the
node's workers, looked at 50 times a second; the record log says why.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from interlock.ledger.reader import epochs, read_epoch
from interlock.types.record import Attempt, Intent
from tests.postgres import owned_home

from .gateway import Process
from .ledger import Stack, database
from .simulated import Sockets, noted

SLOTS = 8
TOKENS = 40
STEP_S = 0.025
OWN = {"slots": SLOTS, "step_base_s": STEP_S, "step_per_sequence_s": 0.0, "prefill_tokens_per_s": 1e6}
CLOUD = {"slots": 256, "step_base_s": 0.01, "step_per_sequence_s": 0.0, "prefill_tokens_per_s": 1e6}
CAPACITY_PER_S = SLOTS / (TOKENS * STEP_S)
"""Calls a second that `own` works off when all its slots are taken: 8."""
WAITING_MAX, WAITING_RESUME = 4, 1
INPUT_USD, OUTPUT_USD = 1, 4
"""Of a million tokens at `cloud`."""
CAPPED_CALLS = 8
"""So many calls of the cloud the budget allows, from then on."""
UNSPENT_NUSD = 900_000
"""What each worker may have left of the budget, too little for what one more call reserves: together less than this."""
PROMPT_WORDS = 6
"""Tokens of a call's prompt, as the simulated engine counts them."""
MIX = (("acme", "interactive", 70), ("acme", "batch", 10), ("acme", "background", 5), ("globex", "interactive", 15))
"""Tenant, class and per cent of the calls."""
OVERFLOW_WAIT_S = 3.0
"""`overflow_wait_ms_batch` of this proof."""
QUEUE_WAIT_S = 12.0
"""The longest wait of every class in this proof."""
RETURN_S = 5.0
"""Longest time from the moment less is offered than `own` can do until the last call that goes elsewhere: what waits
must be worked off, and the queue be seen to be short."""
LAG_S = 1.5
"""A call may go to the cloud so long after `own` was full last: a reading of its load, and the way of the call."""
NEEDLESS_MAX = 2
"""So many, or one in a hundred, may go while `own` has slots free: where a reading is late, more than `waiting_max`
calls since then count as a queue, as at the beginning, when the engine is idle."""
BUSY_MIN = 0.9
"""Least share of `own`'s capacity that was used while more was offered."""
WARM_S = 4.0
"""At the beginning the queue fills."""


class Told(NamedTuple):
    """What a caller was told."""

    tenant: str
    workload: str
    phase: str
    sent_s: float
    took_s: float
    status: int
    source: str
    waited_ms: int
    code: str


class Site(Stack):
    """The processes of the proof."""

    def start(self, name: str) -> dict[str, Any]:
        """As a Stack, with simulated engines."""
        if name != "engine":
            return super().start(name)
        log = self.base / "engine.err"
        spec = json.dumps({"own": OWN, "cloud": CLOUD})
        arguments = ["tests.prove.simulated", str(self.notes), spec]
        process = self.processes[name] = Process(arguments, self.environment, log, ready_fd=False)
        said = process.ready()
        assert said is not None, f"the engines did not start: {log.read_text()[-2000:]}"
        return said

    @property
    def notes(self) -> Path:
        """What the engines were asked."""
        return self.base / "engine.notes"

    def calls(self) -> list[dict[str, Any]]:
        """See `notes`."""
        return noted(self.notes)


def prove(*, seconds: float, seed: int, progress: bool = True) -> dict[str, Any]:
    """`seconds` of 120 %, then a little of 50 %, then 120 % under a cap; returns the evidence.

    `of_time`: those of the `failures` that a machine may cause which gave its processes too little time to offer and to
    serve what was to be offered and served. `late_ms_max`: how much later than planned a call was offered.
    """
    rng = random.Random(f"overflow {seed}")
    failures: list[str] = []
    of_time: list[str] = []
    with owned_home() as home, database(home) as server:
        environment = {
            "INTERLOCK_OVERFLOW_WAIT_MS_BATCH": str(int(OVERFLOW_WAIT_S * 1000)),
            **{
                f"INTERLOCK_QUEUE_WAIT_MS_{name}": str(int(QUEUE_WAIT_S * 1000))
                for name in ("INTERACTIVE", "BATCH", "BACKGROUND")
            },
            "INTERLOCK_LEASE_RETRY_MS": "200",
            # A head that leaves before the answer names no source, and callers are asked which one they got.
            "INTERLOCK_KEEPALIVE_COMMENT_MS": "120000",
        }
        site = Site(home.parent, server, **environment)
        try:
            keys, urls = _set_up(site)
            sockets = Sockets(site.processes["north"].pid)
            sockets.start()
            load = _Load(site, keys, rng)
            over = load.offer("over", 1.2, seconds)
            back = load.offer("back", 0.5, max(6.0, min(seconds / 4, 30.0)))
            amount = _cap(site)
            load.offer("capped", 1.2, max(7.0, min(seconds / 4, 60.0)))
            load.wait()
            sockets.stop()
            figures = _judge(site, load.told, over, back, amount, failures, of_time)
            failures += _egress(sockets, urls, site)
            failures += _reasons(site)
            if progress:
                sys.stderr.write(f"overflow: {figures}, {len(failures + of_time)} failures\n")
        finally:
            site.stop()
    of_load = {"of_time": of_time, "late_ms_max": round(1000 * load.late_s_max)}
    return {"seed": seed, "seconds": seconds, **figures, **of_load, "failures": failures + of_time}


def _set_up(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """Start everything; the keys of the tenants, and the engines' addresses."""
    urls = site.start("engine")
    site.start("control")
    price = {"input_usd_per_mtok": INPUT_USD, "output_usd_per_mtok": OUTPUT_USD}
    own = {
        "name": "own", "kind": "vllm", "url": urls["own"], "granted_to": ["*"], "labels": {"region": "eu"},
        "limits": {"waiting_max": WAITING_MAX, "waiting_resume": WAITING_RESUME},
    }  # fmt: skip
    cloud = {
        "name": "cloud", "kind": "openai", "url": urls["cloud"], "granted_to": ["*"],
        "labels": {"region": "us", "on_prem": False}, "price": price, "models": [{"name": "m", "price": price}],
    }  # fmt: skip
    tenants = [_tenant("acme"), _tenant("globex")]
    tenants[1]["policies"].append(
        {"id": "stay-in-europe", "template": "region-stays-in-region", "parameters": {"regions": ["eu"]}}
    )
    files = [{"name": "proof.json", "text": json.dumps({"sources": [own, cloud], "tenants": tenants})}]
    applied = site.admin().call("POST", "/apply", {"files": files}, reason="a proof")
    site.start("north")
    keys = {name: str(applied["keys"][name]["key"]) for name in ("acme", "globex")}
    ready = _Load(site, keys, random.Random(0))
    deadline = time.monotonic() + 120
    while not ready.told or ready.told[-1].status != 200:
        assert time.monotonic() < deadline, f"the node does not answer: {ready.told[-1:]}"
        ready.call("ready", "globex", "interactive", 0)
    time.sleep(1.0)  # its own load is known again
    return keys, urls


def _tenant(name: str) -> dict[str, Any]:
    policy = {"id": "models", "template": "team-may-use-models", "parameters": {"team": "all", "models": "*"}}
    return {
        "name": name,
        "teams": [{"name": "all"}],
        "principals": [{"name": "app", "kind": "service", "teams": ["all"]}],
        "keys": [{"name": "key", "principal": "app"}],
        "policies": [policy],
    }


class _Load:
    """Calls that arrive whatever becomes of the others."""

    def __init__(self, site: Site, keys: dict[str, str], rng: random.Random) -> None:
        self.told: list[Told] = []
        self.late_s_max = 0.0
        self._port = site.ports["north"]
        self._keys = keys
        self._random = rng
        self._pool = ThreadPoolExecutor(max_workers=400)
        self._number = 0
        self._lock = threading.Lock()

    def offer(self, phase: str, share: float, seconds: float) -> tuple[float, float]:
        """Offer this share of the capacity for so long; when it began and ended (monotonic)."""
        began = time.monotonic()
        every_s = 1 / (CAPACITY_PER_S * share)
        for n in range(int(seconds / every_s)):
            time.sleep(max(0.0, began + n * every_s - time.monotonic()))
            self.late_s_max = max(self.late_s_max, time.monotonic() - began - n * every_s)
            weights = [weight for _, _, weight in MIX]
            tenant, workload, _ = self._random.choices(MIX, weights)[0]
            self._number += 1
            self._pool.submit(self.call, phase, tenant, workload, self._number)
        return began, time.monotonic()

    def wait(self) -> None:
        """Until all have been answered."""
        self._pool.shutdown()

    def call(self, phase: str, tenant: str, workload: str, number: int) -> None:
        """One call, and what came of it."""
        body = {
            "model": "m",
            "max_tokens": TOKENS,
            "stream": number % 3 == 0,
            "messages": [{"role": "user", "content": f"call {number:06d} <{tenant}.{workload}.{phase}.{number}>"}],
            "interlock": {"workload": workload},
        }
        sent_s = time.monotonic()
        status, source, waited_ms, code = 0, "", 0, ""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=QUEUE_WAIT_S + 30)
        try:
            headers = {"authorization": f"Bearer {self._keys[tenant]}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            with connection.getresponse() as answer:
                status, source = answer.status, answer.headers.get("x-interlock-source", "")
                waited_ms = int(answer.headers.get("x-interlock-waited-ms", "0"))
                text = answer.read()
            if status != 200:
                code = json.loads(text)["error"]["code"]
            elif number % 3 == 0 and not text.rstrip().endswith(b"data: [DONE]"):
                code = "cut"
        except (OSError, HTTPException) as e:
            code = type(e).__name__
        finally:
            connection.close()
        with self._lock:
            took_s = time.monotonic() - sent_s
            self.told.append(Told(tenant, workload, phase, sent_s, took_s, status, source, waited_ms, code))


def _cap(site: Site) -> int:
    """Give acme a budget of a few calls of the cloud, which counts from now on; its amount in nano-USD."""
    amount = CAPPED_CALLS * _nusd(PROMPT_WORDS, TOKENS)
    body = {"name": "cloud", "usd": f"{amount / 1e9:.9f}", "window": "total"}
    site.admin().call("POST", "/tenants/acme/budgets", body, reason="a proof")
    time.sleep(2.0)  # calls that began before are not counted on it
    return amount


def _nusd(prompt_tokens: int, tokens: int) -> int:
    return (INPUT_USD * prompt_tokens + OUTPUT_USD * tokens) * 1000


def _judge(
    site: Site,
    told: list[Told],
    over: tuple[float, float],
    back: tuple[float, float],
    amount: int,
    failures: list[str],
    of_time: list[str],
) -> dict[str, Any]:
    calls = site.calls()
    cloud = [c for c in calls if c["source"] == "cloud"]
    for call in cloud:
        tenant, workload, *_ = call["marker"].split(".")
        if tenant != "acme":
            failures.append(f"a call of {tenant} left: {call['marker']}")
        if workload == "background":
            failures.append(f"a background call went to the cloud: {call['marker']}")
    failures += [
        f"a batch call went to the cloud after {t.waited_ms} ms"
        for t in told
        if t.source == "cloud" and t.workload == "batch" and t.waited_ms < OVERFLOW_WAIT_S * 1000
    ]
    _answered(told, failures, of_time)

    busy = _busy(calls, over[0] + WARM_S, over[1])
    if busy < BUSY_MIN:
        of_time.append(f"only {busy:.0%} of the own engine was used while calls went elsewhere")
    offered = [t for t in told if t.phase == "over"]
    excess = sum(t.source == "cloud" for t in offered) / max(1, len(offered))
    if not excess:
        of_time.append("nothing was proved: nothing went to the cloud")
    needless = _needless(calls)
    if len(needless) > max(NEEDLESS_MAX, len(cloud) // 100):
        of_time.append(f"{len(needless)} of {len(cloud)} went to the cloud though the own engine had slots free")

    late = [c["at_ns"] / 1e9 - back[0] for c in cloud if back[0] < c["at_ns"] / 1e9 <= back[1]]
    returned_s = max(late, default=0.0)
    if returned_s > RETURN_S:
        of_time.append(f"a call went to the cloud {returned_s:.1f} s after less was offered")

    capped = [c for c in cloud if ".capped." in c["marker"]]
    spent = sum(_nusd(c["prompt_tokens"], c["tokens"]) for c in capped)
    if spent > amount:
        failures.append(f"{spent} nano-USD were spent of {amount}")
    if spent < amount - UNSPENT_NUSD:
        of_time.append(f"the cap was not reached: {spent} nano-USD of {amount} were spent")
    return {
        "calls": len(told),
        "told": {f"{w} {p}": dict(Counter(_how(t) for t in told if (t.workload, t.phase) == (w, p)))
                 for w in ("interactive", "batch", "background") for p in ("over", "back", "capped")},
        "own_busy": round(busy, 3),
        "to_the_cloud": round(excess, 3),
        "with_slots_free": needless[:20],
        "last_to_the_cloud_s_after": round(returned_s, 2),
        "capped_calls": len(capped),
        "capped_spent_nusd": [spent, amount],
        "globex": dict(Counter(_how(t) for t in told if t.tenant == "globex")),
    }  # fmt: skip


def _how(t: Told) -> str:
    return t.source if t.status == 200 and not t.code else t.code


def _answered(told: list[Told], failures: list[str], of_time: list[str]) -> None:
    """Who is refused, and with which words."""
    for t in told:
        if t.status == 200 and not t.code:
            continue
        waits = t.workload == "background" or t.phase == "capped"  # there is less than is asked for
        if not (waits and t.code in ("queue_timeout", "budget_reserved", "budget_unavailable")):
            which = of_time if t.code == "queue_timeout" else failures
            which.append(f"a call of {t.tenant}, {t.workload}, {t.phase}: {t.status} {t.code} in {t.took_s:.1f} s")


def _busy(calls: list[dict[str, Any]], from_s: float, to_s: float) -> float:
    """The share of its slots that `own` had work for between these instants, by when calls came there and ended."""
    steps: list[tuple[float, int]] = []
    for call in calls:
        if call["source"] == "own":
            came, ended = max(call["at_ns"] / 1e9, from_s), min(call["ended_ns"] / 1e9, to_s)
            if came < ended:
                steps += [(came, 1), (ended, -1)]
    steps.sort()
    used, there, at = 0.0, 0, from_s
    for when, change in [*steps, (to_s, 0)]:
        used += min(there, SLOTS) * (when - at)
        there, at = there + change, when
    return used / (SLOTS * (to_s - from_s))


def _needless(calls: list[dict[str, Any]]) -> list[str]:
    """Calls that came to `cloud` when `own`, by what it noted itself, had not been full for LAG_S."""
    steps = [(c["at_ns"], 1) for c in calls if c["source"] == "own"]
    steps += [(c["ended_ns"], -1) for c in calls if c["source"] == "own"]
    full: list[tuple[int, int]] = []
    there, since = 0, 0
    for at_ns, change in sorted(steps):
        if there < SLOTS <= there + change:
            since = at_ns
        elif there + change < SLOTS <= there:
            full.append((since, at_ns))
        there += change
    lag_ns = int(LAG_S * 1e9)
    ends = [until_ns for _, until_ns in full]
    needless = []
    for call in calls:
        if call["source"] == "cloud":
            n = bisect_left(ends, call["at_ns"] - lag_ns)
            if n == len(full) or full[n][0] > call["at_ns"]:
                needless.append(call["marker"])
    return needless


def _egress(sockets: Sockets, urls: dict[str, str], site: Site) -> list[str]:
    """The workers were connected to the two engines and to nothing else."""
    known = {("127.0.0.1", int(url.rpartition(":")[2])): name for name, url in urls.items()}
    failures = [f"a worker was connected to {other}" for other in sorted(sockets.seen - known.keys())]
    if sockets.seen < known.keys() or sockets.looks < 10:
        failures.append(f"nothing was proved: {sockets.looks} looks at the sockets saw {sockets.seen}")
    return failures


def _reasons(site: Site) -> list[str]:
    """Each attempt at the cloud is of acme, and its record says that the own engine was full."""
    failures, seen = [], 0
    log = site.base / "north" / "node" / "log"
    for epoch in epochs(log):
        intents: dict[int, Intent] = {}
        for stored in read_epoch(log, epoch):
            record = stored.record
            if isinstance(record, Intent):
                intents[record.call] = record
            elif isinstance(record, Attempt) and record.source == "cloud":
                seen += 1
                intent = intents[record.call]
                readings = [r for _, r in intent.route.readings if r.waiting >= 0]
                full = any(r.saturated or r.waiting + r.inflight_since >= WAITING_MAX for r in readings)
                if not full and not record.waited_ms:
                    failures.append(f"call {record.call} of {epoch} went to the cloud on {intent.route.readings}")
    return failures if seen else ["nothing was proved: no attempt at the cloud is on record"]
