"""Floors on a sample of public data, in `routing/` of the folder that `INTERLOCK_EVAL_DATA` names; else skipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from interlock.learning.evaluation.data import Data, load
from interlock.learning.evaluation.run import Report, run


def _public(name: str, splits: int) -> Data:
    folder = os.environ.get("INTERLOCK_EVAL_DATA", "")
    path = Path(folder) / "routing" / name
    if not folder or not path.is_dir():
        pytest.skip(f"no {name} in the folder that INTERLOCK_EVAL_DATA names")
    return load(path, splits=splits)


def _mean(report: Report, method: str, measure: str) -> float:
    return next(row for row in report.rows if row.method == method).measures[measure].mean


def test_two_models_on_school_mathematics() -> None:
    report = run(_public("routellm_gsm8k", 1), 600, lambda words: None)
    assert _mean(report, "fitted", "apgr") > 0.615
    assert _mean(report, "fitted", "apgr") > _mean(report, "logistic regression", "apgr") + 0.04
    assert _mean(report, "tasks", "apgr") > 0.565
    assert _mean(report, "online", "apgr") > 0.59
    assert _mean(report, "online", "aiq") > 0.755


def test_eleven_models_on_a_sample_of_many_tasks() -> None:
    whole = _public("mmlu_pro", 4)
    rows = np.arange(0, len(whole.texts), 8)
    assert whole.groups is not None
    sample = whole._replace(
        texts=[whole.texts[i] for i in rows],
        quality=whole.quality[rows],
        cost=whole.cost[rows],
        groups=whole.groups[rows],
    )
    report = run(sample, 1000, lambda words: None)
    singles = _mean(report, "single models", "aiq")
    # Means of four splits: of a single one these differ by .006 from split to split.
    assert _mean(report, "fitted outcomes", "aiq") > singles + 0.015
    assert _mean(report, "fitted outcomes", "aiq") > _mean(report, "logistic regression", "aiq")
    assert _mean(report, "fitted", "aiq") > _mean(report, "fitted outcomes", "aiq") + 0.002
    assert _mean(report, "fitted", "cost_at_95") < _mean(report, "fitted outcomes", "cost_at_95") - 0.02
    assert _mean(report, "tasks", "aiq") > singles + 0.011
    assert _mean(report, "online tasks", "aiq") > singles - 0.005
    assert _mean(report, "online", "aiq") > singles - 0.004
    assert _mean(report, "published", "aiq") > _mean(report, "online", "aiq") - 0.003
