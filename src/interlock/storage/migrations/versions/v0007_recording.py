"""What of a call is kept: by tenant, team and alias.

Revision: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is stored keeps everything, as before."""
    for table in ("tenants", "teams", "aliases"):
        op.execute(
            f"ALTER TABLE interlock.{table} ADD COLUMN recording smallint NOT NULL DEFAULT 0"
            " CHECK (recording BETWEEN 0 AND 2)"
        )
