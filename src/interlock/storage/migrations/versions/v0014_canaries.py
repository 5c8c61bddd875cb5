"""Canaries and shadows of aliases, their sunset, and what nodes report of canaries.

Revision: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# A report of a platform alias has no tenant.
_STEPS = r"""
ALTER TABLE interlock.aliases ADD COLUMN canary jsonb;
ALTER TABLE interlock.aliases ADD COLUMN deprecated_s bigint NOT NULL DEFAULT 0;
ALTER TABLE interlock.aliases ADD COLUMN successor text NOT NULL DEFAULT '';
ALTER TABLE interlock.aliases ADD COLUMN shadow jsonb;
ALTER TABLE interlock.budgets DROP CONSTRAINT budgets_kind_check;
ALTER TABLE interlock.budgets ADD CONSTRAINT budgets_kind_check
    CHECK (kind IN ('tenant', 'team', 'principal', 'key', 'model', 'shadow'));
CREATE TABLE interlock.canary_reports (
    canary text NOT NULL,
    node text NOT NULL,
    tenant_id interlock.id,
    alias text NOT NULL,
    at_ns bigint NOT NULL,
    words text NOT NULL,
    PRIMARY KEY (canary, node)
);
ALTER TABLE interlock.canary_reports ENABLE ROW LEVEL SECURITY;
ALTER TABLE interlock.canary_reports FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON interlock.canary_reports TO interlock_app
    USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))
    WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)));
CREATE POLICY every_tenant ON interlock.canary_reports TO interlock_platform, interlock_migrator, interlock_lender
    USING (true) WITH CHECK (true);
GRANT INSERT ON interlock.canary_reports TO interlock_lender;
GRANT SELECT, UPDATE, DELETE ON interlock.canary_reports TO interlock_platform;
"""


def upgrade() -> None:
    """Aliases from before have no canary and are not about to go."""
    op.execute(_STEPS)
