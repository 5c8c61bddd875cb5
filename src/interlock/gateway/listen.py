"""Listening sockets: one per worker on the same address, so that the kernel spreads connections evenly.

With SO_REUSEPORT each socket has its own queue, and a worker that dies would leave its queue unserved. So the node
keeps every socket open for the worker's successor; only while a worker cannot be started again at once is its socket
closed, and the kernel sends new connections to the others. A socket that is bound but does not listen holds the port
in between.
"""

from __future__ import annotations

import errno
import socket

from interlock.errors import ConfigError

BACKLOG = 1024


class Listening:
    """The gateway's address. `port` is the real one, also when 0 was asked for."""

    def __init__(self, host: str, port: int) -> None:
        """Raises ConfigError when the address cannot be used, or somebody else listens on it."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as e:
            raise ConfigError(f"gateway_host {host!r} cannot be resolved: {e.strerror}", param="gateway_host") from None
        self._family = found[0][0]
        self._ip = str(found[0][4][0])
        self.host = host
        self.port = port
        self._held = self._hold()
        self._sockets: dict[int, socket.socket] = {}

    def socket_for(self, slot: int) -> socket.socket:
        """The listening socket of a worker's slot, opened when it is not open. Raises ConfigError."""
        sock = self._sockets.get(slot)
        if sock is None:
            sock = self._bound(reuse=True)
            sock.listen(BACKLOG)
            self._sockets[slot] = sock
        return sock

    def give_up(self, slot: int) -> None:
        """Close a slot's socket, so that connections go to the other workers. Not the last one: its queue waits."""
        if len(self._sockets) > 1 and slot in self._sockets:
            self._sockets.pop(slot).close()

    def close(self) -> None:
        """Close all sockets: new connections are refused once the workers have closed theirs."""
        for sock in (self._held, *self._sockets.values()):
            sock.close()
        self._sockets.clear()

    @property
    def url(self) -> str:
        """Where this gateway is reached, without scheme: host and port."""
        host = self.host if ":" not in self.host else f"[{self.host}]"
        return f"{host}:{self.port}"

    def _hold(self) -> socket.socket:
        """A bound socket that may share its port, after proof that nobody else has it: sharing would hide that."""
        alone = self._bound(reuse=False)
        self.port = alone.getsockname()[1]
        alone.close()
        return self._bound(reuse=True)

    def _bound(self, *, reuse: bool) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self._family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((self._ip, self.port))
        except OSError as e:
            sock.close()
            where = f"{self._ip}:{self.port}"
            if e.errno == errno.EADDRINUSE:
                raise ConfigError(f"{where} is in use by another program", param="gateway_port") from None
            raise ConfigError(f"the gateway cannot listen on {where}: {e.strerror}", param="gateway_host") from None
        return sock
