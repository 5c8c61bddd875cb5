"""Connections: one bounded pool, and transactions that take their database role before anything else.

    store = Store(url, settings)
    with store.tenant("ten_...") as conn:      # interlock_app, this tenant's rows only
        teams.insert(conn, team, author)
    with store.platform() as conn: ...         # interlock_platform: crosses tenants
    with store.compiling() as conn: ...        # interlock_compiler: None when another process compiles

Role, tenant and time limits are set for the transaction only (`set_config(..., is_local => true)`), so that nothing of
one use is left for the next and poolers in transaction mode work. Outside a transaction a connection has no role.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import psycopg
from psycopg import Connection, IsolationLevel, Rollback, sql
from psycopg_pool import ConnectionPool, PoolTimeout

from interlock.errors import StoreError
from interlock.settings import Settings
from interlock.storage import roles
from interlock.storage.faults import mapped
from interlock.storage.snapshots import take_compile_lock

_ENTER = (
    "SELECT set_config('role', %s, true), set_config('interlock.tenant_id', %s, true),"
    " set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)
_COMPILER_ROLE = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(roles.COMPILER))
_IDLE_IN_TRANSACTION_MS = 60_000
_RECONNECT_S = 4.0


def connect_arguments(settings: Settings, name: str) -> dict[str, Any]:
    """Keyword arguments for `psycopg.connect` that all our connections share. `name` is shown in pg_stat_activity."""
    return {
        "autocommit": True,
        "client_encoding": "utf8",
        "connect_timeout": max(1, -(-settings.database_connect_timeout_ms // 1000)),
        "application_name": f"interlock {name}",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": settings.database_statement_timeout_ms,
        "prepare_threshold": None,
    }


class Store:
    """The database as the control process sees it. Threads may share one; a connection belongs to one thread.

    Opening does not wait for the database: it may be away, and every use says so (StoreError) until it is back.
    """

    def __init__(self, url: str, settings: Settings, *, name: str = "control") -> None:
        self.url = url
        self._statement_timeout = str(settings.database_statement_timeout_ms)
        self._lock_timeout = str(min(5000, settings.database_statement_timeout_ms))
        self._pool: ConnectionPool[Connection[Any]] = ConnectionPool(
            url,
            kwargs=connect_arguments(settings, name),
            min_size=0,
            max_size=settings.database_pool_max,
            timeout=settings.database_connect_timeout_ms / 1000,
            max_waiting=settings.database_pool_max * 16,
            max_idle=300.0,
            reconnect_timeout=_RECONNECT_S,
            check=ConnectionPool.check_connection,
            name=f"interlock {name}",
            open=False,
        )
        self._pool.open()
        self._lock = threading.Lock()
        self._lent = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and stop the pool's threads. Uses after this raise StoreError."""
        self._pool.close()

    def stats(self) -> dict[str, int]:
        """The pool's figures (psycopg_pool's names: pool_size, pool_available, requests_waiting, ...)."""
        return self._pool.get_stats()

    @contextmanager
    def tenant(self, tenant_id: str) -> Iterator[Connection[Any]]:
        """A transaction in the name of one tenant: row-level security shows and takes only its rows.

        Commits at the end of the body, rolls back when it raises. Raises StoreError, Conflict, BadRequest.
        """
        if not tenant_id:
            raise ValueError("a tenant's transaction needs the tenant's id")
        with self._transaction(roles.APP, tenant_id) as conn:
            yield conn

    @contextmanager
    def platform(self) -> Iterator[Connection[Any]]:
        """A transaction in the name of the platform, across tenants. As `tenant` otherwise."""
        with self._transaction(roles.PLATFORM) as conn:
            yield conn

    @contextmanager
    def node(self) -> Iterator[Connection[Any]]:
        """A transaction of a gateway node: compiled snapshots and the list of nodes, nothing else."""
        with self._transaction(roles.NODE) as conn:
            yield conn

    @contextmanager
    def shipping(self) -> Iterator[Connection[Any]]:
        """A transaction of a shipper: it adds to the ledger's inbox, contents and keys."""
        with self._transaction(roles.SHIPPER) as conn:
            yield conn

    @contextmanager
    def sequencing(self) -> Iterator[Connection[Any]]:
        """A transaction of the sequencer: inbox to trees."""
        with self._transaction(roles.SEQUENCER) as conn:
            yield conn

    @contextmanager
    def compiling(self) -> Iterator[Connection[Any] | None]:
        """The compile lock and, inside it, one REPEATABLE READ transaction; None while another process compiles."""
        with self._lend() as conn:
            conn.isolation_level = IsolationLevel.REPEATABLE_READ
            try:
                held = False
                with conn.transaction() as transaction:
                    conn.execute(_COMPILER_ROLE)
                    if not take_compile_lock(conn):
                        raise Rollback(transaction)
                    held = True
                    self._take(conn, roles.COMPILER, "")
                    yield conn
                if not held:
                    yield None
            finally:
                if not conn.closed:
                    conn.isolation_level = None

    def check(self) -> None:
        """Ask the database for nothing. Raises StoreError when it is away or has no schema."""
        with self.node() as conn:
            conn.execute("SELECT version FROM interlock.snapshot_head ORDER BY version DESC LIMIT 1")

    @contextmanager
    def _transaction(self, role: roles.Role, tenant_id: str = "") -> Iterator[Connection[Any]]:
        with self._lend() as conn, conn.transaction():
            self._take(conn, role, tenant_id)
            yield conn

    @contextmanager
    def _lend(self) -> Iterator[Connection[Any]]:
        """A connection of the pool, given back whatever happens; the driver's errors as ours."""
        with mapped(), ExitStack() as stack:
            try:
                conn = stack.enter_context(self._pool.connection())
            except PoolTimeout:
                if self._lent < self._pool.max_size:
                    raise StoreError("the database is away: no connection can be opened", code="store_away") from None
                raise
            with self._lock:
                self._lent += 1
            try:
                yield conn
            finally:
                with self._lock:
                    self._lent -= 1

    def _take(self, conn: Connection[Any], role: roles.Role, tenant_id: str) -> None:
        limits = (self._statement_timeout, self._lock_timeout, str(_IDLE_IN_TRANSACTION_MS))
        conn.execute(_ENTER, (role, tenant_id, *limits))


def connect(url: str, settings: Settings, *, name: str) -> Connection[Any]:
    """One connection outside the pool, in autocommit mode and without a role. Raises StoreError. Close it."""
    with mapped():
        return psycopg.connect(url, **connect_arguments(settings, name))


def away(error: Exception) -> bool:
    """Whether an error says that the database cannot be reached just now, so that trying later may help."""
    return isinstance(error, StoreError) and error.code in ("store_away", "store_busy", "store_timeout")
