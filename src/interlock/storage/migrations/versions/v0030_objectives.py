"""Objectives and weights of aliases.

Revision: 0030
"""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Aliases from before have none."""
    op.execute("ALTER TABLE interlock.aliases ADD COLUMN slo jsonb, ADD COLUMN weights jsonb;")
