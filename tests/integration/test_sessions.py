"""A seeded sample of the sessions proof; `make prove` lets 300 users talk."""

from __future__ import annotations

import os
import random

from tests.prove.sessions import prove


def test_conversations_are_apart_and_find_their_own_turns_cached() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(users=60, turns=3, seed=seed, progress=False)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])


def test_conversations_stay_with_one_of_two_engines() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(users=40, turns=4, seed=seed, progress=False, replicas=2)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])
