"""What nodes tell of their sources' load, and whether somebody looks.

Revision: 0018
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nodes write `sources` into their own rows; the control plane says until when somebody watches, nodes read it."""
    op.execute("ALTER TABLE interlock.nodes ADD COLUMN sources bytea, ADD COLUMN sources_at timestamptz")
    op.execute("ALTER TABLE interlock.nodes SET (fillfactor = 50)")  # rows change every second while somebody watches
    op.execute(
        "CREATE TABLE interlock.live_watch (one boolean PRIMARY KEY DEFAULT true CHECK (one),"
        " until_at timestamptz NOT NULL)"
    )
    op.execute("GRANT SELECT ON interlock.live_watch TO interlock_node")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.live_watch TO interlock_platform")
