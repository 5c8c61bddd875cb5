"""What the router expects of each model for one request, as decisions use it: integers, by `types.learned.arm_of`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Estimates(NamedTuple):
    """`quality_micro`: expected outcome. `doubt_micro`: its standard deviation. `verbosity_milli`: length of answers
    beside the mean, thousandths. An arm that is in none of them is new: its model's prior counts. `failure_micro`: by
    offer, the share of tries that failed. `share_micro`, `money_micro`: how much may be tried (`routing.explore`).
    """

    version: int
    task: int
    quality_micro: Mapping[str, int]
    doubt_micro: Mapping[str, int]
    verbosity_milli: Mapping[str, int]
    failure_micro: Mapping[str, int]
    share_micro: int = 0
    money_micro: int = 0
