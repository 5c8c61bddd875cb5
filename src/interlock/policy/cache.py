"""A bounded map whose hit costs one dictionary look-up."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Generations(Generic[K, V]):
    """Keeps at most `size` entries: a young half that is filled, and an old half that is dropped when it is full.

    An entry that is asked for while old moves to the young half, so what is used stays. This is LRU to within half
    the size, without the bookkeeping that LRU does at every hit.
    """

    def __init__(self, size: int) -> None:
        self._half = max(1, size // 2)
        self.young: dict[K, V] = {}
        """Callers on a hot path may look here first, before `get`."""
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, or None."""
        value = self.young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry."""
        if len(self.young) >= self._half and key not in self.young:
            self._old = dict(self.young)
            self.young.clear()
        self.young[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self.young.clear()
        self._old.clear()

    def __len__(self) -> int:
        return len(self.young) + sum(key not in self.young for key in self._old)
