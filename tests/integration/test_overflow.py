"""A seeded sample of the overflow proof; `make prove` offers 120 % for ten minutes."""

from __future__ import annotations

import os
import random

import pytest

from tests.prove.overflow import prove

TRIES = 3
LATE_MS = 100
"""A call is offered about so often. Where one was offered that much too late, the machine did not keep time."""


def test_only_the_excess_goes_to_the_cloud_and_what_must_stay_stays() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    for number in range(TRIES):
        found = prove(seconds=7.0, seed=seed + number, progress=False)
        said = "\n".join([f"seed {seed + number}, {found['late_ms_max']} ms late", *found["failures"][:20]])
        assert not set(found["failures"]) - set(found["of_time"]), said
        assert not found["of_time"] or found["late_ms_max"] >= LATE_MS, said
        if not found["of_time"]:
            return
    pytest.skip(f"this machine is too busy to offer calls in time: {said}")
