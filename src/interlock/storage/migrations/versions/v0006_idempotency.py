"""Idempotency keys: which call a key stands for, and its answer, encrypted under the key itself.

Revision: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# `digest` and `fingerprint` are keyed hashes of the key and of the request; see interlock.gateway.idempotency.
_TABLE = r"""
CREATE TABLE interlock.idempotency_keys (
    tenant_id interlock.id NOT NULL,
    principal_id text NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    subject text NOT NULL,
    epoch text NOT NULL,
    request text NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'lost')),
    answer bytea NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, principal_id, digest)
);
ALTER TABLE interlock.idempotency_keys ALTER COLUMN answer SET STORAGE EXTERNAL;
CREATE INDEX ON interlock.idempotency_keys (expires_at);
CREATE INDEX ON interlock.idempotency_keys (tenant_id, subject);
"""


def upgrade() -> None:
    """Create the table: nodes write it, an erasure deletes from it, nobody else looks at it."""
    op.execute(_TABLE)
    op.execute("ALTER TABLE interlock.idempotency_keys ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE interlock.idempotency_keys FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON interlock.idempotency_keys TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        "CREATE POLICY every_tenant ON interlock.idempotency_keys TO interlock_migrator, interlock_lender"
        " USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.idempotency_keys TO interlock_lender")
    op.execute("GRANT SELECT (tenant_id, subject), DELETE ON interlock.idempotency_keys TO interlock_app")
    op.execute("GRANT SELECT (epoch, settled) ON interlock.ledger_epochs TO interlock_lender")
