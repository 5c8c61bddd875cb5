"""What outcomes have shown by team, model, task and origin, beside the state of the router that it is of.

Revision: 0028
"""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """It goes with the state: what is forgotten there is forgotten here."""
    op.execute(
        "CREATE TABLE interlock.router_quality ("
        " tenant_id interlock.id PRIMARY KEY REFERENCES interlock.router_states ON DELETE CASCADE,"
        " version bigint NOT NULL,"
        " quality bytea NOT NULL,"
        " updated_at timestamptz NOT NULL)"
    )
    op.execute("ALTER TABLE interlock.router_quality ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE interlock.router_quality FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON interlock.router_quality TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        "CREATE POLICY every_tenant ON interlock.router_quality TO interlock_platform, interlock_migrator"
        " USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.router_quality TO interlock_app, interlock_platform")
