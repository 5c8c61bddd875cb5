"""Alerts: rules, channels, what becomes of each thing that is watched, events and their deliveries.

Revision: 0021
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# What is the platform's has no tenant. Rules and channels go with their tenant; events outlive their rule; deliveries
# go with their event.
_TABLES = r"""
CREATE TABLE interlock.alert_channels (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants ON DELETE CASCADE,
    name interlock.name NOT NULL,
    kind text NOT NULL CHECK (kind IN ('webhook', 'email')),
    url text NOT NULL,
    secret jsonb,
    addresses text[] NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);
CREATE TABLE interlock.alert_rules (
    id interlock.id PRIMARY KEY,
    tenant_id interlock.id REFERENCES interlock.tenants ON DELETE CASCADE,
    name interlock.name NOT NULL,
    kind text NOT NULL,
    threshold bigint NOT NULL CHECK (threshold > 0),
    window_s integer NOT NULL CHECK (window_s > 0),
    for_s integer NOT NULL CHECK (for_s >= 0),
    count_min integer NOT NULL CHECK (count_min >= 0),
    no_data_s integer NOT NULL CHECK (no_data_s >= 0),
    scope jsonb NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    channels text[] NOT NULL,
    enabled boolean NOT NULL,
    silenced_until_ns bigint NOT NULL,
    silence_reason text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);
CREATE TABLE interlock.alert_states (
    rule_id interlock.id NOT NULL REFERENCES interlock.alert_rules ON DELETE CASCADE,
    tenant_id interlock.id,
    subject text NOT NULL,
    status text NOT NULL CHECK (status IN ('ok', 'pending', 'firing', 'resolved', 'gone')),
    since_ns bigint NOT NULL,
    value bigint NOT NULL,
    words text NOT NULL,
    turned_ns bigint NOT NULL,
    unknown_ns bigint NOT NULL,
    episode bigint NOT NULL,
    told boolean NOT NULL,
    no_data boolean NOT NULL,
    PRIMARY KEY (rule_id, subject)
);
CREATE TABLE interlock.alert_events (
    id interlock.id PRIMARY KEY,
    -- the order in which things happened, whatever clocks say
    place bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id interlock.id,
    rule_id text NOT NULL,
    rule text NOT NULL,
    reads text NOT NULL,
    subject text NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL,
    value bigint NOT NULL,
    threshold bigint NOT NULL,
    words text NOT NULL,
    episode bigint NOT NULL,
    at timestamptz NOT NULL,
    UNIQUE (rule_id, subject, episode, kind)
);
CREATE INDEX ON interlock.alert_events (tenant_id, at);
CREATE INDEX ON interlock.alert_events (at);
CREATE TABLE interlock.alert_deliveries (
    event_id interlock.id NOT NULL REFERENCES interlock.alert_events ON DELETE CASCADE,
    channel_id interlock.id NOT NULL,
    tenant_id interlock.id,
    channel text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    error text NOT NULL DEFAULT '',
    done_at timestamptz,
    PRIMARY KEY (event_id, channel_id)
);
CREATE INDEX ON interlock.alert_deliveries (next_at) WHERE state = 'waiting';
"""
_TENANTED = ("alert_channels", "alert_rules", "alert_states", "alert_events", "alert_deliveries")
_CONFIGURED = "interlock.alert_channels, interlock.alert_rules"
_HAPPENED = "interlock.alert_states, interlock.alert_events, interlock.alert_deliveries"


def upgrade() -> None:
    """A tenant's own transactions write its configuration, and events that people cause; the platform all of it."""
    op.execute(_TABLES)
    for table in _TENANTED:
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
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_CONFIGURED} TO interlock_app, interlock_platform")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_HAPPENED} TO interlock_platform")
    op.execute(f"GRANT SELECT ON {_HAPPENED} TO interlock_app")
    op.execute("GRANT INSERT ON interlock.alert_events, interlock.alert_deliveries TO interlock_app")
