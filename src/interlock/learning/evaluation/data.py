"""A folder of prompts, with what each model made of each, read and checked.

`prompts.jsonl`: one object per line with `prompt`; where `contaminated` is true the row is left out. `quality.csv`: a
head of model names, then one row per prompt in [0, 1]. `cost.csv`, in the same form, in USD; with two models it may be
absent: a call of the stronger one then costs 1 and of the other 0. `pool.json`, optional: `pool` (the models to
choose from), `group` (the field of a prompt that names its true task) and `split` (text holding "70/30" and "seeds
42-46"). Each of the first three may be compressed (`.gz`).
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.errors import ConfigError

ROWS_MAX = 1_000_000
ROWS_MIN = 50
MODELS_MAX = 200
LINE_CHARS_MAX = 4_000_000
COST_MAX = 1e9
"""Of one call, in the unit of the folder."""
Numbers = NDArray[np.float64]


class Plan(NamedTuple):
    """How rows are divided: the share that is tested, and the seed of each split."""

    test_share: float
    seeds: tuple[int, ...]


class Data(NamedTuple):
    """A checked folder. Row i of `quality` and `cost` (prompts by models) belongs to `texts[i]`.

    `groups`: the true task of each prompt as a number, or None where the data names none. `priced`: False when the
    cost is only the share of calls of the stronger of two models.
    """

    name: str
    texts: list[str]
    models: list[str]
    quality: Numbers
    cost: Numbers
    groups: NDArray[np.int64] | None
    priced: bool
    plan: Plan


def load(folder: Path, splits: int | None = None, seed: int | None = None) -> Data:
    """Read a folder. `splits` and `seed` replace what it says about them. Raises ConfigError, in one line."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", param=str(folder))
    told = _pool(folder)
    group = told.get("group")
    rows = list(_prompts(folder, group))
    names, quality = _matrix(folder, "quality.csv", len(rows), highest=1.0)
    columns = _columns(told, names, folder)
    quality = quality[:, columns]
    models = [names[c] for c in columns]
    priced = _find(folder, "cost.csv") is not None
    if priced:
        cost_names, cost = _matrix(folder, "cost.csv", len(rows), highest=COST_MAX)
        missing = [m for m in models if m not in cost_names]
        if missing:
            raise ConfigError(f"{folder}: cost.csv has no column {missing[0]!r}", param="cost.csv")
        cost = cost[:, [cost_names.index(m) for m in models]]
    elif len(models) == 2:
        cost = np.zeros_like(quality)
        cost[:, int(quality.mean(0).argmax())] = 1.0
    else:
        raise ConfigError(f"{folder}: cost.csv may be absent only with two models, not {len(models)}", param="cost.csv")
    kept = np.array([i for i, row in enumerate(rows) if not row[2]], np.int64)
    if len(kept) < ROWS_MIN:
        raise ConfigError(f"{folder}: {len(kept)} usable prompts, and at least {ROWS_MIN} are needed", param="prompts")
    if np.ptp(cost[kept].mean(0)) <= 0:
        raise ConfigError(f"{folder}: every model costs the same, so there is nothing to trade", param="cost.csv")
    groups = None
    if group is not None:
        groups = np.unique([rows[i][1] for i in kept], return_inverse=True)[1].astype(np.int64)
    plan = _plan(told, splits, seed)
    texts = [rows[i][0] for i in kept]
    return Data(folder.resolve().name, texts, models, quality[kept], cost[kept], groups, priced, plan)


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _open(folder: Path, name: str) -> tuple[Path, IO[str]]:
    path = _find(folder, name)
    if path is None:
        raise ConfigError(f"{folder} has neither {name} nor {name}.gz", param=name)
    if path.suffix == ".gz":
        return path, gzip.open(path, "rt", encoding="utf-8", newline="")
    return path, path.open(encoding="utf-8", newline="")


