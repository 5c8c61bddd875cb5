"""Conversations of many users through one gateway: nobody sees anything of another's, and the engine's prefix cache
serves each conversation, and no other tenant's.

Users of three tenants, each with a key of their own, talk in turns: each turn sends the whole conversation so far, and
carries a marker that names user and turn. The engine is simulated, with vLLM's paged prefix cache: it answers with the
marker it was asked, and notes what it found cached under which salt. All users send the same long system prompt, so
that what one tenant's calls leave in the cache would be found by another's, if it could be. With several engines each
conversation is to stay with one of them, whichever worker its calls come to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.ledger.reader import epochs, read_epoch
from interlock.types.record import Chunk, Intent, Outcome, request_id
from interlock.types.source import SourceKind, SourceLimits
from tests.gateway import PEPPER, Who, World, source
from tests.ports import free_port

from .gateway import Gateway, Process, end
from .simulated import MARKER, noted

TENANTS = ("acme", "globex", "initech")
SHAPE = {
    "slots": 64,
    "kv_blocks": 40_000,
    "prefill_tokens_per_s": 20_000.0,
    "step_base_s": 0.008,
    "step_per_sequence_s": 0.0001,
}
SYSTEM = " ".join(f"rule-{n}" for n in range(320))
"""So many words (tokens of the simulated engine) that all conversations begin with."""
TOKENS = 12
THINK_S = (0.05, 0.4)
OWN_MIN = 0.95
"""Least share of later turns that find their conversation's last turn cached, but for its end."""
SLACK_TOKENS = 32
"""That end: a block, and how a conversation's last message is closed."""
ANSWER_S = 60.0
ANY_MARKER = re.compile(rb"<([a-z0-9-]+\.[0-9]+)\.[0-9]+>")
MOVED_MIN = 0.85
"""The same before several engines: the next turn of a conversation that was moved finds nothing."""
STAYED_MIN = 0.65
"""Least share of conversations whose turns all go to one of several engines. Slots of few conversations are uneven, and
the bound on load moves the excess; by chance an eighth of conversations of four turns would stay with one of two."""


class Turn(NamedTuple):
    """One answered turn. `user`: "tenant.number"."""

    user: str
    number: int
    took_s: float
    request_id: str
    text: str


