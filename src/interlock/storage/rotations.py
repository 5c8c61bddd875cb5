"""Changes of the ledger's signing key: who signs now, and the statements. Private keys are in files, never here.

While a tree is worked on, the lock of signing is shared; a change of keys takes it alone, so that no tree is signed by
the old key after the instant of the change.
"""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

_LOCK = 4_705_001


class RotationRow(msgspec.Struct, frozen=True):
    """A change of keys: verifier keys, and the statement that both signed. `k` counts from 1."""

    k: int
    at_ns: int
    old_key: str
    new_key: str
    statement: str


def share(conn: Connection[Any]) -> bool:
    """Keep the key from being changed until the transaction ends; False while it is being changed."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", (_LOCK,)).fetchone()
    return row is not None and bool(row[0])


def hold(conn: Connection[Any]) -> None:
    """Wait until nobody works on a tree, and keep all off until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def everything(conn: Connection[Any]) -> list[RotationRow]:
    """All changes, the first one first."""
    with conn.cursor(row_factory=class_row(RotationRow)) as cursor:
        return list(
            cursor.execute("SELECT k, at_ns, old_key, new_key, statement FROM interlock.ledger_rotations ORDER BY k")
        )


def current(conn: Connection[Any]) -> str:
    """The verifier key that signs now; "" while it has never been changed."""
    row = conn.execute("SELECT new_key FROM interlock.ledger_rotations ORDER BY k DESC LIMIT 1").fetchone()
    return "" if row is None else str(row[0])


def put(conn: Connection[Any], row: RotationRow) -> None:
    """A change, in the transaction of the change-over checkpoints. Raises Conflict if a key was there before."""
    conn.execute(
        "INSERT INTO interlock.ledger_rotations (k, at_ns, old_key, new_key, statement) VALUES"
        " (%(k)s, %(at_ns)s, %(old_key)s, %(new_key)s, %(statement)s)",
        msgspec.structs.asdict(row),
    )
