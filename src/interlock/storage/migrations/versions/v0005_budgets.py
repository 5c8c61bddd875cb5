"""Budgets: what is declared, what gateway workers hold of it, and what their calls were charged.

Revision: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A period's use is `settled` and what `budget_charges` has of epochs that are not finished. What is not to be given to
# anybody else is, of each of these epochs, the larger of its lease and its charges: see interlock.storage.leases.
# Nothing refers to `budgets`: entries that were charged to one may still be on their way when it is deleted.
_TABLES = r"""
CREATE TABLE interlock.budgets (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL REFERENCES interlock.tenants,
    name interlock.name NOT NULL,
    kind text NOT NULL CHECK (kind IN ('tenant', 'team', 'principal', 'key', 'model')),
    subject text NOT NULL,
    measure text NOT NULL CHECK (measure IN ('calls', 'tokens', 'nusd', 'uj')),
    amount bigint NOT NULL CHECK (amount >= 0),
    "window" text NOT NULL,
    hard boolean NOT NULL,
    alerts integer[] NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name)
);
CREATE INDEX ON interlock.budgets (tenant_id, kind, subject);

CREATE TABLE interlock.budget_periods (
    tenant_id interlock.id NOT NULL,
    budget_id interlock.id NOT NULL,
    start_s bigint NOT NULL,
    settled bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, start_s)
);
CREATE INDEX ON interlock.budget_periods (tenant_id);

-- What an epoch (a worker's life) may use, written by the gateways. `asked` and `answered` count recalls.
CREATE TABLE interlock.budget_leases (
    tenant_id interlock.id NOT NULL,
    budget_id interlock.id NOT NULL,
    start_s bigint NOT NULL,
    epoch text NOT NULL CHECK (char_length(epoch) = 16),
    node text NOT NULL,
    granted bigint NOT NULL CHECK (granted >= 0),
    asked bigint NOT NULL DEFAULT 0,
    answered bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, start_s, epoch)
);
CREATE INDEX ON interlock.budget_leases (tenant_id);

-- What an epoch's entries in the ledger were charged, written where these get their places.
CREATE TABLE interlock.budget_charges (
    tenant_id interlock.id NOT NULL,
    budget_id interlock.id NOT NULL,
    start_s bigint NOT NULL,
    epoch text NOT NULL,
    charged bigint NOT NULL,
    PRIMARY KEY (budget_id, start_s, epoch)
);
CREATE INDEX ON interlock.budget_charges (tenant_id);

CREATE TABLE interlock.budget_alerts (
    tenant_id interlock.id NOT NULL,
    budget_id interlock.id NOT NULL,
    start_s bigint NOT NULL,
    percent integer NOT NULL,
    used bigint NOT NULL,
    amount bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (budget_id, start_s, percent)
);
CREATE INDEX ON interlock.budget_alerts (tenant_id);
"""

_TENANT_TABLES = ("budgets", "budget_periods", "budget_leases", "budget_charges", "budget_alerts")


def upgrade() -> None:
    """Create everything. Roles were made before: see interlock.storage.roles."""
    op.execute(_TABLES)
    op.execute("GRANT USAGE ON SCHEMA interlock TO interlock_lender")
    for table in _TENANT_TABLES:
        _isolate(table)
        op.execute(f"GRANT SELECT ON interlock.{table} TO interlock_app, interlock_platform")
    op.execute("GRANT INSERT, UPDATE, DELETE ON interlock.budgets TO interlock_app, interlock_platform")
    op.execute("GRANT SELECT ON interlock.budgets TO interlock_compiler, interlock_lender, interlock_sequencer")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.budget_periods TO interlock_lender, interlock_sequencer")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.budget_leases TO interlock_lender")
    op.execute("GRANT SELECT ON interlock.budget_charges TO interlock_lender")
    op.execute("GRANT SELECT, DELETE ON interlock.budget_leases TO interlock_sequencer")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.budget_charges TO interlock_sequencer")
    op.execute("GRANT SELECT, INSERT ON interlock.budget_alerts TO interlock_sequencer")
    op.execute("INSERT INTO interlock.snapshot_dirty (part) VALUES ('budgets')")


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
        " TO interlock_platform, interlock_migrator, interlock_lender, interlock_sequencer"
        " USING (true) WITH CHECK (true)"
    )
    op.execute(f"CREATE POLICY read_every_tenant ON interlock.{table} FOR SELECT TO interlock_compiler USING (true)")
