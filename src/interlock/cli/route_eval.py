"""`interlock route eval`: how well learned routing does on data whose answers are known."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlock.cli.common import AsJson
from interlock.cli.output import check_plot, put, put_json, table, write_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.learning.evaluation.gateway import Offered, Taken


def evaluate(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder with prompts, quality and cost.")],
    splits: Annotated[int | None, typer.Option(help="Number of splits; as the folder says when left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first split; as the folder says when left out.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most requests that are learned online.")] = 3000,
    drift: Annotated[bool, typer.Option("--drift", help="Also measure how quickly changes are noticed.")] = False,
    plot: Annotated[str, typer.Option("--plot", metavar="FILE", help="Draw quality over cost there (SVG).")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure learned routing on a folder of prompts with what every model made of them, beside baselines."""
    check_plot(plot)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: sums do not depend on the number of cores
    from interlock.learning.evaluation import report as told
    from interlock.learning.evaluation.data import load
    from interlock.learning.evaluation.run import run

    report = run(load(Path(folder), splits, seed), requests, _progress, gateway=decided if drift else None)
    if plot:
        from interlock.learning.evaluation.plot import svg

        write_plot(plot, svg(report))
    if as_json:
        put_json(told.as_dict(report))
        return
    put(*told.words(report), "")
    head, rows = told.table(report)
    table(rows, head)
    put("", "* learned without labels, the others are baselines.", *told.online_words(report))
    put(*told.newcomer_words(report), "")
    put(*_spaced(told.drift_words(report)))
    head, rows = told.task_table(report)
    table(rows, head)


def decided(offered: Sequence[Offered], share: int, money: int, seed: int) -> Taken:
    """The model that a gateway takes: the best one, or now and then another (`routing.explore`)."""
    from interlock.learning.evaluation.gateway import Taken
    from interlock.routing.explore import DOUBT_MAX_MICRO, Option, chances, drawn

    order = sorted(range(len(offered)), key=lambda arm: -offered[arm].score)
    ranked = [offered[arm] for arm in order]
    options = [Option(each.score, min(each.doubt, DOUBT_MAX_MICRO), each.cost) for each in ranked]
    due = [place for place, each in enumerate(ranked) if each.due]
    return Taken(order[drawn(chances(options, share, money, due), seed)], order[0])


def _spaced(lines: list[str]) -> list[str]:
    return [*lines, ""] if lines else []


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"interlock: {words}\n")
