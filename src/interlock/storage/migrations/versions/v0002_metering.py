"""The request class of an alias, and what measures a source's energy.

Revision: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two columns; what is stored has neither."""
    op.execute("ALTER TABLE interlock.sources ADD COLUMN meter jsonb")
    op.execute("ALTER TABLE interlock.aliases ADD COLUMN request_class text NOT NULL DEFAULT ''")
