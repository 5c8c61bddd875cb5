"""Administration and the ledger: changes as entries, changes of the signing key, nodes that never return.

Revision: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# `salt` is NULL in rows from before. What the control plane puts into the inbox has no number: the sequencer gives it
# one. `later`: only before a checkpoint, together with what is like it.
_STEPS = r"""
ALTER TABLE interlock.changes ADD COLUMN salt bytea CHECK (octet_length(salt) = 32);
ALTER TABLE interlock.ledger_inbox ALTER COLUMN n DROP NOT NULL;
ALTER TABLE interlock.ledger_inbox ADD COLUMN later boolean NOT NULL DEFAULT false;
CREATE INDEX ON interlock.ledger_inbox (tenant_id, id) WHERE later;
CREATE INDEX ON interlock.ledger_inbox (tenant_id) WHERE epoch = '0000000000000000';
CREATE INDEX ON interlock.ledger_entries (tenant_id, position) WHERE kind IN ('change', 'erasure');
-- the control plane's epoch is in every tree and of no node
DELETE FROM interlock.ledger_epochs WHERE epoch = '0000000000000000';
DELETE FROM interlock.ledger_shipped WHERE epoch = '0000000000000000';
REVOKE INSERT ON interlock.ledger_epochs FROM interlock_app;
REVOKE SELECT, INSERT, UPDATE ON interlock.ledger_shipped FROM interlock_app;
GRANT INSERT ON interlock.ledger_inbox TO interlock_platform;
GRANT SELECT ON interlock.ledger_sequenced TO interlock_platform;

-- Of the whole installation; private keys are in files.
CREATE TABLE interlock.ledger_rotations (
    k bigint PRIMARY KEY,
    at_ns bigint NOT NULL,
    old_key text NOT NULL UNIQUE,
    new_key text NOT NULL UNIQUE,
    statement text NOT NULL
);
GRANT SELECT ON interlock.ledger_rotations TO interlock_app, interlock_platform, interlock_sequencer;
GRANT INSERT ON interlock.ledger_rotations TO interlock_sequencer;

-- `lost_ns`: what the epoch admitted between its watermark and this instant may be missing for good. `returned`: its
-- node came back, and was refused it. `retired_ns`: an administrator's word that the node takes no calls from then on.
ALTER TABLE interlock.ledger_epochs ADD COLUMN lost_ns bigint CHECK (lost_ns > watermark_ns);
ALTER TABLE interlock.ledger_epochs ADD COLUMN returned boolean NOT NULL DEFAULT false;
ALTER TABLE interlock.ledger_nodes ADD COLUMN retired_ns bigint CHECK (retired_ns > registered_ns);
"""


def upgrade() -> None:
    """Rows from before stay as they are: no entry speaks of them."""
    op.execute(_STEPS)
