"""A made-up folder of the form that `interlock route eval` reads: three topics, four models, each with its strength."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

TOPICS = {
    "law": ["court", "statute", "appeal", "contract", "liability", "verdict", "clause", "tort", "judge", "evidence"],
    "cooking": ["simmer", "whisk", "oven", "butter", "onion", "garlic", "recipe", "flour", "saucepan", "roast"],
    "physics": ["momentum", "photon", "entropy", "voltage", "quark", "velocity", "neutron", "lattice", "torque"],
}
MODELS = ("large", "lawyer", "cook", "small")
SKILL = np.array([[0.9, 0.9, 0.9], [0.9, 0.3, 0.3], [0.3, 0.9, 0.3], [0.4, 0.4, 0.4]])
PRICE = np.array([1.0, 0.1, 0.1, 0.02])


def texts(number: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """(prompts, their topics): mostly a topic's words, among words that all topics share."""
    names = [list(TOPICS)[int(i)] for i in rng.integers(len(TOPICS), size=number)]
    common = [f"filler{i}" for i in range(60)]
    made = []
    for name in names:
        words = [*rng.choice(TOPICS[name], 6), *rng.choice(common, 10)]
        rng.shuffle(words)
        made.append(" ".join(words) + "?")
    return made, names


def folder(path: Path, number: int = 900, models: int = 4, seed: int = 7, *, packed: bool = True) -> Path:
    """Write a folder and return it. With two models there is no cost.csv, as in the published data of that kind."""
    rng = np.random.default_rng(seed)
    prompts, names = texts(number, rng)
    topic = np.array([list(TOPICS).index(n) for n in names])
    chosen = list(range(len(MODELS))) if models == 4 else [3, 0]
    quality = (rng.random((number, len(MODELS))) < SKILL[:, topic].T).astype(int)[:, chosen]
    cost = (PRICE * rng.uniform(0.8, 1.2, (number, len(MODELS))))[:, chosen]
    path.mkdir(parents=True, exist_ok=True)
    head = ",".join(MODELS[c] for c in chosen)
    files = {
        "prompts.jsonl": [json.dumps({"prompt": p, "topic": n}) for p, n in zip(prompts, names, strict=True)],
        "quality.csv": [head, *(",".join(map(str, row)) for row in quality)],
    }
    if models == 4:
        files["cost.csv"] = [head, *(",".join(f"{v:.4f}" for v in row) for row in cost)]
        (path / "pool.json").write_text(json.dumps({"group": "topic", "split": "70/30 by group, seeds 1-3"}))
    for name, lines in files.items():
        text = ("\n".join(lines) + "\n").encode()
        target = path / (f"{name}.gz" if packed else name)
        target.write_bytes(gzip.compress(text, mtime=0) if packed else text)
    return path
