"""Identity, policies, sources, changes, snapshots and nodes, with row-level security on all that has a tenant.

Revision: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A name is shown, logged and written into policies: 1 to 200 characters, none of them a control character.
_TABLES = r"""
CREATE DOMAIN interlock.name AS text
    CHECK (char_length(value) BETWEEN 1 AND 200 AND value !~ '[[:cntrl:]]');
CREATE DOMAIN interlock.id AS text
    CHECK (value ~ '^[a-z]{2,5}_[0-9a-z]{1,40}$');

CREATE TABLE interlock.tenants (
    id interlock.id PRIMARY KEY,
    name interlock.name NOT NULL UNIQUE,
    time_zone text NOT NULL,
    active boolean NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE interlock.teams (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL REFERENCES interlock.tenants,
    name interlock.name NOT NULL,
    cost_center text NOT NULL,
    limits jsonb,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);

CREATE TABLE interlock.principals (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL REFERENCES interlock.tenants,
    kind text NOT NULL CHECK (kind IN ('user', 'service', 'agent')),
    name interlock.name NOT NULL,
    limits jsonb,
    may_act_for text[] NOT NULL,
    active boolean NOT NULL,
    -- the first ten bits of SHA-256 of the id: interlock.types.snapshot.bucket_of(principal_digest(id))
    bucket smallint NOT NULL GENERATED ALWAYS AS (
        ((get_byte(sha256(decode(id::text, 'escape')), 0) << 8)
            | get_byte(sha256(decode(id::text, 'escape')), 1)) >> 6
    ) STORED,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);
CREATE INDEX ON interlock.principals (bucket);

-- Composite references: row-level security does not bind foreign keys, so these keep a link inside its tenant.
CREATE TABLE interlock.principal_teams (
    tenant_id interlock.id NOT NULL,
    principal_id interlock.id NOT NULL,
    team_id interlock.id NOT NULL,
    position integer NOT NULL,
    PRIMARY KEY (principal_id, team_id),
    FOREIGN KEY (tenant_id, principal_id) REFERENCES interlock.principals (tenant_id, id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES interlock.teams (tenant_id, id)
);
CREATE INDEX ON interlock.principal_teams (team_id);

CREATE TABLE interlock.api_keys (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL,
    principal_id interlock.id NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL CHECK (char_length(prefix) <= 12),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    -- interlock.types.snapshot.bucket_of(digest)
    bucket smallint NOT NULL GENERATED ALWAYS AS (((get_byte(digest, 0) << 8) | get_byte(digest, 1)) >> 6) STORED,
    scopes text[] NOT NULL,
    not_after_s bigint NOT NULL,
    data_class smallint NOT NULL CHECK (data_class BETWEEN 0 AND 3),
    limits jsonb,
    revoked boolean NOT NULL,
    cut boolean NOT NULL,
    revoked_at timestamptz,
    replaces text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK (revoked = (revoked_at IS NOT NULL)),
    FOREIGN KEY (tenant_id, principal_id) REFERENCES interlock.principals (tenant_id, id)
);
CREATE INDEX ON interlock.api_keys (bucket);
CREATE INDEX ON interlock.api_keys (principal_id);
CREATE INDEX ON interlock.api_keys (tenant_id, name);

CREATE TABLE interlock.policies (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants,
    name interlock.name NOT NULL,
    cedar text NOT NULL,
    words text NOT NULL,
    template text NOT NULL,
    parameters jsonb NOT NULL,
    active boolean NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);

CREATE TABLE interlock.sources (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants,
    name interlock.name NOT NULL UNIQUE,
    kind text NOT NULL,
    base_url text NOT NULL,
    api_prefix text NOT NULL,
    granted_to text[] NOT NULL,
    labels jsonb NOT NULL,
    limits jsonb NOT NULL,
    timeouts jsonb NOT NULL,
    credential jsonb,
    tls jsonb,
    egress_proxy text NOT NULL,
    egress_proxy_credential jsonb,
    drained boolean NOT NULL,
    extra_fields text NOT NULL CHECK (extra_fields IN ('pass', 'drop', 'refuse')),
    prefix_cache_salt boolean NOT NULL,
    pins jsonb NOT NULL,
    declared jsonb NOT NULL,
    engine text NOT NULL,
    engine_version text NOT NULL,
    models jsonb NOT NULL,
    discovered_at timestamptz,
    discovery_error text NOT NULL,
    warnings text[] NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE interlock.aliases (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants,
    name interlock.name NOT NULL,
    targets jsonb NOT NULL,
    mode text NOT NULL CHECK (mode IN ('eco', 'balanced', 'quality')),
    max_tokens bigint NOT NULL CHECK (max_tokens >= 0),
    data_class smallint NOT NULL CHECK (data_class BETWEEN 0 AND 3),
    sunset_s bigint NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);

CREATE TABLE interlock.issuers (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id NOT NULL REFERENCES interlock.tenants,
    issuer text NOT NULL,
    audience text NOT NULL,
    jwks_url text NOT NULL,
    algorithms text[] NOT NULL,
    subject_claim text NOT NULL,
    groups_claim text NOT NULL,
    group_teams jsonb NOT NULL,
    kind text NOT NULL CHECK (kind IN ('user', 'service', 'agent')),
    data_class smallint NOT NULL CHECK (data_class BETWEEN 0 AND 3),
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- over all tenants: a token must name one
    UNIQUE (issuer, audience)
);

CREATE TABLE interlock.role_bindings (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants,
    principal_id interlock.id NOT NULL,
    principal_tenant_id interlock.id NOT NULL,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'auditor', 'developer', 'viewer')),
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, principal_id, role),
    FOREIGN KEY (principal_tenant_id, principal_id) REFERENCES interlock.principals (tenant_id, id),
    CONSTRAINT principal_of_the_tenant_or_the_platform CHECK (
        principal_tenant_id = 'ten_platform' OR (tenant_id IS NOT NULL AND principal_tenant_id = tenant_id)
    )
);
CREATE INDEX ON interlock.role_bindings (principal_id);

