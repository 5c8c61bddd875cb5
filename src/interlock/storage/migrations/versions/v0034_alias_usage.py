"""Sums of usage by alias; what a period of a budget was charged may be more than a bigint holds.

Revision: 0034
"""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sums and feedback from before have no alias."""
    op.execute(
        "ALTER TABLE interlock.ledger_usage ADD COLUMN alias text NOT NULL DEFAULT '',"
        " DROP CONSTRAINT ledger_usage_pkey, ADD PRIMARY KEY"
        " (tenant_id, day, team_id, principal_id, source, model, request_class, workload, alias)"
    )
    op.execute("ALTER TABLE interlock.call_feedback ADD COLUMN alias text NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE interlock.budget_periods ALTER COLUMN settled TYPE numeric")
    op.execute("ALTER TABLE interlock.budget_alerts ALTER COLUMN used TYPE numeric")
