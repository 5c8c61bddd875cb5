"""Feedback on answers: what counts of it, and what waits for its call.

Revision: 0023
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0021"
branch_labels = None
depends_on = None

# A row of call_feedback is reserved by the node that takes a feedback (position NULL) and becomes one that counts when
# the sequencer has placed both the feedback's entry and the call's: `position` is then the later of the two.
# `digest`: a keyed hash of what was said, '' after an erasure. `feedback_ids`: the requests that said it.
_TABLES = r"""
ALTER TABLE interlock.ledger_epochs ADD COLUMN calls_through bigint NOT NULL DEFAULT 0;

CREATE TABLE interlock.call_feedback (
    tenant_id interlock.id NOT NULL,
    request text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('thumb', 'score', 'corrected')),
    digest bytea NOT NULL,
    feedback_ids text[] NOT NULL,
    call_subject text NOT NULL,
    position bigint,
    entry bigint,
    at_ns bigint,
    day date,
    team_id text,
    principal_id text,
    source text,
    model text,
    version text,
    request_class text,
    workload text,
    thumb text CHECK (thumb IN ('up', 'down')),
    score_micro integer CHECK (score_micro BETWEEN 0 AND 1000000),
    corrected boolean NOT NULL DEFAULT false,
    reason text,
    reward_micro integer CHECK (reward_micro BETWEEN 0 AND 1000000),
    PRIMARY KEY (tenant_id, request, kind),
    CHECK ((position IS NULL) = (entry IS NULL) AND (position IS NULL) = (at_ns IS NULL))
);
CREATE INDEX ON interlock.call_feedback (tenant_id, position) WHERE position IS NOT NULL;
CREATE INDEX ON interlock.call_feedback (tenant_id, day) WHERE reward_micro IS NOT NULL;
CREATE INDEX ON interlock.call_feedback (tenant_id, call_subject);

-- Entries of feedback whose call has no entry yet, and (leaf NULL) contents of such that may not stay.
CREATE TABLE interlock.feedback_waiting (
    tenant_id interlock.id NOT NULL,
    entry bigint NOT NULL,
    request text NOT NULL,
    at_ns bigint NOT NULL,
    leaf bytea,
    key_name text NOT NULL DEFAULT '',
    content bytea NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, entry)
);
CREATE INDEX ON interlock.feedback_waiting (tenant_id, request);
CREATE INDEX ON interlock.feedback_waiting (at_ns);
CREATE INDEX ON interlock.feedback_waiting (tenant_id) WHERE leaf IS NULL;

-- What a node may know of somebody's call, and only of theirs: whose data it is and how it was recorded. `arriving`:
-- entries of the call's epoch wait to be placed, so that a call that is not found may be among them.
CREATE FUNCTION interlock.feedback_call(tenant text, wanted text, of_epoch text, giver text)
    RETURNS TABLE (subject text, recording text, data_class integer, arriving boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.subject, convert_from(e.leaf, 'UTF8')::json #>> '{what,recording}',
        (convert_from(e.leaf, 'UTF8')::json #>> '{what,data_class}')::integer,
        EXISTS (SELECT FROM interlock.ledger_inbox AS i WHERE i.tenant_id = tenant AND i.epoch = of_epoch)
    FROM (SELECT 1) AS one LEFT JOIN interlock.ledger_entries AS e
        ON e.tenant_id = tenant AND e.request = wanted AND e.kind = 'call' AND giver IN (e.principal_id, e.subject)
$$;
REVOKE ALL ON FUNCTION interlock.feedback_call(text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION interlock.feedback_call(text, text, text, text) TO interlock_lender;
"""


def upgrade() -> None:
    """Create both tables: nodes reserve, the sequencer fills in, tenants read."""
    op.execute(_TABLES)
    for table in ("call_feedback", "feedback_waiting"):
        op.execute(f"ALTER TABLE interlock.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE interlock.{table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON interlock.{table} TO interlock_app"
            " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
            " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        )
        op.execute(
            f"CREATE POLICY every_tenant ON interlock.{table} TO interlock_platform, interlock_migrator,"
            " interlock_sequencer, interlock_lender USING (true) WITH CHECK (true)"
        )
    op.execute("GRANT SELECT (epoch, settled, calls_through) ON interlock.ledger_epochs TO interlock_lender")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.call_feedback TO interlock_lender")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.call_feedback TO interlock_sequencer")
    op.execute("GRANT SELECT ON interlock.call_feedback TO interlock_app, interlock_platform")
    op.execute("GRANT UPDATE (digest), DELETE ON interlock.call_feedback TO interlock_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.feedback_waiting TO interlock_sequencer")
    op.execute("GRANT SELECT, DELETE ON interlock.feedback_waiting TO interlock_app")
