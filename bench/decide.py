"""What a decision costs a gateway: CPU of ordering 50 candidates, of reading the load of their sources, of reading a
prompt, of expectations of 50 models.

    .venv/bin/python -m bench.decide [ROUNDS]

Prints JSON. Microseconds of CPU (user and system, this process alone), the median over rounds, and over those that
nobody disturbed (`bench.quiet`), for which they are half a second apart. In every round all figures are taken one after
the other, beside `sort`: the same 50 offers sorted by the load of their engines, the least that a router could do.
Garbage is collected as in a worker. `in_sorts` is the median of each round's ratio to that, so that a slow minute of a
machine falls on both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from bench.quiet import undisturbed
from interlock.gateway.garbage import collect_rarely
from interlock.learning.prompt import read
from interlock.learning.published import Expectations, Reader
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer
from interlock.routing.catalog import offers_of
from interlock.routing.choose import decide
from interlock.sources.board import Board
from interlock.types.decision import Placement
from interlock.types.identity import DataClass
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.source import Labels, LoadReading, Model, Offer, Power, Price, Source, SourceKind

CANDIDATES = 50
MODELS, REPLICAS = 10, 5
BOUNDS = Placement(4, 1250, 950, 2000)
"""As the settings have it."""
OUTCOMES = 1500
ROUNDS = 40
PAUSE_S = 0.5
"""Between rounds. Without it all of them are over in three seconds, and all disturbed or none (see `bench.quiet`)."""
CALLS = 40
SLOTS_USED = 64
"""Conversations that placed decisions are about."""
WORDS = 20_000
LOOK_NS = 700_000
"""Between looks at the load of sources."""


def offers_made(replicas: int) -> tuple[Offer, ...]:
    """`CANDIDATES` offers: of each model `replicas`, each at a source of its own."""
    return offers_of(
        Source(
            id=f"src_{n}_{r}",
            name=f"source-{n}-{r}",
            kind=SourceKind.vllm,
            base_url="http://x.example",
            labels=Labels(on_prem=n % 2 == 0),
            models=(
                Model(
                    name=f"model-{n}",
                    context_length=131_072,
                    quality_milli=400 + 10 * n,
                    price=Price(10**8 * (n + 1), 10**7, 4 * 10**8 * (n + 1), origin="list"),
                    power=Power(1000 + n, 40_000 + n),
                ),
            ),
        )
        for n in range(CANDIDATES // replicas)
        for r in range(replicas)
    )


def texts(number: int, chars: int, rng: np.random.Generator) -> list[str]:
    """Made-up prompts, their words about as often as in a language."""
    ranks = np.minimum(rng.zipf(1.3, (number, chars // 6)), WORDS)
    return [" ".join(f"w{rank:04d}" for rank in row)[:chars] for row in ranks]


def learned(models: int, rng: np.random.Generator) -> tuple[Expectations, Reader]:
    """The state that a gateway has of so many models after `OUTCOMES` outcomes."""
    trainer = Trainer(Plan(), rng)
    names = [f"model-{n}" for n in range(models)]
    trainer.models({name: Arm(0.1 * (n + 1)) for n, name in enumerate(names)})
    prompts = [read(text) for text in texts(OUTCOMES, 1024, rng)]
    for n, prompt in enumerate(prompts):
        trainer.outcome(Outcome(names[n % models], float(rng.random() < 0.5), "feedback", prompt))
    weights, words = trainer.state(1, 0)
    assert words is not None
    return Expectations(weights), Reader(words)


def readings_of(offers: tuple[Offer, ...], rng: np.random.Generator) -> Mapping[str, LoadReading]:
    """A moderate load at each source."""
    return {
        offer.source.id: LoadReading(
            waiting=0, running=int(rng.integers(0, 6)), kv_permille=300, inflight=2, age_ms=50, stay_ms=900
        )
        for offer in offers
    }


class Scene:
    """One kind of decision, made again and again with another seed and slot each time."""

    def __init__(
        self, offers: tuple[Offer, ...], rng: np.random.Generator, estimates: Estimates | None, affinity: bool
    ) -> None:
        self._offers, self._estimates = offers, estimates
        self._readings = readings_of(offers, rng)
        self._latencies = {offer.key: int(rng.integers(4, 8)) * 58_823 for offer in offers}
        self._target = Target(kind="auto", mode="balanced")
        self._features = [
            Features(
                "chat", "auto", DataClass.internal, prompt_bytes=4096, prompt_tokens_max=4096,
                completion_tokens_max=1024, affinity=slot if affinity else 0,
            )
            for slot in range(1, SLOTS_USED + 1)
        ]  # fmt: skip
        self._seed = 0

    def __call__(self) -> None:
        """One decision."""
        self._seed += 1
        decide(
            self._features[self._seed % SLOTS_USED],
            self._target,
            self._offers,
            self._readings,
            latencies=self._latencies,
            estimates=self._estimates,
            seed=self._seed * 0x9E3779B97F4A7C15 % 2**63,
            placement=BOUNDS,
        )

    def sort(self) -> list[Offer]:
        """The offers by the load of their engines alone."""
        readings = self._readings
        return sorted(self._offers, key=lambda o: (readings[o.source.id].waiting, readings[o.source.id].running))


class Sight:
    """The load of `CANDIDATES` sources, read again and again, a while later each time, and a call has come and gone."""

    def __init__(self) -> None:
        ids = [f"src_{n}" for n in range(CANDIDATES)]
        with tempfile.TemporaryDirectory() as folder:
            self._board = Board.create(Path(folder) / "board.shm", rows=CANDIDATES, workers=2)
        self._rows = self._board.rows_of(map(self._board.row, ids))
        self._ids = tuple(ids)
        self._now_ns = 10**15
        for row in self._rows.numbers:
            self._board.publish(
                row, waiting=0, running=3, kv_permille=300, healthy=True, saturated=False, stay_ms=900,
                read_at_ns=self._now_ns - row * 2_345_678,
            )  # fmt: skip

    def __call__(self) -> None:
        """One look at all of them."""
        row = self._now_ns // LOOK_NS % CANDIDATES
        self._board.enter(row, None)
        self._board.leave(row)
        self._now_ns += LOOK_NS
        dict(zip(self._ids, self._board.look(self._rows, self._now_ns)[0], strict=True))


def scenes(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    single, many = offers_made(1), offers_made(REPLICAS)
    expectations, reader = learned(CANDIDATES, rng)
    few, few_reader = learned(MODELS, rng)
    short, long = (texts(1, chars, rng)[0] for chars in (1024, 4096))
    signals = reader.signals(long)
    known, known_few = expectations.estimates(signals, 1), few.estimates(few_reader.signals(long), 1)
    assert min(known.share_micro, known_few.share_micro) > 0
    plain = Scene(single, rng, None, affinity=False)
    everything = Scene(many, rng, known_few, affinity=True)

    def whole() -> None:
        few.estimates(few_reader.signals(long), 1)
        everything()

    return {
        "sort": plain.sort,
        "decide_priors": plain,
        "decide_estimates": Scene(single, rng, known._replace(share_micro=0), affinity=False),
        "decide_exploring": Scene(single, rng, known, affinity=False),
        "decide_placement": Scene(many, rng, None, affinity=True),
        "decide_all": everything,
        "look_50_sources": Sight(),
        "read_1_kb": lambda: reader.signals(short),
        "read_4_kb": lambda: reader.signals(long),
        "estimate_50_models": lambda: expectations.estimates(signals, 1),
        "understand_and_decide": whole,
    }


def measure(rounds: int = ROUNDS, pause_s: float = PAUSE_S) -> dict[str, object]:
    """All figures."""
    what = scenes(np.random.default_rng(1))
    took: dict[str, list[float]] = {name: [] for name in what}
    for do in what.values():
        for _ in range(CALLS):
            do()
    collect_rarely()
    for _ in range(rounds):
        time.sleep(pause_s)
        for name, do in what.items():
            begin = time.process_time_ns()
            for _ in range(CALLS):
                do()
            took[name].append((time.process_time_ns() - begin) / CALLS / 1000)
    return {
        "candidates": CANDIDATES,
        "us": {name: round(statistics.median(each), 1) for name, each in took.items()},
        "us_undisturbed": {name: round(undisturbed(each), 1) for name, each in took.items()},
        "in_sorts": {
            name: round(statistics.median(a / b for a, b in zip(each, took["sort"], strict=True)), 2)
            for name, each in took.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)))
