"""An inference engine without a model: slots, a queue, a KV cache with shared prefixes, and the metrics of vLLM.

`Simulator` is the engine itself, in virtual time: `step()` runs one iteration of continuous batching (every running
sequence gets one token, a new one first has its uncached prompt computed) and says how long it would have taken. The
same calls always give the same times, so that placement and overflow can be tested to the millisecond.
`SimulatedEngine` puts it behind HTTP in real time, or faster.

The model of time follows what is published about such engines: a step costs a base plus a share per sequence;
computing a prompt costs in proportion to its uncached tokens; cached blocks are found by the hash of all tokens up to
their end and evicted least recently used first (vLLM, "Automatic Prefix Caching").
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from interlock.testing.answers import CREATED_S, error
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import DONE, STREAM_HEAD, Gate, Load, Received, Step, chunk, event, http

COMPLETION_TOKENS_DEFAULT = 16
WORD = " token"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineShape:
    """What the engine has and how fast it is. Times in seconds of virtual time, sizes in tokens."""

    slots: int = 8
    queue_max: int = 1024
    kv_blocks: int = 2048
    block_tokens: int = 16
    prefill_tokens_per_s: float = 8000.0
    step_base_s: float = 0.010
    step_per_sequence_s: float = 0.0005


@dataclasses.dataclass(eq=False, slots=True)
class Job:
    """One sequence. `made` counts the tokens it has given; times are virtual seconds, -1 before they happen."""

    prompt: tuple[str, ...]
    completion_tokens: int
    submitted_s: float
    blocks: tuple[int, ...]
    """Chain hashes of the prompt's full blocks."""
    cached_tokens: int = 0
    prefill_left: float = 0.0
    own_blocks: int = 0
    made: int = 0
    started_s: float = -1.0
    first_token_s: float = -1.0
    finished_s: float = -1.0
    cancelled: bool = False
    progress: asyncio.Event | None = None
    """Set after each token when the job is served over HTTP."""

    @property
    def done(self) -> bool:
        """Whether it will give no more tokens."""
        return self.cancelled or self.made >= self.completion_tokens


class QueueFull(Exception):
    """The engine's queue holds `queue_max` sequences."""