class User:
    """One conversation, over one connection."""

    def __init__(self, who: Who, number: int, port: int, rng: random.Random) -> None:
        self.name = f"{who.tenant}.{number}"
        self.turns: list[Turn] = []
        self.failures: list[str] = []
        self._key, self._port, self._random = who.key, port, rng

    async def talk(self, turns: int) -> None:
        """All turns, one after the other."""
        messages = [{"role": "system", "content": SYSTEM}]
        await asyncio.sleep(self._random.uniform(0, 1.0))
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for number in range(turns):
                said = f"user {self.name} says in turn {number} <{self.name}.{number}>"
                messages.append({"role": "user", "content": said})
                text = await asyncio.wait_for(self._ask(reader, writer, messages, number), ANSWER_S)
                messages.append({"role": "assistant", "content": text})
                await asyncio.sleep(self._random.uniform(*THINK_S))
        except (OSError, EOFError, ValueError, TimeoutError) as e:
            self.failures.append(f"{self.name}: {type(e).__name__} {e}")
        finally:
            writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: list[dict[str, str]], number: int
    ) -> str:
        streamed = self._random.random() < 0.5
        body = json.dumps({"model": "m", "messages": messages, "max_tokens": TOKENS, "stream": streamed}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: proof\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        began = time.monotonic()
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        data = await _body(reader, headers)
        took_s = time.monotonic() - began
        if b" 200 " not in lines[0]:
            raise ValueError(f"turn {number}: {lines[0]!r} {data[:200]!r}")
        text = _streamed(data) if streamed else json.loads(data)["choices"][0]["message"]["content"].strip()
        self.turns.append(Turn(self.name, number, took_s, headers[b"x-request-id"].decode(), text))
        return text


async def _body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    data = b""
    while size := int(await reader.readline(), 16):
        data += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return data


def _streamed(data: bytes) -> str:
    events = [line[6:] for line in data.splitlines() if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]":
        raise ValueError("a stream without its end")
    pieces = [choice["delta"].get("content") or "" for e in events[:-1] for choice in json.loads(e)["choices"]]
    return "".join(pieces).strip()


def prove(*, users: int, turns: int, seed: int, progress: bool = True, replicas: int = 1) -> dict[str, Any]:
    """`users` conversations of `turns` turns at once, before so many engines; returns the evidence."""
    rng = random.Random(f"sessions {seed}")
    people = [Who(name=f"u{n}", tenant=TENANTS[n % len(TENANTS)]) for n in range(users)]
    names = tuple(f"own{number}" for number in range(replicas))
    with site(people, names) as (gateway, notes):
        talking = [User(who, n, gateway.port, random.Random(rng.randrange(1 << 30))) for n, who in enumerate(people)]

        async def all_of_them() -> None:
            await asyncio.gather(*(user.talk(turns) for user in talking))

        began = time.monotonic()
        asyncio.run(all_of_them())
        took_s = time.monotonic() - began
        code = gateway.stop()
        calls = noted(notes)
        failures = [words for user in talking for words in user.failures]
        failures += [f"the node ended with exit code {code}"] if code else []
        failures += _answers(talking, turns) + _records(gateway, talking) + _salts(calls)
        figures = _figures(talking, calls)
    if not calls:
        failures.append("nothing was proved: no call reached the engine")
    if figures["own_conversation_cached"] < (OWN_MIN if replicas == 1 else MOVED_MIN):
        failures.append(f"only {figures['own_conversation_cached']:.0%} of later turns found the last one cached")
    if figures["stayed"] < STAYED_MIN or len(figures["by_engine"]) < replicas:
        failures.append(f"{figures['stayed']:.0%} of conversations stayed with one engine: {figures['by_engine']}")
    if progress:
        sys.stderr.write(f"sessions: {figures}, {len(failures)} failures in {took_s:.0f} s\n")
    return {"seed": seed, "users": users, "turns": turns, **figures, "failures": failures[:100]}


@contextlib.contextmanager
def site(people: list[Who], names: tuple[str, ...]) -> Iterator[tuple[Gateway, Path]]:
    """A node of two workers before simulated vLLMs of these names; the engines' notes."""
    with tempfile.TemporaryDirectory(prefix="interlock-prove-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        notes = home / "engine.notes"
        (home / "pepper").write_bytes(PEPPER)
        arguments = ["tests.prove.simulated", str(notes), json.dumps(dict.fromkeys(names, SHAPE))]
        engine = Process(arguments, os.environ, home / "engine.err", ready_fd=False)
        made = None
        try:
            urls = engine.ready()
            assert urls is not None, "the engine did not start"
            limits = SourceLimits(concurrency=64)
            own = [source(name, urls[name], kind=SourceKind.vllm, limits=limits) for name in names]
            parts, head = World(own, people=people).parts(1)
            folder = SnapshotFolder(home / "node" / "snapshot", deltas_max=16)
            folder.store(SnapshotView.from_parts(parts, head, cache_max=64), None, parts)
            settings = {"log_level": "warning", "stop_grace_ms": 3000, "workers": 2}
            # Who has which home is chance, and must not move conversations here.
            settings["placement_load_factor_milli"] = 1000 * len(names) + 1000
            made = Gateway(home, people, urls, settings, {}, free_port())
            made.start()
            yield made, notes
        finally:
            if made is not None:
                end(made)
            engine.kill()
            engine.wait()


def _answers(talking: list[User], turns: int) -> list[str]:
    """Each turn was answered, with its own marker and no other."""
    failures = []
    for user in talking:
        if len(user.turns) != turns:
            failures.append(f"{user.name}: {len(user.turns)} of {turns} turns were answered")
        for turn in user.turns:
            found = MARKER.findall(turn.text)
            if found != [f"{user.name}.{turn.number}"]:
                failures.append(f"{user.name} turn {turn.number} was answered with {found}")
    return failures


def _records(gateway: Gateway, talking: list[User]) -> list[str]:
    """What is recorded of a call holds its own user's markers only, under the user's own id."""
    owners = {turn.request_id: user.name for user in talking for turn in user.turns}
    texts: dict[str, bytes] = defaultdict(bytes)
    principals: dict[str, str] = {}
    for epoch in epochs(gateway.log):
        for stored in read_epoch(gateway.log, epoch):
            record = stored.record
            if isinstance(record, Intent):
                texts[request_id(epoch, record.call)] += record.body
                number = record.principal_id.rpartition("_u")[2]
                principals[request_id(epoch, record.call)] = f"{record.tenant_id.removeprefix('ten_')}.{number}"
            elif isinstance(record, Chunk):
                texts[request_id(epoch, record.call)] += record.text.encode() + record.raw
            elif isinstance(record, Outcome):
                texts[request_id(epoch, record.call)] += record.body
    failures = []
    for request, owner in owners.items():
        found = {name.decode() for name in ANY_MARKER.findall(texts[request])}
        if found != {owner} or principals.get(request) != owner:
            failures.append(f"the record of {request} is {principals.get(request)}'s and holds {found}, not {owner}")
    return failures


def _salts(calls: list[dict[str, Any]]) -> list[str]:
    """One salt for each tenant, no two the same; and what one tenant left in the cache was found by no other."""
    salts: dict[str, set[str]] = defaultdict(set)
    for call in calls:
        salts[call["marker"].partition(".")[0]].add(call["salt"])
    failures = [f"{tenant} has {len(found)} salts" for tenant, found in salts.items() if len(found) != 1]
    if len({salt for found in salts.values() for salt in found}) != len(salts):
        failures.append("two tenants share a salt")
    if any("" in found for found in salts.values()):
        failures.append("a call had no salt")
    first: dict[str, dict[str, Any]] = {}
    for call in sorted(calls, key=lambda c: c["at_ns"]):
        first.setdefault(call["marker"].partition(".")[0], call)
    failures += [
        f"the first call of {t} found {c['cached_tokens']} tokens" for t, c in first.items() if c["cached_tokens"]
    ]
    return failures


def _figures(talking: list[User], calls: list[dict[str, Any]]) -> dict[str, Any]:
    first = [turn.took_s for user in talking for turn in user.turns if turn.number == 0]
    later = [turn.took_s for user in talking for turn in user.turns if turn.number]
    prompts = {c["marker"]: c["prompt_tokens"] for c in calls}
    at: dict[str, set[str]] = defaultdict(set)
    for call in calls:
        at[call["marker"].rpartition(".")[0]].add(call["source"])
    own = []
    for call in calls:
        user, _, number = call["marker"].rpartition(".")
        before = prompts.get(f"{user}.{int(number) - 1}")
        if before is not None:
            own.append(call["cached_tokens"] >= before - SLACK_TOKENS)
    asked, hit = sum(c["prompt_tokens"] for c in calls), sum(c["cached_tokens"] for c in calls)

    def ms(values: list[float], percent: int) -> float:
        return round(1000 * statistics.quantiles(values, n=100)[percent - 1], 1) if len(values) > 1 else 0.0

    return {
        "calls": len(calls),
        "by_engine": dict(Counter(c["source"] for c in calls)),
        "stayed": round(sum(len(sources) == 1 for sources in at.values()) / max(1, len(at)), 4),
        "by_tenant": dict(Counter(c["marker"].partition(".")[0] for c in calls)),
        "first_turn_ms": {"p50": ms(first, 50), "p95": ms(first, 95)},
        "later_turns_ms": {"p50": ms(later, 50), "p95": ms(later, 95)},
        "later_p95_over_p50": round(ms(later, 95) / ms(later, 50), 2) if later else 0.0,
        "own_conversation_cached": round(sum(own) / len(own), 4) if own else 0.0,
        "prefix_hit_rate": round(hit / asked, 4) if asked else 0.0,
    }
