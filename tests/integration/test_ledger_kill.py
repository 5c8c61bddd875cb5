"""A seeded sample of the ledger proof; `make prove` plays 200 rounds. The seed is in the message of a failure."""

from __future__ import annotations

import os
import random

from tests.prove.ledger import prove


def test_each_call_is_in_the_ledger_once_and_the_export_is_complete() -> None:
    seed = int(os.environ.get("INTERLOCK_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    found = prove(rounds=4, seed=seed, progress=False)
    assert not found["failures"], "\n".join([f"seed {seed}", *found["failures"][:20]])
    assert found["answered_whole"] > 0
