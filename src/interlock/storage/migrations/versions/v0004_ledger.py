"""The ledger: what shippers bring, what sequencers put in order, and the keys of what is encrypted.

Revision: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A subject's key is NULL once it was destroyed: the row stays, so that nobody makes another under the same name.
_TABLES = r"""
CREATE TABLE interlock.ledger_keys (
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    wrapped bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    erased_ns bigint,
    PRIMARY KEY (tenant_id, subject),
    CHECK ((wrapped IS NULL) = (erased_ns IS NOT NULL))
);

CREATE TABLE interlock.ledger_contents (
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    id bytea NOT NULL CHECK (octet_length(id) = 32),
    data bytea NOT NULL,
    PRIMARY KEY (tenant_id, subject, id)
);
-- encrypted: it does not compress
ALTER TABLE interlock.ledger_contents ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE interlock.ledger_lists (
    tenant_id interlock.id NOT NULL,
    subject text NOT NULL,
    id bytea NOT NULL CHECK (octet_length(id) = 32),
    previous bytea NOT NULL,
    item bytea NOT NULL,
    PRIMARY KEY (tenant_id, subject, id)
);

-- What nodes say of their epochs. `shipped_seq`: the last record of the log that is here. `watermark_ns`: every entry
-- of the epoch that was admitted before it is here. `floor_ns`: no entry of the epoch is of an earlier instant, even if
-- the node's clock was set back before it began.
CREATE TABLE interlock.ledger_epochs (
    epoch text PRIMARY KEY CHECK (char_length(epoch) = 16),
    node text NOT NULL,
    shipped_seq bigint NOT NULL DEFAULT 0,
    resume_segment bigint NOT NULL DEFAULT 0,
    floor_ns bigint NOT NULL,
    watermark_ns bigint NOT NULL,
    damaged boolean NOT NULL DEFAULT false,
    whole boolean NOT NULL DEFAULT false,
    closed boolean NOT NULL DEFAULT false,
    -- its place among the epochs of which everything is here
    settled bigint UNIQUE
);
CREATE INDEX ON interlock.ledger_epochs (node) WHERE settled IS NULL;

CREATE TABLE interlock.ledger_nodes (
    node text PRIMARY KEY,
    registered_ns bigint NOT NULL
);

CREATE TABLE interlock.ledger_shipped (
    tenant_id interlock.id NOT NULL,
    epoch text NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (tenant_id, epoch)
);

CREATE TABLE interlock.ledger_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id interlock.id NOT NULL,
    epoch text NOT NULL,
    n bigint NOT NULL,
    leaf bytea NOT NULL,
    UNIQUE (tenant_id, epoch, n)
);

CREATE TABLE interlock.ledger_trees (
    tenant_id interlock.id PRIMARY KEY,
    size bigint NOT NULL DEFAULT 0,
    hashes bytea[] NOT NULL DEFAULT '{}',
    settled bigint NOT NULL DEFAULT 0,
    settled_count bigint NOT NULL DEFAULT 0,
    settled_digest bytea NOT NULL,
    checkpoint_ns bigint NOT NULL DEFAULT 0,
    signed boolean NOT NULL DEFAULT true
);

-- How far each epoch is in a tree; watermark_ns as its last checkpoint said.
CREATE TABLE interlock.ledger_sequenced (
    tenant_id interlock.id NOT NULL,
    epoch text NOT NULL,
    n bigint NOT NULL,
    watermark_ns bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, epoch)
);

CREATE TABLE interlock.ledger_settled_lines (
    tenant_id interlock.id NOT NULL,
    k bigint NOT NULL,
    line bytea NOT NULL,
    PRIMARY KEY (tenant_id, k)
);

CREATE TABLE interlock.ledger_tiles (
    tenant_id interlock.id NOT NULL,
    level smallint NOT NULL,
    index bigint NOT NULL,
    hashes bytea NOT NULL CHECK (octet_length(hashes) = 8192),
    PRIMARY KEY (tenant_id, level, index)
);

CREATE TABLE interlock.ledger_checkpoints (
    tenant_id interlock.id NOT NULL,
    at_ns bigint NOT NULL,
    size bigint NOT NULL,
    note text NOT NULL,
    coverage bytea NOT NULL,
    complete_ns bigint NOT NULL,
    PRIMARY KEY (tenant_id, at_ns)
);
CREATE INDEX ON interlock.ledger_checkpoints (tenant_id, size);

-- By the month of the admission instant. Columns besides `leaf` repeat parts of it, to be searched by.
CREATE TABLE interlock.ledger_entries (
    tenant_id interlock.id NOT NULL,
    position bigint NOT NULL,
    at_ns bigint NOT NULL,
    kind text NOT NULL,
    request text NOT NULL,
    team_id text NOT NULL,
    principal_id text NOT NULL,
    subject text NOT NULL,
    source text NOT NULL,
    model text NOT NULL,
    state text NOT NULL,
    leaf bytea NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, position, at_ns)
) PARTITION BY RANGE (at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, at_ns);
CREATE INDEX ON interlock.ledger_entries (request);
CREATE INDEX ON interlock.ledger_entries (tenant_id, principal_id, at_ns);
CREATE INDEX ON interlock.ledger_entries (tenant_id, model, at_ns);
CREATE TABLE interlock.ledger_entries_other PARTITION OF interlock.ledger_entries DEFAULT;

