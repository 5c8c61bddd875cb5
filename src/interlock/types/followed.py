"""An entry of a ledger as a follower hands it on."""

from __future__ import annotations

from typing import Any, NamedTuple


class FollowedEntry(NamedTuple):
    """An entry: its place in the tree (from 0), the tree's hash of its leaf (hex), and its leaf."""

    position: int
    hash: str
    leaf: dict[str, Any]
