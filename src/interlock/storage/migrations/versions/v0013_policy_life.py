"""Versions and drafts of policies, policies that only report, and whether a tenant asks for a second person.

Revision: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STEPS = """
ALTER TABLE interlock.policies ADD COLUMN report_only boolean NOT NULL DEFAULT false;
ALTER TABLE interlock.tenants ADD COLUMN policy_approval boolean NOT NULL DEFAULT false;

-- The whole set of policies of a tenant (NULL: of the platform) as one change left it. Rows are only ever added.
CREATE TABLE interlock.policy_versions (
    tenant_id interlock.id REFERENCES interlock.tenants,
    number integer NOT NULL CHECK (number > 0),
    origin text NOT NULL CHECK (origin IN ('change', 'draft', 'rollback', 'upgrade')),
    of_number integer,
    policies jsonb NOT NULL,
    approvals jsonb NOT NULL,
    at timestamptz NOT NULL,
    author_id text NOT NULL,
    author text NOT NULL,
    reason text NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, number)
);

-- What the policies of a tenant (NULL: of the platform) may become: one at a time.
CREATE TABLE interlock.policy_drafts (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants,
    base integer NOT NULL CHECK (base >= 0),
    digest text NOT NULL,
    policies jsonb NOT NULL,
    report_only boolean NOT NULL,
    authors text[] NOT NULL,
    approvals jsonb NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id)
);
"""
# What is in force already can be rolled back to as well.
_FIRST = """
INSERT INTO interlock.policy_versions (tenant_id, number, origin, policies, approvals, at, author_id, author, reason)
SELECT tenant_id, 1, 'upgrade', jsonb_agg(jsonb_build_object('id', name, 'cedar', cedar, 'words', words,
        'template', template, 'parameters', parameters) ORDER BY name COLLATE "C"),
    '[]', now(), 'system', 'system', 'in force before versions were kept'
FROM interlock.policies GROUP BY tenant_id
"""


def upgrade() -> None:
    """Every policy stays in force."""
    op.execute(_STEPS)
    op.execute(_FIRST)
    for table in ("policy_versions", "policy_drafts"):
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
        op.execute(
            f"CREATE POLICY read_every_tenant ON interlock.{table} FOR SELECT TO interlock_compiler USING (true)"
        )
        op.execute(f"GRANT SELECT, INSERT ON interlock.{table} TO interlock_app, interlock_platform")
    op.execute("GRANT UPDATE, DELETE ON interlock.policy_drafts TO interlock_app, interlock_platform")
    op.execute("GRANT DELETE ON interlock.policy_versions TO interlock_platform")  # with the tenant
    op.execute("GRANT SELECT ON interlock.policy_drafts TO interlock_compiler")
    op.execute("INSERT INTO interlock.snapshot_dirty (part) VALUES ('trials')")
