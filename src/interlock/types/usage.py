"""What a call took: tokens, money, time. Integers only, so that sums are exact."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one call. `origin`: "engine" (reported), "counted" (by us), "reserved" (unknown: at its bound)."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    origin: str = "engine"

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens
