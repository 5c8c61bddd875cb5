"""Which models may be tried in place of the best one, and how likely each is: what `explore` computes, of candidates.

Only among free candidates that fit, and are predicted to meet what is asked, as well as the best one does, and when
that is free itself. Of each model the first such candidate stands for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from interlock.routing.explore import DOUBT_MAX_MICRO, chances
from interlock.routing.facts import MANY
from interlock.routing.ranking import Request
from interlock.routing.rows import SCORE_BITS, Row
from interlock.routing.score import ALIKE, MICRO
from interlock.types.learned import Estimates


def likely(kept: Sequence[Row], request: Request, estimates: Estimates) -> tuple[list[int], list[int]]:
    """(places of the first candidates of models that may come first, how likely each is); empty: the best alone may.
    `kept`: at least one candidate."""
    best = kept[0]
    if best[8]:
        return [], []
    disfavour = best[0] + best[7].score_micro
    least = disfavour - (1 << SCORE_BITS - 1)
    if request.slate.varied and _all(kept, least, disfavour):
        places, rows = list(range(len(kept))), kept
    else:
        places = _firsts(kept, least, disfavour)
        rows = [kept[at] for at in places]
    if len(rows) < 2:
        return [], []
    due = [i for i, row in enumerate(rows) if row[6][2] in estimates.due] if estimates.due else ()
    found = _at_once(rows, request, estimates, due) if len(rows) >= MANY else None
    return places, found or _one_by_one(rows, request, estimates, due)


def _all(kept: Sequence[Row], least: int, disfavour: int) -> bool:
    """Whether all may come first where each is of a model of its own: none is full, and so none overflows."""
    keys = [row[0] for row in kept]
    return least < min(keys) and max(keys) <= disfavour and True not in [row[8] for row in kept]


def _firsts(kept: Sequence[Row], least: int, disfavour: int) -> list[int]:
    """The place of the first candidate of each model that may come first, the best one first.

    `disfavour`: of the best one, above scores; what has the same stands above `least`, one range of them below it.
    """
    seen, places = {kept[0][6][2]}, [0]
    for number, row in enumerate(kept):
        later = row[6]
        if later[2] in seen:
            continue
        if least < row[0] <= disfavour and not row[8] and later[3] and not row[7].overflow:
            seen.add(later[2])
            places.append(number)
    return places


def _at_once(rows: Sequence[Row], request: Request, estimates: Estimates, due: Collection[int]) -> list[int] | None:
    """The chances of these, by columns of what is known of all; None where these are not to be had."""
    table, features = request.slate.table, request.features
    if table is None:
        return None
    tokens = features.prompt_tokens_max, features.completion_tokens_max
    return table.chances(
        [row[0] for row in rows], [row[6][7] for row in rows], *tokens, request.weights, estimates, due
    )


def _one_by_one(rows: Sequence[Row], request: Request, estimates: Estimates, due: Collection[int]) -> list[int]:
    prompt, completion = request.features.prompt_tokens_max, request.features.completion_tokens_max
    quality, doubts, verbosities = request.weights.quality, estimates.doubt_micro, estimates.verbosity_milli
    options: list[tuple[int, int, int]] = []
    for row in rows:
        _, _, arm, _, per_input, per_output, per_call, _ = row[6]
        doubt = doubts.get(arm, DOUBT_MAX_MICRO)
        credit = quality * (doubt if doubt < DOUBT_MAX_MICRO else DOUBT_MAX_MICRO) // MICRO
        length = completion * verbosities.get(arm, ALIKE) // ALIKE
        options.append((-row[0], credit, per_input * prompt + per_output * length + per_call))
    return chances(options, estimates.share_micro, estimates.money_micro, due)
