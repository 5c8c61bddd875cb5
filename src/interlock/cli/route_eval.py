"""`interlock route eval`: how well learned routing does on data whose answers are known."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.common import AsJson
from interlock.cli.output import put, put_json, table


def evaluate(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder with prompts, quality and cost.")],
    splits: Annotated[int | None, typer.Option(help="Number of splits; as the folder says when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first split; as the folder says when left out.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most requests that are learned online.")] = 3000,
    drift: Annotated[bool, typer.Option("--drift", help="Also measure how quickly changes are noticed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure learned routing on a folder of prompts with what every model made of them, beside baselines."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: sums do not depend on the number of cores
    from interlock.learning.evaluation import report as told
    from interlock.learning.evaluation.data import load
    from interlock.learning.evaluation.run import run

    report = run(load(Path(folder), splits, seed), requests, _progress, drifting=drift)
    if as_json:
        put_json(told.as_dict(report))
        return
    put(*told.words(report), "")
    head, rows = told.table(report)
    table(rows, head)
    put("", "* learned without labels, the others are baselines.", *told.online_words(report), "")
    put(*_spaced(told.drift_words(report)))
    head, rows = told.task_table(report)
    table(rows, head)


def _spaced(lines: list[str]) -> list[str]:
    return [*lines, ""] if lines else []


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"interlock: {words}\n")
