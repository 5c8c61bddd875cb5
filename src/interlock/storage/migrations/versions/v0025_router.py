"""What administrators say of models to the learner, what they had it forget, and what the learner tells of itself.

Revision: 0025
"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Priors and resets go with their tenant; the learner is one for all of them."""
    op.execute(
        "CREATE TABLE interlock.router_priors ("
        " id interlock.id PRIMARY KEY,"
        " tenant_id interlock.id NOT NULL REFERENCES interlock.tenants ON DELETE CASCADE,"
        " arm text NOT NULL,"
        " quality_micro integer NOT NULL CHECK (quality_micro BETWEEN 0 AND 1000000),"
        " outcomes integer NOT NULL CHECK (outcomes > 0),"
        " author text NOT NULL,"
        " why text NOT NULL,"
        " revision integer NOT NULL DEFAULT 1,"
        " created_at timestamptz NOT NULL,"
        " updated_at timestamptz NOT NULL,"
        " UNIQUE (tenant_id, arm))"
    )
    op.execute(
        "CREATE TABLE interlock.router_resets ("
        " tenant_id interlock.id NOT NULL REFERENCES interlock.tenants ON DELETE CASCADE,"
        " arm text NOT NULL,"
        " position bigint NOT NULL,"
        " version bigint NOT NULL,"
        " PRIMARY KEY (tenant_id, arm))"
    )
    for table in ("router_priors", "router_resets"):
        op.execute(f"ALTER TABLE interlock.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE interlock.{table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON interlock.{table} TO interlock_app"
            " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
            " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        )
        op.execute(
            f"CREATE POLICY every_tenant ON interlock.{table} TO interlock_platform, interlock_migrator"
            " USING (true) WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.{table} TO interlock_app, interlock_platform")
    op.execute(
        "CREATE TABLE interlock.learner_status (one boolean PRIMARY KEY DEFAULT true CHECK (one),"
        " host text NOT NULL, pid integer NOT NULL, started_at timestamptz NOT NULL, seen_at timestamptz NOT NULL,"
        " pupils integer NOT NULL, published bigint NOT NULL, outcomes bigint NOT NULL, entries bigint NOT NULL,"
        " behind bigint NOT NULL)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.learner_status TO interlock_platform")
