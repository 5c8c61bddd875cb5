"""Ports that stay free until a test's process listens on them, and between two lives of it."""

from __future__ import annotations

import random
import socket

RANGE = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections and to whoever asks for any port (32768 and above)."""

_given: set[int] = set()
_random = random.SystemRandom()  # processes that were forked must not choose alike


def free_port() -> int:
    """A port of this machine that nothing listens on, which nobody gets who did not ask for it by number. Each is
    given once to a process."""
    while True:
        port = _random.choice(RANGE)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
