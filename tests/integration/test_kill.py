"""A seeded sample of the kill proof; `make prove` plays 200 rounds. The seed is in the message of a failure."""

from __future__ import annotations

import os
import random

from tests.prove.kill import KINDS, Plan, prove

ROUNDS = 3


def test_no_byte_without_a_record_and_every_interrupted_call_is_found() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(rounds=ROUNDS, seed=seed, progress=False)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])
    assert found["rounds"] >= ROUNDS
    assert found["figures"]["completed at the client"] > 0


def test_a_plan_follows_from_its_seed_and_all_kinds_occur() -> None:
    plans = [Plan.of(7, number) for number in range(200)]
    assert plans == [Plan.of(7, number) for number in range(200)]
    assert {plan.kind for plan in plans} == set(KINDS)
    assert plans != [Plan.of(8, number) for number in range(200)]
