"""URLs of webhooks are sealed: what follows the host is often a secret.

Revision: 0032
"""

from __future__ import annotations

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is stored in the clear is sealed by the next start of a control process, which has the key."""
    op.execute(
        "ALTER TABLE interlock.alert_channels ADD COLUMN sealed bytea, ADD COLUMN mark text NOT NULL DEFAULT '';"
    )
