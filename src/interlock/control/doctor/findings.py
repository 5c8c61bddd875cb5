"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

SHOWN_MAX = 5
"""Names that a sentence lists; the rest are counted."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong (and makes the command fail), or weak: may be meant, and should be looked at."""

    level: Literal["wrong", "weak"]
    check: str
    words: str
    remedy: str


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, at most SHOWN_MAX of them."""
    all_names = list(names)
    more = f" and {len(all_names) - SHOWN_MAX} more" if len(all_names) > SHOWN_MAX else ""
    return ", ".join(all_names[:SHOWN_MAX]) + more
