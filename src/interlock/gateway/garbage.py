"""The garbage collector in processes that handle one call after another: workers and the shipper."""

from __future__ import annotations

import gc

THRESHOLD = (50_000, 20, 50)
"""Calls leave no reference cycles behind, so collecting often only costs; rarely still catches what does."""


def collect_rarely() -> None:
    """Set aside what is there now, which stays, and look for garbage among the rest at `THRESHOLD`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
