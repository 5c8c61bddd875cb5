"""What outcomes have shown by team, model, task and origin: one document per tenant, of the state that is in force."""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection

from interlock.types.quality import OTHERS, Qualities

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Qualities).decode


def publish(conn: Connection[Any], tenant_id: str, qualities: Qualities) -> None:
    """Put it in place of the one before, in the transaction that publishes its state: without a state there is none."""
    conn.execute(
        "INSERT INTO interlock.router_quality (tenant_id, version, quality, updated_at) VALUES (%s, %s, %s, now())"
        " ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version, quality = excluded.quality,"
        " updated_at = excluded.updated_at",
        (tenant_id, qualities.version, _encode(qualities)),
    )


def current(conn: Connection[Any], tenant_id: str) -> Qualities | None:
    """That of the state in force, or about to be; None where there is none. The tenant's or the platform's
    transaction."""
    row = conn.execute(
        "SELECT q.quality FROM interlock.router_quality AS q JOIN interlock.router_states AS s"
        " ON s.tenant_id = q.tenant_id AND s.version = q.version WHERE q.tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    return None if row is None else _decode(bytes(row[0]))


def take_out(conn: Connection[Any], tenant_id: str, arm: str, version: int) -> None:
    """Forget an arm, in a state of this version that is without it; and what is told of several, as it may be one."""
    row = conn.execute("SELECT quality FROM interlock.router_quality WHERE tenant_id = %s", (tenant_id,)).fetchone()
    if row is None:
        return
    before = _decode(bytes(row[0]))
    left = tuple(cell for cell in before.cells if cell.arm not in (arm, OTHERS))
    outcomes = sum(cell.outcomes for cell in left)
    publish(conn, tenant_id, msgspec.structs.replace(before, version=version, cells=left, outcomes=outcomes))