def _lines(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """(place, line) of a file, with every failure to read it as a ConfigError."""
    path, file = _open(folder, name)
    number = 0
    try:
        with file:
            while line := file.readline(LINE_CHARS_MAX + 1):
                number += 1
                if len(line) > LINE_CHARS_MAX or number > ROWS_MAX + 1:
                    raise ConfigError(f"{path} line {number}: too long, or too many of them", param=name)
                yield f"{path} line {number}", line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read after line {number}: {e}", param=name) from None


def _pool(folder: Path) -> dict[str, Any]:
    path = folder / "pool.json"
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not JSON: {e}", param="pool.json") from None
    if not isinstance(told, dict):
        raise ConfigError(f"{path} holds no object", param="pool.json")
    pool, group, split = told.get("pool"), told.get("group"), told.get("split")
    if pool is not None and not (isinstance(pool, list) and pool and all(isinstance(m, str) for m in pool)):
        raise ConfigError(f"{path}: pool is not a list of names", param="pool.json")
    if not isinstance(group, str | None) or not isinstance(split, str | None):
        raise ConfigError(f"{path}: group and split are texts", param="pool.json")
    return told


def _prompts(folder: Path, group: str | None) -> Iterator[tuple[str, str, bool]]:
    """(prompt, name of its true task, whether it is left out) of every line."""
    for place, line in _lines(folder, "prompts.jsonl"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ConfigError(f"{place} is not JSON", param="prompts.jsonl") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise ConfigError(f"{place}: no object with a text `prompt`", param="prompts.jsonl")
        task = row.get(group) if group is not None else ""
        if not isinstance(task, str):
            raise ConfigError(f"{place}: no text {group!r}, which pool.json names as group", param="prompts.jsonl")
        yield row["prompt"], task, row.get("contaminated") is True


def _matrix(folder: Path, name: str, rows: int, highest: float) -> tuple[list[str], Numbers]:
    """(names, values) of a table with one line per prompt, values from 0 to `highest`."""
    found = _lines(folder, name)
    place, head = next(found, ("", ""))
    names = next(csv.reader([head.strip()]), [])
    if not 2 <= len(names) <= MODELS_MAX or len(set(names)) != len(names):
        raise ConfigError(f"{folder}: {name} names {len(names)} models, or one twice", param=name)
    values = []
    for place, line in found:
        if not line.strip():
            continue
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            raise ConfigError(f"{place}: not a row of numbers", param=name) from None
        if len(row) != len(names):
            raise ConfigError(f"{place}: {len(row)} values for {len(names)} models", param=name)
        if not all(0 <= v <= highest for v in row):
            raise ConfigError(f"{place}: a value is not from 0 to {highest:g}", param=name)
        values.append(row)
    if len(values) != rows:
        raise ConfigError(f"{folder}: {name} has {len(values)} rows for {rows} prompts", param=name)
    return names, np.array(values, np.float64)


def _columns(told: dict[str, Any], names: list[str], folder: Path) -> list[int]:
    pool = told.get("pool", names)
    missing = [m for m in pool if m not in names]
    if missing or len(set(pool)) != len(pool) or len(pool) < 2:
        what = f"quality.csv has no column {missing[0]!r}" if missing else "the pool is not of two or more models"
        raise ConfigError(f"{folder}: {what}", param="pool.json")
    return [names.index(m) for m in pool]


def _plan(told: dict[str, Any], splits: int | None, seed: int | None) -> Plan:
    text = told.get("split") or "50/50, seeds 42-46"
    shares = re.search(r"\b(\d{1,2})/(\d{1,2})\b", text)
    seeds = re.search(r"\bseeds (\d{1,9})-(\d{1,9})\b", text)
    if shares is None or seeds is None or int(shares[1]) + int(shares[2]) != 100 or int(seeds[2]) < int(seeds[1]):
        raise ConfigError('pool.json: split names no division such as "70/30" and no "seeds 42-46"', param="pool.json")
    first = int(seeds[1]) if seed is None else seed
    number = int(seeds[2]) - int(seeds[1]) + 1 if splits is None else splits
    if not 1 <= number <= 100 or not 0 <= first < 2**32 - 100:
        raise ConfigError(f"{number} splits from seed {first}: 1 to 100 splits, and a seed below 2^32", param="splits")
    if min(int(shares[1]), int(shares[2])) == 0:
        raise ConfigError("pool.json: a split needs rows to learn from and rows to test", param="pool.json")
    return Plan(int(shares[2]) / 100, tuple(range(first, first + number)))
