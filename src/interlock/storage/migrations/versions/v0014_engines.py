"""Managed engines: what their supervisors say of them, beside what discovery found.

Revision: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sources from before have no engine of ours."""
    op.execute(
        "ALTER TABLE interlock.sources ADD COLUMN engine_state text NOT NULL DEFAULT '',"
        " ADD COLUMN engine_report jsonb NOT NULL DEFAULT '{}', ADD COLUMN engine_seen_at timestamptz"
    )
