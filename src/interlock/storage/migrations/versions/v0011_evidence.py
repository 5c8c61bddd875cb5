"""Receipts: the public key of each epoch that signs them. Documents: the keyed hashes that calls are found by.

Revision: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# NULL in epochs from before, and until the first records of an epoch arrive, which name it.
_STEPS = r"""
ALTER TABLE interlock.ledger_epochs ADD COLUMN receipt_key bytea CHECK (octet_length(receipt_key) = 32);
ALTER TABLE interlock.ledger_entries ADD COLUMN document bytea CHECK (octet_length(document) = 32);
CREATE INDEX ON interlock.ledger_entries (tenant_id, document) WHERE document IS NOT NULL;
"""


def upgrade() -> None:
    """Epochs from before give no receipts."""
    op.execute(_STEPS)
