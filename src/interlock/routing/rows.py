"""What a decision knows of one offer while it orders them: a plain tuple, for there are many at each call."""

from __future__ import annotations

from operator import itemgetter

from interlock.routing.facts import Later
from interlock.types.decision import Candidate
from interlock.types.source import LoadReading

Row = tuple[int, int, bool, int, int, str, Later, Candidate, bool, int, LoadReading]
"""By number:

0. disfavour above the score (`SCORE_BITS`);
1. how far its rank among its replicas (`placement.rank`) is below the highest there could be, which no other row has;
   0: they are not placed;
2 to 5. off-prem, queue, busy (`load.load_of`), `Offer.key`; with 0 and 1 the sort key, total;
6. what is asked of it once it has its place (`facts.Later`);
7. its `Candidate`: nobody else has it yet, so what becomes known later is set in it;
8. whether its source is full;
9. how many calls are there, running or waiting, by the engine's figures or ours, whichever has more;
10. the reading of its source.
"""
SCORE_BITS = 24
"""Disfavour and score are one number, disfavour * 2^24 - score, for most rows differ in it, and a sort compares one
number several times as fast as the second of a tuple. A score has 20 bits."""
MERIT = 5
"""How much of the sort key decides; candidates that are equal so far are ordered by the seed."""
CLASS_SHIFT = 2
"""Above these bits of the disfavour: whether the call's objectives are predicted to be met."""

preference = itemgetter(0, 2)
"""What stands before load."""
merit = itemgetter(2, 3, 4)
"""What orders rows of one preference and score besides their ranks; equals are ordered by the seed."""
by_merit = itemgetter(2, 3, 4, 5)
"""Sorts such rows by it."""
home_first = itemgetter(1)
"""Sorts replicas by rank."""


def disfavour_of(row: Row) -> int:
    """What stands before the score."""
    return (row[0] + (1 << SCORE_BITS - 1)) >> SCORE_BITS
