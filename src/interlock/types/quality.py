"""What outcomes have shown of answers, as it is published beside the router's state: counts and sums, to be reported.

Nothing is decided by it, so that it is no part of the snapshot.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

OTHERS = "*"
"""The team, or the arm, of what is beyond the bound of those that are told apart."""
NO_TASK = -1
"""The task of an outcome whose prompt is not there, or was not told apart yet."""


class Sum(NamedTuple):
    """Outcomes, and what their rewards and the squares of these add up to, in millionths."""

    outcomes: int = 0
    reward_micro: int = 0
    square_micro: int = 0

    def __add__(self, other: Sum) -> Sum:  # type: ignore[override]
        return Sum(*(one + two for one, two in zip(self, other, strict=True)))


class QualityCell(msgspec.Struct, frozen=True, array_like=True):
    """What was seen of one arm's answers to one team's prompts of one task, from one origin. `team`: id, "" none.

    `counted`: those of its outcomes of whose answer nothing stronger is known; None: all.
    """

    team: str
    arm: str
    task: int
    origin: str
    outcomes: int
    reward_micro: int
    square_micro: int = 0
    counted: Sum | None = None

    @property
    def sum(self) -> Sum:
        """Its figures."""
        return Sum(self.outcomes, self.reward_micro, self.square_micro)

    @property
    def once(self) -> Sum:
        """What it adds to the figure of all origins together, where each answer counts once."""
        return self.sum if self.counted is None else self.counted


class Qualities(msgspec.Struct, frozen=True, array_like=True):
    """The last `outcomes` outcomes of a tenant, of at most `outcomes_max` that are held.

    `version`: of the state whose tasks these are. `tasks`: how many it tells apart, 0: none yet. `since_ns`,
    `until_ns`: when the first and the last of these calls were, Unix time; 0 without any. `cells`: in their order.
    """

    version: int
    tasks: int
    outcomes: int
    outcomes_max: int
    since_ns: int
    until_ns: int
    cells: tuple[QualityCell, ...] = ()
