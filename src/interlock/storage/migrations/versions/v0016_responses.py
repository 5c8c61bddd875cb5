"""Stored responses: what conversations of the Responses API go on from, encrypted under a key of their person.

Revision: 0016
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# `wrapped` opens with the installation's pepper; see interlock.gateway.states. An erasure deletes the key, and with it
# what is under it, also what is added at the same time.
_TABLES = r"""
CREATE TABLE interlock.stored_response_keys (
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    name bytea NOT NULL CHECK (octet_length(name) = 16),
    wrapped bytea NOT NULL,
    PRIMARY KEY (tenant_id, subject),
    UNIQUE (tenant_id, subject, name)
);
CREATE TABLE interlock.stored_responses (
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    id text NOT NULL,
    key_name bytea NOT NULL,
    previous text NOT NULL,
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, subject, id),
    FOREIGN KEY (tenant_id, subject, key_name)
        REFERENCES interlock.stored_response_keys (tenant_id, subject, name) ON DELETE CASCADE
);
ALTER TABLE interlock.stored_responses ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX ON interlock.stored_responses (expires_at);
"""


def upgrade() -> None:
    """Create the tables: nodes write them, an erasure deletes from them, nobody else looks at them."""
    op.execute(_TABLES)
    for table in ("stored_response_keys", "stored_responses"):
        op.execute(f"ALTER TABLE interlock.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE interlock.{table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON interlock.{table} TO interlock_app"
            " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
            " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        )
        op.execute(
            f"CREATE POLICY every_tenant ON interlock.{table} TO interlock_migrator, interlock_lender"
            " USING (true) WITH CHECK (true)"
        )
    op.execute("GRANT SELECT, INSERT ON interlock.stored_response_keys TO interlock_lender")
    op.execute("GRANT SELECT, INSERT, DELETE ON interlock.stored_responses TO interlock_lender")
    op.execute("GRANT SELECT (tenant_id, subject), DELETE ON interlock.stored_response_keys TO interlock_app")
