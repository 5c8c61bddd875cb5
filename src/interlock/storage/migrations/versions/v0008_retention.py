"""How long contents are kept, and legal holds.

Revision: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DAY_COLUMNS = ("public_day", "internal_day", "confidential_day", "restricted_day")

# The newest day (since 1970, UTC) on which a call of that data class used the content; NULL: none does, or none that is
# young enough. A node of an older version that names no day is refused: its records wait in its log until it is new.
_DAYS = """
ALTER TABLE interlock.{table}
    ADD COLUMN public_day integer, ADD COLUMN internal_day integer,
    ADD COLUMN confidential_day integer, ADD COLUMN restricted_day integer
"""
_HAS_A_DAY = """
ALTER TABLE interlock.{table} ADD CONSTRAINT {table}_has_a_day
    CHECK (num_nonnulls(public_day, internal_day, confidential_day, restricted_day) > 0)
"""

# What the entries that are there say of the contents that they refer to. PostgreSQL reads no JSON with a NUL in a text.
_USES = r"""
CREATE TABLE interlock.retention_uses AS
SELECT tenant_id, subject, id, is_list,
    max(day) FILTER (WHERE class = 0) AS public_day, max(day) FILTER (WHERE class = 1) AS internal_day,
    max(day) FILTER (WHERE class = 2) AS confidential_day, max(day) FILTER (WHERE class = 3) AS restricted_day
FROM (
    SELECT tenant_id, coalesce(leaf->'who'->>'key', leaf->'who'->>'subject') AS subject,
        decode(coalesce(used->>'id', used->>'list'), 'hex') AS id, used->>'list' IS NOT NULL AS is_list,
        (leaf->'what'->>'data_class')::integer AS class, ((leaf->>'at')::bigint / 86400000000000)::integer AS day
    FROM (
        SELECT tenant_id, replace(convert_from(leaf, 'UTF8'), '\u0000', '\u0020')::json AS leaf FROM (
            SELECT tenant_id, leaf FROM interlock.ledger_entries WHERE kind IN ('call', 'refusal')
            UNION ALL SELECT tenant_id, leaf FROM interlock.ledger_inbox
        ) AS stored
    ) AS entries, json_array_elements(leaf->'contents') AS used
) AS uses GROUP BY tenant_id, subject, id, is_list
"""
_NODES = """
CREATE TABLE interlock.retention_nodes AS
WITH RECURSIVE back AS (
    SELECT l.tenant_id, l.subject, l.id, l.previous, l.item,
        u.public_day, u.internal_day, u.confidential_day, u.restricted_day
    FROM interlock.ledger_lists AS l JOIN interlock.retention_uses AS u USING (tenant_id, subject, id) WHERE u.is_list
    UNION SELECT l.tenant_id, l.subject, l.id, l.previous, l.item,
        back.public_day, back.internal_day, back.confidential_day, back.restricted_day
    FROM interlock.ledger_lists AS l JOIN back
        ON l.tenant_id = back.tenant_id AND l.subject = back.subject AND l.id = back.previous
) SELECT * FROM back
"""
_FILL = """
UPDATE interlock.{table} AS t SET public_day = u.public_day, internal_day = u.internal_day,
    confidential_day = u.confidential_day, restricted_day = u.restricted_day
FROM (
    SELECT tenant_id, subject, id, max(public_day) AS public_day, max(internal_day) AS internal_day,
        max(confidential_day) AS confidential_day, max(restricted_day) AS restricted_day
    FROM ({uses}) AS every_use GROUP BY tenant_id, subject, id
) AS u WHERE t.tenant_id = u.tenant_id AND t.subject = u.subject AND t.id = u.id
"""
_OF_CONTENTS = """
    SELECT tenant_id, subject, id, public_day, internal_day, confidential_day, restricted_day
        FROM interlock.retention_uses WHERE NOT is_list
    UNION ALL SELECT tenant_id, subject, item, public_day, internal_day, confidential_day, restricted_day
        FROM interlock.retention_nodes
"""
_OF_LISTS = """
    SELECT tenant_id, subject, id, public_day, internal_day, confidential_day, restricted_day
        FROM interlock.retention_nodes
"""
# What no entry speaks of is kept as long as anything used today.
_REST = """
UPDATE interlock.{table} SET public_day = d, internal_day = d, confidential_day = d, restricted_day = d
FROM (SELECT floor(extract(epoch FROM now()) / 86400)::integer AS d) AS today
WHERE num_nonnulls(public_day, internal_day, confidential_day, restricted_day) = 0
"""

# A hold on everything of a tenant has the subject ''. Rows stay when a hold is released.
_TABLES = """
CREATE TABLE interlock.ledger_holds (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    added_by text NOT NULL,
    added_at timestamptz NOT NULL,
    released_by text,
    released_at timestamptz,
    released_reason text,
    CHECK (num_nulls(released_by, released_at, released_reason) IN (0, 3))
);
CREATE INDEX ON interlock.ledger_holds (tenant_id, added_at);

-- What retention removed: at `at`, of a data class, contents last used by calls of `through_day` or before.
CREATE TABLE interlock.ledger_sweeps (
    tenant_id interlock.id NOT NULL,
    data_class smallint NOT NULL,
    at timestamptz NOT NULL,
    through_day integer NOT NULL,
    contents bigint NOT NULL,
    PRIMARY KEY (tenant_id, data_class, at)
);

-- The entries [0, to_position) of a tree have no text any more: the signed statement, and the bytes of its state.
CREATE TABLE interlock.ledger_pruned (
    tenant_id interlock.id PRIMARY KEY,
    to_position bigint NOT NULL CHECK (to_position > 0),
    start_at_ns bigint NOT NULL,
    note text NOT NULL,
    state bytea NOT NULL
);
"""


def upgrade() -> None:
    """Everything that is there is kept until somebody sets a retention."""
    op.execute("ALTER TABLE interlock.tenants ADD COLUMN retention jsonb")
    for table in ("ledger_contents", "ledger_lists"):
        op.execute(_DAYS.format(table=table))
    op.execute(_USES)
    op.execute(_NODES)
    for table, uses in (("ledger_contents", _OF_CONTENTS), ("ledger_lists", _OF_LISTS)):
        op.execute(_FILL.format(table=table, uses=uses))
        op.execute(_REST.format(table=table))
        op.execute(_HAS_A_DAY.format(table=table))
        for column in DAY_COLUMNS:
            op.execute(f"CREATE INDEX ON interlock.{table} (tenant_id, {column}, subject) WHERE {column} IS NOT NULL")
        # the shipper raises a day where it brings a content again; the sweep forgets one that no longer counts
        op.execute(f"GRANT UPDATE ({', '.join(DAY_COLUMNS)}) ON interlock.{table} TO interlock_shipper, interlock_app")
    op.execute("DROP TABLE interlock.retention_nodes, interlock.retention_uses")
    op.execute(_TABLES)
    for table in ("ledger_holds", "ledger_sweeps", "ledger_pruned"):
        _isolate(table)
        op.execute(f"GRANT SELECT, INSERT ON interlock.{table} TO interlock_app")
        op.execute(f"GRANT SELECT ON interlock.{table} TO interlock_platform")
    op.execute("GRANT UPDATE (released_by, released_at, released_reason) ON interlock.ledger_holds TO interlock_app")
    op.execute("GRANT UPDATE (contents) ON interlock.ledger_sweeps TO interlock_app")
    op.execute("GRANT UPDATE ON interlock.ledger_pruned TO interlock_app")
    op.execute("GRANT DELETE ON interlock.ledger_entries TO interlock_app")


def _isolate(table: str) -> None:
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
