"""How urgent calls are: by key, principal and alias; tenants' shares of a source; usage by class.

Revision: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is stored is interactive, as before; sums from before have no class."""
    for table in ("api_keys", "principals", "aliases"):
        op.execute(
            f"ALTER TABLE interlock.{table} ADD COLUMN workload smallint NOT NULL DEFAULT 0"
            " CHECK (workload BETWEEN 0 AND 2)"
        )
    op.execute("GRANT SELECT (workload) ON interlock.api_keys TO interlock_app")
    op.execute(
        "ALTER TABLE interlock.sources ADD COLUMN priority_scheduling boolean NOT NULL DEFAULT false,"
        " ADD COLUMN shares jsonb NOT NULL DEFAULT '{}'"
    )
    op.execute(
        "ALTER TABLE interlock.ledger_usage ADD COLUMN workload text NOT NULL DEFAULT '',"
        " DROP CONSTRAINT ledger_usage_pkey, ADD PRIMARY KEY"
        " (tenant_id, day, team_id, principal_id, source, model, request_class, workload)"
    )
