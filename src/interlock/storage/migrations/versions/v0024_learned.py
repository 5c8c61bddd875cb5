"""What the router learns: its state, and what it is told to do with it, per tenant.

Revision: 0024
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """States go with their tenants; the parts of the snapshot that were made of them stay, for replays."""
    op.execute(
        "CREATE TABLE interlock.router_states ("
        " tenant_id interlock.id PRIMARY KEY REFERENCES interlock.tenants ON DELETE CASCADE,"
        " version bigint NOT NULL,"
        " words bytea NOT NULL,"
        " weights bytea NOT NULL,"
        " updated_at timestamptz NOT NULL)"
    )
    op.execute("ALTER TABLE interlock.router_states ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE interlock.router_states FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON interlock.router_states TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        "CREATE POLICY every_tenant ON interlock.router_states"
        " TO interlock_platform, interlock_migrator, interlock_compiler USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT ON interlock.router_states TO interlock_compiler")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.router_states TO interlock_app, interlock_platform")
    op.execute("DELETE FROM interlock.snapshot_dirty WHERE part = 'router'")  # a part that there was before
    op.execute("ALTER TABLE interlock.tenants ADD COLUMN learning text NOT NULL DEFAULT 'on'")
