"""Whether a learner's memory stays as it is while traffic goes on.

    .venv/bin/python -m bench.steady [CALLS]

Tells a trainer of so many calls (a million), every tenth with an outcome and a prompt that was never there before, of
64 models of which some leave and others come, and publishes and decodes a state every 1,000. Prints JSON: resident
memory at each tenth, MB.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from bench.procs import rss_mb
from interlock.learning.prompt import read
from interlock.learning.published import Expectations, Reader
from interlock.learning.trainer import Arm, Outcome, Plan, Told, Trainer

MODELS = 64
LEAVES_EVERY = 25_000
PUBLISH_EVERY = 1_000
OUTCOME_EVERY = 10


def measure(calls: int) -> dict[str, object]:
    """Memory over so many calls."""
    rng = np.random.default_rng(1)
    trainer, reader = Trainer(Plan(), rng), None
    names = [f"model-{n}" for n in range(MODELS)]
    series: list[float] = []
    step = max(1, calls // 10)
    for number in range(1, calls + 1):
        if number % LEAVES_EVERY == 1:
            names = [*names[1:], f"model-{MODELS + number}"]
            trainer.models({name: Arm(0.1 * (n + 1)) for n, name in enumerate(names)})
        arm = names[int(rng.integers(MODELS))]
        trainer.call(Told(f"source::{arm}", arm, False, 20_000, 9_000, 200, 1000, 1000, several=True))
        if number % OUTCOME_EVERY == 0:
            prompt = " ".join(f"w{word}" for word in rng.integers(0, 1_000_000, 120))
            trainer.outcome(Outcome(arm, float(rng.random() < 0.5), "feedback", read(prompt)))
        if number % PUBLISH_EVERY == 0:
            weights, words = trainer.state(number // PUBLISH_EVERY, 0)
            reader = Reader(words) if words is not None else reader
            Expectations(weights).estimates(reader.signals("a prompt") if reader is not None else b"", 0)
        if number % step == 0:
            series.append(round(rss_mb([os.getpid()]), 1))
    return {"calls": calls, "models_ever": MODELS + calls // LEAVES_EVERY, "rss_mb": series}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)))
