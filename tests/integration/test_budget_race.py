"""A seeded sample of the budget proof; `make prove` plays 200 rounds. The seed is in the message of a failure."""

from __future__ import annotations

import os
import random

from tests.prove.budget import prove


def test_a_budget_is_spent_to_its_end_and_never_beyond() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(rounds=2, seed=seed, progress=False)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])
