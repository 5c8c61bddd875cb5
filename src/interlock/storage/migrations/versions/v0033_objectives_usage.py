"""Sums of usage count calls with objectives, and those that met them.

Revision: 0033
"""

from __future__ import annotations

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sums from before have none: their calls are counted as if they had no objectives."""
    op.execute(
        "ALTER TABLE interlock.ledger_usage ADD COLUMN slo_calls bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN slo_met bigint NOT NULL DEFAULT 0"
    )
