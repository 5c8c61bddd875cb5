"""A seeded sample of the overflow proof; `make prove` offers 120 % for ten minutes."""

from __future__ import annotations

import os
import random

from tests.prove.overflow import prove


def test_only_the_excess_goes_to_the_cloud_and_what_must_stay_stays() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(seconds=7.0, seed=seed, progress=False)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])
