"""Issuers map groups to administrative roles.

Revision: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nobody gets a role by it: issuers that are there map no group."""
    op.execute("ALTER TABLE interlock.issuers ADD COLUMN group_roles jsonb NOT NULL DEFAULT '{}'")
