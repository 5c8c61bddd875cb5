"""Indexes by which the ledger is searched: a caller, a model, a team, a source, calls that did not complete.

Revision: 0019
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# Newest first is by position: in the order of one of these the newest entries of a caller are its first ones, and a
# period is told within the index, without the rows. A common value is found without, by going back through positions.
_STEPS = r"""
CREATE INDEX ON interlock.ledger_entries (tenant_id, principal_id, position, at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, model, position, at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, team_id, position, at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, source, position, at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, state, position, at_ns) WHERE state <> 'completed';
DROP INDEX interlock.ledger_entries_tenant_id_principal_id_at_ns_idx;
DROP INDEX interlock.ledger_entries_tenant_id_model_at_ns_idx;
"""


def upgrade() -> None:
    """Takes a while on a large ledger, during which no entries are placed."""
    op.execute(_STEPS)
