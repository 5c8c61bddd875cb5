"""What administrators tell the learner of one tenant: how good a model is, and what to forget.

Whoever publishes a state and whoever has something forgotten take turns per tenant (`in_turn`), so that nothing which
was forgotten is published once more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from psycopg import Connection, sql

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table

EVERYTHING = ""
"""The arm of a reset of all that was learned."""
_LOCK = 0x1EA3


class RouterPrior(msgspec.Struct, frozen=True):
    """What somebody says of an arm: `quality_micro`, its expected outcome in millionths, which counts beside what was
    seen as that many `outcomes` do. `author`, `why`: by whom and for what reason."""

    id: str
    tenant_id: str
    arm: str
    quality_micro: int
    outcomes: int
    author: str
    why: str


class Reset(NamedTuple):
    """Outcomes of an arm up to `position` of the tenant's ledger count no more. `version`: of the state then."""

    arm: str
    position: int
    version: int


class Guidance(NamedTuple):
    """All that was said of one tenant: (quality in millionths, outcomes) by arm, and resets by arm."""

    priors: dict[str, tuple[int, int]]
    resets: dict[str, Reset]

    def forgotten(self, arm: str, position: int) -> bool:
        """Whether what stands at a place of the ledger counts no more for an arm."""
        return any(
            position <= reset.position for name in (EVERYTHING, arm) if (reset := self.resets.get(name)) is not None
        )


TABLE = Table(
    "router_priors",
    "router_prior",
    RouterPrior,
    ("id", "tenant_id", "arm", "quality_micro", "outcomes", "author", "why"),
)


def in_turn(conn: Connection[Any], tenant_id: str) -> None:
    """Wait for others who publish or forget of this tenant; until the transaction ends they wait for us."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, tenant_id))


def guidance(conn: Connection[Any], tenant_id: str) -> Guidance:
    """What counts now for a tenant."""
    priors = {p.value.arm: (p.value.quality_micro, p.value.outcomes) for p in all_of(conn, tenant_id)}
    rows = conn.execute(
        "SELECT arm, position, version FROM interlock.router_resets WHERE tenant_id = %s", (tenant_id,)
    ).fetchall()
    return Guidance(priors, {row[0]: Reset(*row) for row in rows})


def all_of(conn: Connection[Any], tenant_id: str) -> list[Stored[RouterPrior]]:
    """What was said of a tenant's arms, in their order."""
    return TABLE.where(conn, sql.SQL("WHERE t.tenant_id = %s ORDER BY t.arm"), (tenant_id,))


def of_arm(conn: Connection[Any], tenant_id: str, arm: str) -> Stored[RouterPrior] | None:
    """What was said of one arm."""
    found = TABLE.where(conn, sql.SQL("WHERE t.tenant_id = %s AND t.arm = %s"), (tenant_id, arm))
    return found[0] if found else None


def put(conn: Connection[Any], prior: RouterPrior, by: Author) -> Stored[RouterPrior]:
    """Say it, instead of what was said of the arm before."""
    before = of_arm(conn, prior.tenant_id, prior.arm)
    if before is None:
        return TABLE.insert(conn, prior, by, action="set")
    return TABLE.update(conn, msgspec.structs.replace(prior, id=before.value.id), by, action="set")


def delete(conn: Connection[Any], prior_id: str, by: Author) -> Stored[RouterPrior]:
    """Unsay it. Raises NotFound."""
    return TABLE.delete(conn, prior_id, by)


def reset(conn: Connection[Any], tenant_id: str, reset: Reset) -> None:
    """Let what was seen up to here count no more. Of everything: resets of single arms are then of no use."""
    if reset.arm == EVERYTHING:
        conn.execute("DELETE FROM interlock.router_resets WHERE tenant_id = %s", (tenant_id,))
    conn.execute(
        "INSERT INTO interlock.router_resets AS t (tenant_id, arm, position, version) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, arm) DO UPDATE SET position = greatest(t.position, excluded.position),"
        " version = greatest(t.version, excluded.version)",
        (tenant_id, *reset),
    )
