"""What a decision knows of one offer while it orders them: a plain tuple, for there are many at each call."""

from __future__ import annotations

from operator import itemgetter

from interlock.routing.facts import Facts
from interlock.types.decision import Candidate
from interlock.types.source import LoadReading

Row = tuple[int, int, bool, int, int, str, Facts, Candidate, bool, int, int, LoadReading]
"""By number:

0 to 5. the sort key, total: disfavour, -score, off-prem, queue, busy (`load.load_of`), `Offer.key`;
6. its facts;
7. its `Candidate`: nobody else has it yet, so what becomes known later is set in it;
8. whether its source is full;
9. less its rank among its replicas (`placement.rank`); 0: they are not placed;
10. how many calls are there, running or waiting, by the engine's figures or ours, whichever has more;
11. the reading of its source.
"""
MERIT = 5
"""How much of the sort key decides; candidates that are equal so far are ordered by the seed."""
PREFERENCE = 3
"""How much of it is preference; then comes load."""
CLASS_SHIFT = 2
"""Above these bits of the disfavour: whether the call's objectives are predicted to be met."""

home_first = itemgetter(9, 5)
"""Sorts replicas by rank."""
