"""What learned routing costs: CPU per prompt, per decision and per outcome, and the learner's memory.

    .venv/bin/python -m bench.route

Prints JSON: microseconds of CPU (median of rounds) and MB. One thread, made-up prompts, 50 candidates, a learner that
has seen 3,000 requests of 1 KB and remembers them.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from interlock.learning.learner import Learner
from interlock.learning.prompt import Prompt, read
from interlock.learning.understanding import Understanding

CANDIDATES = 50
REQUESTS = 3000
ROUNDS = 15
WORDS = 20_000
SIZES = (256, 1024, 4096, 65_536)


def _texts(number: int, chars: int, rng: np.random.Generator) -> list[str]:
    ranks = np.minimum(rng.zipf(1.3, (number, chars // 6)), WORDS)
    return [" ".join(f"w{rank:04d}" for rank in row)[:chars] for row in ranks]


def _us(what: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(times):
            what()
        took.append((time.process_time() - begin) / times)
    return round(statistics.median(took) * 1e6, 1)


def measure() -> dict[str, object]:
    """All figures."""
    rng = np.random.default_rng(1)
    read_us = {f"{size} B": _us(partial(read, _texts(1, size, rng)[0]), 20) for size in SIZES}
    everything = np.ones(CANDIDATES, bool)
    tracemalloc.start()
    prompts: list[Prompt] = [read(text) for text in _texts(REQUESTS, 1024, rng)]
    learner = Learner(np.linspace(1e-4, 1e-2, CANDIDATES), rng)
    for prompt in prompts:
        model = learner.decide(prompt, 10.0, everything).taken
        learner.learn(prompt, model, float(rng.random() < 0.5), 1e-3)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    begin = time.process_time()
    Understanding(prompts, rng)
    look_s = time.process_time() - begin
    one = prompts[-1]
    decide_us = _us(lambda: learner.decide(one, 10.0, everything), 50)
    long = read(_texts(1, 4096, rng)[0])
    return {
        "read_us": read_us,
        "decide_us": decide_us,
        "decide_4096_B_us": _us(lambda: learner.decide(long, 10.0, everything), 50),
        "learn_us": _us(lambda: learner.learn(one, model, 0.5, 1e-3), 50),
        "candidates": CANDIDATES,
        "requests": REQUESTS,
        "look_at_all_prompts_s": round(look_s, 2),
        "learner_mb": round(memory / 1e6, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
