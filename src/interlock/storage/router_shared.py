"""What tenants that share outcomes give each other, by tenant and model. It is all of a tenant that others learn of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from psycopg import Connection


class Shared(NamedTuple):
    """What a tenant gives of a model: outcomes in thousandths, and their mean reward in millionths."""

    arm: str
    outcomes_milli: int
    mean_micro: int


def publish(conn: Connection[Any], tenant_id: str, given: Mapping[str, tuple[int, int]]) -> None:
    """Give this, (outcomes, mean) by arm, in place of what was given before; in the transaction that publishes the
    tenant's state.

    INVARIANT: nothing is kept of a tenant that does not share, whatever whoever calls this believes.
    """
    conn.execute("DELETE FROM interlock.router_shared WHERE tenant_id = %s", (tenant_id,))
    if given:
        conn.execute(
            "INSERT INTO interlock.router_shared (tenant_id, arm, outcomes_milli, mean_micro)"
            " SELECT t.id, g.arm, g.outcomes_milli, g.mean_micro FROM interlock.tenants AS t,"
            " unnest(%s::text[], %s::bigint[], %s::integer[]) AS g (arm, outcomes_milli, mean_micro)"
            " WHERE t.id = %s AND t.learning_shares",
            (list(given), [each[0] for each in given.values()], [each[1] for each in given.values()], tenant_id),
        )


def of_tenant(conn: Connection[Any], tenant_id: str) -> list[Shared]:
    """What a tenant gives now. The tenant's or the platform's transaction."""
    rows = conn.execute(
        "SELECT arm, outcomes_milli, mean_micro FROM interlock.router_shared WHERE tenant_id = %s ORDER BY arm",
        (tenant_id,),
    )
    return [Shared(*row) for row in rows]


def everything(conn: Connection[Any]) -> dict[str, dict[str, tuple[int, int]]]:
    """(outcomes, mean) by arm and tenant. The platform's transaction."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    rows = conn.execute("SELECT arm, tenant_id, outcomes_milli, mean_micro FROM interlock.router_shared")
    for arm, tenant_id, outcomes, mean in rows:
        found.setdefault(arm, {})[tenant_id] = (outcomes, mean)
    return found


def keep_only(conn: Connection[Any], tenant_ids: Collection[str]) -> int:
    """Remove what tenants other than these gave; how many figures that were. The platform's transaction."""
    gone = conn.execute("DELETE FROM interlock.router_shared WHERE tenant_id <> ALL(%s)", (sorted(tenant_ids),))
    return gone.rowcount


def take_out(conn: Connection[Any], tenant_id: str, arm: str) -> None:
    """Give nothing more of an arm."""
    conn.execute("DELETE FROM interlock.router_shared WHERE tenant_id = %s AND arm = %s", (tenant_id, arm))