-- Sums over entries, kept in the transaction that places them. `day`: of the admission, in the tenant's time zone then.
CREATE TABLE interlock.ledger_usage (
    tenant_id interlock.id NOT NULL,
    day date NOT NULL,
    team_id text NOT NULL,
    principal_id text NOT NULL,
    source text NOT NULL,
    model text NOT NULL,
    request_class text NOT NULL,
    calls bigint NOT NULL DEFAULT 0,
    refusals bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    cached_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    nusd bigint NOT NULL DEFAULT 0,
    reserved_nusd bigint NOT NULL DEFAULT 0,
    uj bigint NOT NULL DEFAULT 0,
    low_uj bigint NOT NULL DEFAULT 0,
    high_uj bigint NOT NULL DEFAULT 0,
    measured_uj bigint NOT NULL DEFAULT 0,
    co2e_ug bigint NOT NULL DEFAULT 0,
    unplaced_uj bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, day, team_id, principal_id, source, model, request_class)
);
"""

_SHIPPED = ("ledger_keys", "ledger_contents", "ledger_lists", "ledger_shipped", "ledger_inbox")
_SEQUENCED = (
    "ledger_trees",
    "ledger_sequenced",
    "ledger_settled_lines",
    "ledger_tiles",
    "ledger_checkpoints",
    "ledger_entries",
    "ledger_entries_other",
    "ledger_usage",
)
_READ = (
    "ledger_contents",
    "ledger_lists",
    "ledger_keys",
    "ledger_trees",
    "ledger_settled_lines",
    "ledger_tiles",
    "ledger_checkpoints",
    "ledger_entries",
    "ledger_usage",
)


def upgrade() -> None:
    """Create everything. Roles were made before: see interlock.storage.roles."""
    op.execute(_TABLES)
    op.execute("ALTER TABLE interlock.role_bindings DROP CONSTRAINT role_bindings_role_check")
    op.execute(
        "ALTER TABLE interlock.role_bindings ADD CONSTRAINT role_bindings_role_check CHECK"
        " (role IN ('owner', 'admin', 'auditor', 'developer', 'viewer', 'payload_reader'))"
    )
    op.execute("GRANT USAGE ON SCHEMA interlock TO interlock_shipper, interlock_sequencer")
    for table in (*_SHIPPED, *_SEQUENCED):
        _isolate(table)
    # an erasure, in the name of its tenant: the key, what was under it, and the entry that says so
    op.execute("GRANT UPDATE (wrapped, erased_ns) ON interlock.ledger_keys TO interlock_app")
    op.execute("GRANT DELETE ON interlock.ledger_contents, interlock.ledger_lists TO interlock_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.ledger_shipped TO interlock_app")
    op.execute("GRANT INSERT ON interlock.ledger_inbox TO interlock_app")
    op.execute("GRANT SELECT ON interlock.ledger_sequenced TO interlock_app")
    op.execute("GRANT SELECT, INSERT ON interlock.ledger_epochs TO interlock_app")
    for table in _READ:
        op.execute(f"GRANT SELECT ON interlock.{table} TO interlock_app, interlock_platform")
    op.execute("GRANT SELECT, INSERT ON interlock.ledger_keys TO interlock_shipper")
    op.execute("GRANT SELECT, INSERT ON interlock.ledger_contents, interlock.ledger_lists TO interlock_shipper")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.ledger_shipped TO interlock_shipper")
    op.execute("GRANT SELECT, INSERT ON interlock.ledger_inbox TO interlock_shipper")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.ledger_epochs, interlock.ledger_nodes TO interlock_shipper")
    op.execute("GRANT SELECT ON interlock.tenants TO interlock_sequencer")
    op.execute("CREATE POLICY read_for_sequencing ON interlock.tenants FOR SELECT TO interlock_sequencer USING (true)")
    op.execute(
        "GRANT SELECT ON interlock.ledger_epochs, interlock.ledger_nodes, interlock.ledger_shipped"
        " TO interlock_sequencer, interlock_platform"
    )
    op.execute("GRANT SELECT, DELETE ON interlock.ledger_inbox TO interlock_sequencer")
    op.execute("GRANT SELECT ON interlock.ledger_inbox TO interlock_platform")
    op.execute(
        "GRANT SELECT, INSERT, UPDATE ON interlock.ledger_trees, interlock.ledger_sequenced, interlock.ledger_usage"
        " TO interlock_sequencer"
    )
    op.execute("GRANT DELETE ON interlock.ledger_sequenced, interlock.ledger_checkpoints TO interlock_sequencer")
    op.execute(
        "GRANT SELECT, INSERT ON interlock.ledger_settled_lines, interlock.ledger_tiles, interlock.ledger_checkpoints,"
        " interlock.ledger_entries TO interlock_sequencer"
    )


def _isolate(table: str) -> None:
    """Row-level security for everyone, the owner included: a tenant's connection sees its own rows."""
    op.execute(f"ALTER TABLE interlock.{table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE interlock.{table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON interlock.{table} TO interlock_app"
        " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
        " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        f"CREATE POLICY every_tenant ON interlock.{table}"
        " TO interlock_platform, interlock_migrator, interlock_shipper, interlock_sequencer"
        " USING (true) WITH CHECK (true)"
    )
