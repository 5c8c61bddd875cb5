"""The request class of an alias.

Revision: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Aliases give a label to calls that name none."""
    op.execute("ALTER TABLE interlock.aliases ADD COLUMN request_class text NOT NULL DEFAULT ''")
