"""What judges a tenant's answers, budgets on that, and no feedback on calls that nobody made.

Revision: 0027
"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# As in v0023, but for what is asked beside a call: nobody was given such an answer.
_FEEDBACK_CALL = r"""
CREATE OR REPLACE FUNCTION interlock.feedback_call(tenant text, wanted text, of_epoch text, giver text)
    RETURNS TABLE (subject text, recording text, data_class integer, arriving boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.subject, convert_from(e.leaf, 'UTF8')::json #>> '{what,recording}',
        (convert_from(e.leaf, 'UTF8')::json #>> '{what,data_class}')::integer,
        EXISTS (SELECT FROM interlock.ledger_inbox AS i WHERE i.tenant_id = tenant AND i.epoch = of_epoch)
    FROM (SELECT 1) AS one LEFT JOIN interlock.ledger_entries AS e
        ON e.tenant_id = tenant AND e.request = wanted AND e.kind = 'call' AND giver IN (e.principal_id, e.subject)
        AND NOT convert_from(e.leaf, 'UTF8')::jsonb ?| ARRAY['shadow_of', 'judge_of', 'challenger_of']
$$;
"""


def upgrade() -> None:
    """Tenants from before have no judge."""
    op.execute("ALTER TABLE interlock.tenants ADD COLUMN judging jsonb")
    op.execute("ALTER TABLE interlock.budgets DROP CONSTRAINT budgets_kind_check")
    op.execute(
        "ALTER TABLE interlock.budgets ADD CONSTRAINT budgets_kind_check"
        " CHECK (kind IN ('tenant', 'team', 'principal', 'key', 'model', 'shadow', 'judge'))"
    )
    op.execute(_FEEDBACK_CALL)