class Simulator:
    """The engine in virtual time. Pure: no clock, no I/O, no randomness."""

    def __init__(self, shape: EngineShape = EngineShape()) -> None:
        self.shape = shape
        self.now_s = 0.0
        self.running: list[Job] = []
        self.waiting: deque[Job] = deque()
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._shared: OrderedDict[int, int] = OrderedDict()
        """Chain hash of a cached block -> how many running jobs use it; least recently used first."""
        self._pinned = 0
        """Blocks in use by running jobs: shared ones once, and their own."""
        self._idle = 0
        """Cached blocks that no running job uses."""

    def submit(self, prompt: Sequence[str], completion_tokens: int, salt: str = "") -> Job:
        """Queue a sequence. What is cached under one `salt` is found under no other. Raises QueueFull, or ValueError
        when it could never fit the KV cache."""
        if len(self.waiting) >= self.shape.queue_max:
            raise QueueFull
        if self._blocks_for(len(prompt) + completion_tokens) > self.shape.kv_blocks:
            raise ValueError(f"{len(prompt)} + {completion_tokens} tokens do not fit the KV cache")
        words = tuple(prompt)
        job = Job(words, max(1, completion_tokens), self.now_s, self._chain(words, salt))
        self.waiting.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """Take a sequence out, wherever it is. Its blocks stay cached until they are needed."""
        job.cancelled = True
        if job in self.running:
            self.running.remove(job)
            self._release(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def step(self) -> list[Job]:
        """One iteration: admit what fits, give every sequence its token. Returns the jobs that got one; advances time.

        With nothing to do time stands still.
        """
        while self.waiting and len(self.running) < self.shape.slots and self._admit(self.waiting[0]):
            self.running.append(self.waiting.popleft())
        if not self.running:
            return []
        shape = self.shape
        self.now_s += shape.step_base_s + shape.step_per_sequence_s * len(self.running)
        got = []
        for job in self.running:
            if job.prefill_left > 0:
                self.now_s += job.prefill_left / shape.prefill_tokens_per_s
                job.prefill_left = 0.0
            job.made += 1
            got.append(job)
        for job in got:
            if job.first_token_s < 0:
                job.first_token_s = self.now_s
            if job.made >= job.completion_tokens:
                job.finished_s = self.now_s
                self.running.remove(job)
                self._release(job)
        return got

    def run_until(self, now_s: float) -> None:
        """Step until virtual time reaches `now_s`; idle time passes at once."""
        while self.now_s < now_s:
            if not self.step():
                self.now_s = now_s

    def fill(self, load: Load) -> None:
        """Write what the metrics page shows."""
        load.running, load.waiting = len(self.running), len(self.waiting)
        load.kv_ratio = self.kv_permille / 1000
        load.prefix_queries, load.prefix_hits = self.prefix_queries, self.prefix_hits

    @property
    def kv_permille(self) -> int:
        """Thousandths of the KV cache that running sequences use."""
        return round(1000 * self._pinned / self.shape.kv_blocks)

    def cached_tokens(self, prompt: Sequence[str], salt: str = "") -> int:
        """How many leading tokens of a prompt the cache holds now."""
        return self._cached(self._chain(tuple(prompt), salt))

    def _cached(self, blocks: tuple[int, ...]) -> int:
        count = 0
        for block in blocks:
            if block not in self._shared:
                break
            count += self.shape.block_tokens
        return count

    def _chain(self, prompt: tuple[str, ...], salt: str) -> tuple[int, ...]:
        size = self.shape.block_tokens
        chain: list[int] = []
        for end in range(size, len(prompt) + 1, size):
            chain.append(hash((chain[-1] if chain else salt, prompt[end - size : end])))
        return tuple(chain)

    def _blocks_for(self, tokens: int) -> int:
        return math.ceil(tokens / self.shape.block_tokens)

    def _admit(self, job: Job) -> bool:
        """Give a job its blocks; False when there are not enough."""
        new_shared = [b for b in job.blocks if not self._shared.get(b)]
        own = self._blocks_for(len(job.prompt) + job.completion_tokens) - len(job.blocks)
        if self._pinned + len(new_shared) + own > self.shape.kv_blocks:
            return False
        job.cached_tokens = self._cached(job.blocks)
        self.prefix_queries += len(job.prompt)
        self.prefix_hits += job.cached_tokens
        job.prefill_left = float(len(job.prompt) - job.cached_tokens)
        job.own_blocks = own
        for block in job.blocks:
            users = self._shared.get(block)
            self._idle -= users == 0
            self._shared[block] = (users or 0) + 1
            self._shared.move_to_end(block)
        self._pinned += len(new_shared) + own
        job.started_s = self.now_s
        self._evict()
        return True

    def _release(self, job: Job) -> None:
        for block in job.blocks:
            self._shared[block] -= 1
            self._pinned -= not self._shared[block]
            self._idle += not self._shared[block]
        self._pinned -= job.own_blocks

    def _evict(self) -> None:
        """Drop cached blocks that nobody uses, oldest first, until all fit."""
        excess = self._pinned + self._idle - self.shape.kv_blocks
        if excess > 0:
            unused = (block for block, users in self._shared.items() if not users)
            for block in list(itertools.islice(unused, excess)):
                del self._shared[block]
                self._idle -= 1


class SimulatedEngine(ScriptedEngine):
    """The simulator behind HTTP, as a vLLM. `speed`: virtual seconds per real second.

    Queued scripts (`script(...)`) still come first, so that faults can be mixed in. `words`: what is answered to a
    request's fields, word by word; after the last one, WORD. `on_end`: told of each sequence that ended, and of the
    request that it was made of.
    """

    def __init__(
        self,
        shape: EngineShape = EngineShape(),
        *,
        models: tuple[str, ...] = ("mock",),
        speed: float = 1.0,
        port: int = 0,
        words: Callable[[dict[str, Any]], Sequence[str]] = lambda _asked: (),
        on_end: Callable[[Received, Job], None] = lambda _received, _job: None,
    ) -> None:
        super().__init__(kind="vllm", models=models, default=self._answer, port=port)
        self.simulator = Simulator(shape)
        self._speed = speed
        self._words = words
        self._on_end = on_end
        self._work = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and begin to step."""
        await super().start()
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop stepping and listening."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await super().close()

    async def _run(self) -> None:
        while True:
            before = self.simulator.now_s
            got = self.simulator.step()
            self.simulator.fill(self.load)
            await asyncio.sleep((self.simulator.now_s - before) / self._speed)
            for job in got:
                if job.progress is not None:
                    job.progress.set()
            if not got:
                self._work.clear()
                await self._work.wait()

    def _answer(self, received: Received) -> Iterator[Step]:
        asked = received.json
        prompt = json.dumps(asked.get("messages") or asked.get("prompt") or "").split()
        tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or COMPLETION_TOKENS_DEFAULT
        try:
            job = self.simulator.submit(prompt, tokens, str(asked.get("cache_salt", "")))
        except QueueFull:
            yield from error(503, message="The engine's queue is full.", retry_after="1")(received)
            return
        except ValueError as e:
            yield from error(400, message=str(e))(received)
            return
        job.progress = asyncio.Event()
        self.simulator.fill(self.load)
        self._work.set()
        try:
            yield from self._stream(asked, job) if asked.get("stream") else self._whole(asked, job)
        finally:
            if not job.done:
                self.simulator.cancel(job)
            self.simulator.fill(self.load)
            self._on_end(received, job)

    def _said(self, asked: dict[str, Any], tokens: int) -> list[str]:
        """As many words as tokens were made."""
        words = list(self._words(asked))[:tokens]
        return [*words, *[WORD.strip()] * (tokens - len(words))]

    def _whole(self, asked: dict[str, Any], job: Job) -> Iterator[Step]:
        while not job.done:
            yield from _progress(job)
        document = _document(asked, "chat.completion") | {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": " ".join(self._said(asked, job.made))},
                    "finish_reason": "length",
                }
            ],
            "usage": _usage(job),
        }
        yield http(200, json.dumps(document).encode())

    def _stream(self, asked: dict[str, Any], job: Job) -> Iterator[Step]:
        base = _document(asked, "chat.completion.chunk")
        said = self._said(asked, job.completion_tokens)
        sent = 0
        while not job.done or sent < job.made:
            while sent >= job.made:
                yield from _progress(job)
            if not sent:
                yield STREAM_HEAD
            sent += 1
            finish = "length" if sent == job.completion_tokens else None
            delta = {"content": f" {said[sent - 1]}"}
            yield event(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        options = asked.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield event(base | {"choices": [], "usage": _usage(job)})
        yield DONE + chunk(b"")


def _progress(job: Job) -> Iterator[Step]:
    """Wait until the job has moved on."""
    assert job.progress is not None  # noqa: S101 - set before the job is served
    yield Gate(job.progress)
    job.progress.clear()


def _document(asked: dict[str, Any], kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-simulated", "object": kind, "created": CREATED_S, "model": asked.get("model", "")}


def _usage(job: Job) -> dict[str, object]:
    return {
        "prompt_tokens": len(job.prompt),
        "completion_tokens": job.made,
        "total_tokens": len(job.prompt) + job.made,
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }
