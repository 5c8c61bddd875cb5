"""Sums of usage count each step of a cascade where it ran.

Revision: 0031
"""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sums from before have no steps: what these took is with the model whose answer was given."""
    op.execute("ALTER TABLE interlock.ledger_usage ADD COLUMN steps bigint NOT NULL DEFAULT 0")
