"""Cascades of aliases.

Revision: 0026
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Aliases from before have none."""
    op.execute("ALTER TABLE interlock.aliases ADD COLUMN cascade jsonb;")
