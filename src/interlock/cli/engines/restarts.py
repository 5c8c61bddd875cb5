"""When an engine that ended is started again. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque


class Restarts:
    """At most `most` restarts within `window_s`; the pause before each is `first_s`, doubled, up to `longest_s`."""

    def __init__(self, most: int, window_s: float, first_s: float, longest_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._at: deque[float] = deque()
        self.count = 0
        """Restarts altogether."""

    def failed(self, now_s: float) -> float | None:
        """The engine has failed. The seconds to wait before it is started again, or None: it is given up."""
        while self._at and now_s - self._at[0] >= self._window_s:
            self._at.popleft()
        if len(self._at) >= self._most:
            return None
        pause_s = min(self._longest_s, self._first_s * 2.0 ** len(self._at))
        self._at.append(now_s)
        self.count += 1
        return pause_s
