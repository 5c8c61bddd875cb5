"""The console: accounts with a password, sign-ins under way at an identity provider, sessions.

Revision: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Tokens are kept as their SHA-256: who reads the tables cannot sign in with what is there.
_TABLES = r"""
CREATE TABLE interlock.console_accounts (
    principal_id interlock.id PRIMARY KEY REFERENCES interlock.principals ON DELETE CASCADE,
    password_hash text NOT NULL,
    changed_at timestamptz NOT NULL,
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    locked_until timestamptz NOT NULL DEFAULT to_timestamp(0)
);
CREATE TABLE interlock.console_logins (
    state_hash bytea PRIMARY KEY CHECK (octet_length(state_hash) = 32),
    issuer_id interlock.id NOT NULL REFERENCES interlock.issuers ON DELETE CASCADE,
    nonce text NOT NULL,
    verifier text NOT NULL,
    goes_to text NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON interlock.console_logins (expires_at);
CREATE TABLE interlock.console_sessions (
    token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
    csrf text NOT NULL,
    method text NOT NULL CHECK (method IN ('password', 'oidc')),
    principal_id text NOT NULL,
    name text NOT NULL,
    tenant_id interlock.id NOT NULL,
    issuer_id text NOT NULL DEFAULT '',
    groups jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON interlock.console_sessions (expires_at);
CREATE INDEX ON interlock.console_sessions (principal_id);
"""
NAMES = ("console_accounts", "console_logins", "console_sessions")


def upgrade() -> None:
    """Create the tables: like keys, they are looked at before it is known whose they are, by the platform's role."""
    op.execute(_TABLES)
    for name in NAMES:
        op.execute(f"ALTER TABLE interlock.{name} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE interlock.{name} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY platform ON interlock.{name} TO interlock_migrator, interlock_platform"
            " USING (true) WITH CHECK (true)"
        )
        if name == "console_sessions":
            op.execute(
                f"CREATE POLICY tenant ON interlock.{name} TO interlock_app"
                " USING (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
                " WITH CHECK (tenant_id = (SELECT current_setting('interlock.tenant_id', true)))"
            )
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.{name} TO interlock_platform")
