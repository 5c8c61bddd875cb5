"""Managed engines: what their supervisors say of them. Nodes: the database's time beside their own.

Revision: 0012
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sources from before have no engine of ours; nodes tell the time when they are heard of next."""
    op.execute(
        "ALTER TABLE interlock.sources ADD COLUMN engine_state text NOT NULL DEFAULT '',"
        " ADD COLUMN engine_report jsonb NOT NULL DEFAULT '{}', ADD COLUMN engine_seen_at timestamptz"
    )
    op.execute("ALTER TABLE interlock.nodes ADD COLUMN stored_at timestamptz DEFAULT clock_timestamp()")
    op.execute("UPDATE interlock.nodes SET stored_at = NULL")
