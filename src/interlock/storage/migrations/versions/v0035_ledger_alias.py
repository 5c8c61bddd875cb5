"""The ledger is searched by alias and by request class.

Revision: 0035
"""

from __future__ import annotations

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

# Of calls and refusals "" is none. Other entries have NULL: those without an alias are found by the index, too.
#
# A leaf is canonical JSON, its keys sorted, and within a text a quotation mark is escaped: what is looked for here is
# found where it is a key, and nowhere else. Names of aliases have no escapes, classes may have. As `label_of` says, a
# call that nobody asked for has a class of its own.
_STEPS = r"""
ALTER TABLE interlock.ledger_entries ADD COLUMN alias text, ADD COLUMN request_class text;
ALTER TABLE interlock.ledger_entries
    ALTER COLUMN alias TYPE text USING CASE WHEN kind IN ('call', 'refusal') THEN
        split_part(split_part(convert_from(leaf, 'UTF8'), '"what":{"alias":"', 2), '"', 1) END,
    ALTER COLUMN request_class TYPE text USING CASE WHEN kind NOT IN ('call', 'refusal') THEN NULL
        WHEN position('_of":"'::bytea IN leaf) > 0 AND convert_from(leaf, 'UTF8') ~ '"(shadow|judge|challenger)_of":"'
        THEN substring(convert_from(leaf, 'UTF8') FROM '"(shadow|judge|challenger)_of":"') || ':' || coalesce(
            nullif(split_part(split_part(convert_from(leaf, 'UTF8'), '"what":{"alias":"', 2), '"', 1), ''), model)
        ELSE coalesce(('"' || substring(split_part(convert_from(leaf, 'UTF8'), '"what":{"alias":"', 2)
            FROM '^[^"]*",(?:"arm":"[^"]*",)?"class":"((?:[^"\\]|\\.)*)"') || '"')::json #>> '{}', '') END;
CREATE INDEX ON interlock.ledger_entries (tenant_id, alias, position, at_ns) WHERE alias IS NOT NULL;
CREATE INDEX ON interlock.ledger_entries (tenant_id, request_class, position, at_ns) WHERE request_class IS NOT NULL;
ANALYZE interlock.ledger_entries (alias, request_class);
"""


def upgrade() -> None:
    """Writes the ledger's entries anew, all of them: they are neither placed nor read meanwhile."""
    op.execute(_STEPS)