-- No reference to tenants: what was done to a tenant outlives it.
CREATE TABLE interlock.changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    tenant_id interlock.id,
    actor_id text NOT NULL CHECK (actor_id <> ''),
    actor text NOT NULL,
    reason text NOT NULL CHECK (btrim(reason) <> ''),
    request_id text NOT NULL,
    action text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX ON interlock.changes (tenant_id, id);
CREATE INDEX ON interlock.changes (object_id, id);

CREATE TABLE interlock.snapshot_head (
    version bigint PRIMARY KEY CHECK (version > 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    format integer NOT NULL,
    compiled_ns bigint NOT NULL
);

CREATE TABLE interlock.snapshot_part (
    name text NOT NULL,
    version bigint NOT NULL,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    body bytea NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX ON interlock.snapshot_part (version);
-- msgpack of digests does not compress
ALTER TABLE interlock.snapshot_part ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE interlock.snapshot_dirty (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part text NOT NULL
);

-- Never holds a row: locking it is what makes one compiler at a time. A lock of the transaction, not of the session,
-- so that poolers in transaction mode work and a lost compiler leaves nothing locked.
CREATE TABLE interlock.compile_lock ();

CREATE TABLE interlock.nodes (
    name text PRIMARY KEY,
    workers integer NOT NULL,
    snapshot_version bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    version text NOT NULL,
    address text NOT NULL
);
"""

# tables whose rows belong to a tenant, or (NULL) to the platform
_TENANT_TABLES = (
    "teams",
    "principals",
    "principal_teams",
    "api_keys",
    "policies",
    "sources",
    "aliases",
    "issuers",
    "role_bindings",
)
_API_KEY_COLUMNS_SHOWN = (
    "id, tenant_id, principal_id, name, prefix, bucket, scopes, not_after_s, data_class, limits, revoked, cut,"
    " revoked_at, replaces, revision, created_at, updated_at"
)


def upgrade() -> None:
    """Create everything."""
    op.execute(_TABLES)
    op.execute(
        "GRANT USAGE ON SCHEMA interlock TO interlock_app, interlock_platform, interlock_compiler, interlock_node"
    )
    for table in _TENANT_TABLES:
        _isolate(table, "tenant_id")
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.{table} TO interlock_app, interlock_platform")
        op.execute(f"GRANT SELECT ON interlock.{table} TO interlock_compiler")
    _tenants()
    _changes()
    _snapshots()
    # A tenant's connection can store a digest; it cannot look at one.
    op.execute("REVOKE SELECT ON interlock.api_keys FROM interlock_app")
    op.execute(f"GRANT SELECT ({_API_KEY_COLUMNS_SHOWN}) ON interlock.api_keys TO interlock_app")


def _isolate(table: str, column: str) -> None:
    """Row-level security for everyone, the owner included: the app role by tenant, the crossing roles without bound."""
    op.execute(f"ALTER TABLE interlock.{table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE interlock.{table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant ON interlock.{table} TO interlock_app"
        f" USING ({column} = (SELECT current_setting('interlock.tenant_id', true)))"
        f" WITH CHECK ({column} = (SELECT current_setting('interlock.tenant_id', true)))"
    )
    op.execute(
        f"CREATE POLICY every_tenant ON interlock.{table} TO interlock_platform, interlock_migrator"
        " USING (true) WITH CHECK (true)"
    )
    op.execute(f"CREATE POLICY read_every_tenant ON interlock.{table} FOR SELECT TO interlock_compiler USING (true)")


def _tenants() -> None:
    _isolate("tenants", "id")
    op.execute("GRANT SELECT, UPDATE ON interlock.tenants TO interlock_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON interlock.tenants TO interlock_platform")
    op.execute("GRANT SELECT ON interlock.tenants TO interlock_compiler")
    op.execute(
        "INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at)"
        " VALUES ('ten_platform', 'platform', 'UTC', true, now(), now())"
    )


def _changes() -> None:
    _isolate("changes", "tenant_id")
    op.execute("GRANT SELECT, INSERT ON interlock.changes TO interlock_app, interlock_platform")


def _snapshots() -> None:
    op.execute("GRANT SELECT, INSERT ON interlock.snapshot_head, interlock.snapshot_part TO interlock_compiler")
    op.execute("GRANT DELETE ON interlock.snapshot_part TO interlock_compiler")
    op.execute("GRANT UPDATE ON interlock.compile_lock TO interlock_compiler")
    op.execute("GRANT INSERT ON interlock.snapshot_dirty TO interlock_app, interlock_platform")
    op.execute("GRANT SELECT, INSERT, DELETE ON interlock.snapshot_dirty TO interlock_compiler")
    op.execute("GRANT SELECT ON interlock.snapshot_head, interlock.snapshot_part TO interlock_node, interlock_platform")
    op.execute("GRANT SELECT, INSERT, UPDATE ON interlock.nodes TO interlock_node")
    op.execute("GRANT SELECT, DELETE ON interlock.nodes TO interlock_platform")
    op.execute(
        "INSERT INTO interlock.snapshot_dirty (part)"
        " SELECT unnest(ARRAY['tenants', 'teams', 'sources', 'policies', 'aliases', 'issuers', 'router'])"
    )
