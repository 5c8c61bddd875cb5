"""Receipts: the public key of each epoch that signs them.

Revision: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0009"
branch_labels = None
depends_on = None

# NULL in epochs from before, and until the first records of an epoch arrive, which name it.
_STEPS = r"""
ALTER TABLE interlock.ledger_epochs ADD COLUMN receipt_key bytea CHECK (octet_length(receipt_key) = 32);
"""


def upgrade() -> None:
    """Epochs from before give no receipts."""
    op.execute(_STEPS)
