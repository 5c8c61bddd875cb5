"""Waiting for the database to say that something changed (LISTEN), with a time limit, surviving outages."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection, sql

from interlock.errors import StoreError
from interlock.settings import Settings
from interlock.storage import roles
from interlock.storage.faults import mapped
from interlock.storage.pool import connect, connect_arguments

RESTED_S = 1.0


class Listener:
    """Listens on some channels over a connection of its own. One thread uses it.

    A notification that arrives while the connection is down is lost: poll as well.
    """

    def __init__(self, url: str, settings: Settings, *channels: str) -> None:
        self._url = url
        self._settings = settings
        self._channels = channels
        self._conn: Connection[Any] | None = None

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, timeout_s: float) -> list[tuple[str, str]]:
        """The (channel, payload) pairs that arrived: at once when there are any, else the first within `timeout_s`.

        An empty list when none came. Connects again when the connection was lost. Raises StoreError when it cannot.
        """
        try:
            with mapped():
                if self._conn is None:
                    self._conn = self._connect()
                return [(n.channel, n.payload) for n in self._conn.notifies(timeout=timeout_s, stop_after=1)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; `wait` would open another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _connect(self) -> Connection[Any]:
        conn = connect(self._url, self._settings, name="listener")
        for channel in self._channels:
            conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        return conn


async def connect_node(
    url: str, settings: Settings, *channels: str, role: roles.Role = roles.NODE
) -> AsyncConnection[Any]:
    """An asynchronous connection of a gateway node: autocommit, of this role, listening on `channels`.

    Raises StoreError. Close it.
    """
    with mapped():
        conn = await psycopg.AsyncConnection.connect(url, **connect_arguments(settings, "node"))
        try:
            await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            await conn.execute(
                "SELECT set_config('statement_timeout', %s, false)", (str(settings.database_statement_timeout_ms),)
            )
            for channel in channels:
                await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except BaseException:
            await conn.close()
            raise
        return conn


class NodeConnection:
    """One connection of a gateway node, of a role, opened when it is needed and again after it was closed.

    One that rested for RESTED_S is tried first: of a database that was away meanwhile it knows nothing, and whoever
    came next would pay for that.
    """

    def __init__(self, url: str, settings: Settings, role: roles.Role) -> None:
        self._url = url
        self._settings = settings
        self._role: roles.Role = role
        self._conn: AsyncConnection[Any] | None = None
        self._used_at = 0.0

    async def get(self) -> AsyncConnection[Any]:
        """The connection. Raises StoreError when there is no database, or when it is away."""
        if not self._url:
            raise StoreError("this node has no database", code="store_away")
        now = time.monotonic()
        if self._conn is not None and now - self._used_at > RESTED_S and not self._conn.closed:
            try:
                await self._conn.execute("SELECT 1")
            except psycopg.Error:
                await self.close()
        if self._conn is None or self._conn.closed:
            self._conn = await connect_node(self._url, self._settings, role=self._role)
        self._used_at = now
        return self._conn

    async def close(self) -> None:
        """Close it; the next use opens another."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
