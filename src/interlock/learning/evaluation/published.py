"""What an online learner expects, read off the state that it would publish: as gateways decide by it, in integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interlock.learning.estimator import Estimator
from interlock.learning.evaluation.data import Numbers
from interlock.learning.published import MICRO, Expectations, Reader, centres_of, words_of
from interlock.learning.trainer import Plan, arm_weights
from interlock.types.learned import Weights


def expected_as_published(estimator: Estimator, models: Sequence[str], texts: Sequence[str]) -> Numbers:
    """Expected outcomes, one row per text and one column per model. A prompt becomes 8-bit signals first, by the words
    that the settings let be published. While nothing is read of prompts yet, every row is the models' means."""
    understanding = estimator.understanding
    weights = Weights(
        version=1,
        words=1 if understanding is not None else 0,
        made_s=0,
        share_micro=0,
        money_micro=0,
        centres=centres_of(understanding) if understanding is not None else b"",
        task_shares_micro=(),
        arms=tuple(arm_weights(str(number), number, estimator) for number in range(len(models))),
    )
    expectations = Expectations(weights)
    reader = Reader(words_of(understanding, 1, Plan().words_max)) if understanding is not None else None
    rows = [
        expectations.estimates(reader.signals(text) if reader is not None else b"", 0).quality_micro for text in texts
    ]
    return np.array([[row[str(number)] for number in range(len(models))] for row in rows], float) / MICRO
