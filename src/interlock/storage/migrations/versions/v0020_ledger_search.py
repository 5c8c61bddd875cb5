"""Indexes by which the ledger is searched for what is rare: a team, a source, calls that did not complete.

Revision: 0020
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0016"
branch_labels = None
depends_on = None

# A common value is found by going back through positions; one that few entries have, or none, only by an index.
_STEPS = r"""
CREATE INDEX ON interlock.ledger_entries (tenant_id, team_id, position);
CREATE INDEX ON interlock.ledger_entries (tenant_id, source, position);
CREATE INDEX ON interlock.ledger_entries (tenant_id, state, position) WHERE state <> 'completed';
"""


def upgrade() -> None:
    """Takes a while on a large ledger, during which no entries are placed."""
    op.execute(_STEPS)
