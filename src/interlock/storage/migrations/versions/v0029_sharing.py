"""Tenants that share how good answers were: whether they do, and the figures that leave them.

Revision: 0029
"""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nobody shares before they say so. What was given goes with the state that it is of."""
    op.execute("ALTER TABLE interlock.tenants ADD COLUMN learning_shares boolean NOT NULL DEFAULT false")
    op.execute(
        "CREATE TABLE interlock.router_shared ("
        " tenant_id interlock.id NOT NULL REFERENCES interlock.router_states ON DELETE CASCADE,"
        " arm text NOT NULL,"
        " outcomes_milli bigint NOT NULL CHECK (outcomes_milli > 0),"
        " mean_micro integer NOT NULL CHECK (mean_micro BETWEEN 0 AND 1000000),"
        " PRIMARY KEY (tenant_id, arm))"
    )
    op.execute("ALTER TABLE interlock.router_shared ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE interlock.router_shared FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON interlock.router_shared TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        "CREATE POLICY every_tenant ON interlock.router_shared TO interlock_platform, interlock_migrator"
        " USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, DELETE ON interlock.router_shared TO interlock_app, interlock_platform")
