"""People sign in to the console at an issuer.

Revision: 0017
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nobody signs in by it: issuers that are there say nothing about it."""
    op.execute("ALTER TABLE interlock.issuers ADD COLUMN login jsonb")
