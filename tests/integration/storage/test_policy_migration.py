"""Policies from before versions were kept are version 1, and stay in force."""

from __future__ import annotations

import psycopg

from interlock.settings import Settings
from interlock.storage import migrate as migration
from interlock.storage import policies, policy_drafts, policy_versions
from interlock.storage.pool import Store
from tests.integration.older_schema import left_at


def test_what_is_in_force_is_the_first_version(postgres_empty_url: str) -> None:
    settings = Settings(database_connect_timeout_ms=2000)
    left_at(postgres_empty_url, "0009", settings)
    row = "(%s, %s, %s, %s, %s, %s, %s, true, now(), now())"
    columns = "id, tenant_id, name, cedar, words, template, parameters, active, created_at, updated_at"
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        for number, (tenant, name) in enumerate([("ten_platform", "b"), (None, "z"), ("ten_platform", "a")]):
            given = (f"pol_{number:020d}", tenant, name, "permit (principal, action, resource);", "", "", "{}")
            conn.execute(f"INSERT INTO interlock.policies ({columns}) VALUES {row}", given)
    assert migration.migrate(postgres_empty_url, settings)
    store = Store(postgres_empty_url, settings)
    try:
        with store.platform() as conn:
            assert len(policies.everything(conn)) == 3
            assert policy_drafts.trials(conn) == []
            for tenant_id, names in (("ten_platform", ["a", "b"]), ("", ["z"])):
                (version,) = policy_versions.page(conn, tenant_id)
                assert (version.number, version.origin, version.author) == (1, "upgrade", "system")
                assert [p.id for p in version.policies] == names
                assert version.policies == policy_versions.in_force(conn, tenant_id)
    finally:
        store.close()
