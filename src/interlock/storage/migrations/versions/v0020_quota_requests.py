"""Requests for more of a budget.

Revision: 0020
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A request goes with its budget; what became of it stays in the list of changes."""
    op.execute(
        "CREATE TABLE interlock.quota_requests ("
        " id interlock.id PRIMARY KEY,"
        " tenant_id interlock.id NOT NULL REFERENCES interlock.tenants,"
        " budget_id interlock.id NOT NULL REFERENCES interlock.budgets ON DELETE CASCADE,"
        " asker_id text NOT NULL,"
        " asker text NOT NULL,"
        " amount bigint NOT NULL CHECK (amount > 0),"
        " why text NOT NULL,"
        " state text NOT NULL CHECK (state IN ('open', 'approved', 'refused', 'withdrawn')),"
        " decider text NOT NULL,"
        " answer text NOT NULL,"
        " revision integer NOT NULL DEFAULT 1,"
        " created_at timestamptz NOT NULL,"
        " updated_at timestamptz NOT NULL)"
    )
    op.execute("CREATE INDEX ON interlock.quota_requests (tenant_id, state, created_at)")
    op.execute("ALTER TABLE interlock.quota_requests ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE interlock.quota_requests FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON interlock.quota_requests TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        "CREATE POLICY every_tenant ON interlock.quota_requests TO interlock_platform, interlock_migrator"
        " USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.quota_requests TO interlock_app, interlock_platform")
