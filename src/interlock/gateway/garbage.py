"""The garbage collector in processes that handle one call after another: workers and the shipper."""

from __future__ import annotations

import gc

NEW = 20_000
"""Calls leave no reference cycles behind, so collecting often only costs; rarely still catches what does."""
NEW_OF_A_BATCH = 50_000
"""More than the shipper makes for one batch: all of that goes when the batch does, without being looked for."""


def collect_rarely(new: int = NEW) -> None:
    """Set aside what is there now, which stays, and look for garbage among the rest each time so much is new."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(new, 20, 50)
