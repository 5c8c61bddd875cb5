"""Tenant isolation is the database's: read off its catalogue, and attacked through the tenants' own role (P5)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.errors import StoreError
from interlock.settings import Settings
from interlock.storage import aliases, changes, issuers, keys, policies, principals, roles, sources, teams, tenants
from interlock.storage.ledger_months import ensure_months
from interlock.storage.pool import Store
from interlock.types.identity import Tenant

from . import samples
from .samples import BY

DOC = Path(__file__).parents[3] / "docs" / "database-roles.md"

_TENANT_TABLES = """
    SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'interlock' AND c.relkind IN ('r', 'p')
      AND (c.relname = 'tenants' OR EXISTS (SELECT 1 FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attname ~ 'tenant' AND NOT a.attisdropped))
"""
LEDGER_TABLES = (
    "ledger_keys",
    "ledger_contents",
    "ledger_lists",
    "ledger_shipped",
    "ledger_inbox",
    "ledger_trees",
    "ledger_sequenced",
    "ledger_settled_lines",
    "ledger_tiles",
    "ledger_checkpoints",
    "ledger_entries",
    "ledger_entries_other",
    "ledger_usage",
    "ledger_holds",
    "ledger_sweeps",
    "ledger_pruned",
    "ledger_entries_2026_03",
    "ledger_entries_2026_04",
    "ledger_entries_2026_05",
)
"""The last three: months, made as the control process makes them."""
ROUTER_TABLES = ("router_states", "router_priors", "router_resets", "router_quality", "router_shared")
FEEDBACK_TABLES = ("call_feedback", "feedback_waiting")
RESPONSE_TABLES = ("stored_response_keys", "stored_responses")
ALERT_TABLES = ("alert_rules", "alert_channels", "alert_states", "alert_events", "alert_deliveries")
BUDGET_TABLES = ("budgets", "budget_periods", "budget_leases", "budget_charges", "budget_alerts")
_POLICIES = """
    SELECT tablename, policyname, roles::text[], cmd, qual, with_check FROM pg_policies
    WHERE schemaname = 'interlock' AND tablename = %s
"""


@pytest.fixture
def bare(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the login, in no role."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        yield conn


def test_every_table_with_a_tenant_is_isolated(bare: psycopg.Connection[Any]) -> None:
    assert ensure_months(bare, datetime(2026, 3, 31, 23, tzinfo=UTC)) == 3
    assert ensure_months(bare, datetime(2026, 3, 31, 23, tzinfo=UTC)) == 0
    found = bare.execute(_TENANT_TABLES).fetchall()
    assert {row[0] for row in found} == {
        "tenants",
        "teams",
        "principals",
        "principal_teams",
        "api_keys",
        "policies",
        "policy_drafts",
        "quota_requests",
        "router_states",
        "policy_versions",
        "sources",
        "aliases",
        "issuers",
        "role_bindings",
        "changes",
        *LEDGER_TABLES,
        *BUDGET_TABLES,
        *ALERT_TABLES,
        "idempotency_keys",
        "console_sessions",
        "canary_reports",
        *RESPONSE_TABLES,
        *FEEDBACK_TABLES,
        *ROUTER_TABLES,
    }
    crossing = {role.name for role in roles.ROLES if role.crosses_tenants}
    for table, enabled, forced, owner in found:
        assert enabled and forced, f"{table} has no forced row-level security"
        assert owner == roles.MIGRATOR
        column = "id" if table == "tenants" else "tenant_id"
        bound = f"({column})::text = ( SELECT current_setting('interlock.tenant_id'::text, true)"
        policies_here = bare.execute(_POLICIES, (table,)).fetchall()
        for _, name, granted, command, using, check in policies_here:
            if using == "true":
                assert set(granted) <= crossing, f"{table}.{name} lets {granted} cross tenants"
                continue
            assert granted == [roles.APP] and command == "ALL", f"{table}.{name}"
            assert bound in using and bound in check, f"{table}.{name} is not bound to the tenant"
        assert [p for p in policies_here if p[2] == [roles.APP]], f"{table} has no policy for tenants"


def test_the_roles_have_no_way_around(bare: psycopg.Connection[Any]) -> None:
    found = bare.execute(
        "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb FROM pg_roles"
        " WHERE rolname = ANY(%s)",
        ([role.name for role in roles.ROLES],),
    ).fetchall()
    assert len(found) == len(roles.ROLES)
    assert all(not any(flags) for _, *flags in found)
    owners = bare.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'interlock'").fetchall()
    assert owners == [(roles.MIGRATOR,)]
    inherited = bare.execute(
        "SELECT r.rolname, m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid"
        " JOIN pg_roles m ON m.oid = a.member WHERE r.rolname LIKE 'interlock\\_%%' AND a.inherit_option",
    ).fetchall()
    assert inherited == [], "a login must take a role to use it"
    members = bare.execute(
        "SELECT count(*) FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member"
        " WHERE m.rolname LIKE 'interlock\\_%%'"
    ).fetchone()
    assert members == (0,), "no role of ours may take another"


def test_without_a_role_nothing_is_seen(bare: psycopg.Connection[Any]) -> None:
    for table in ("tenants", "api_keys", "snapshot_part"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            bare.execute(f"SELECT * FROM interlock.{table}")


@pytest.mark.parametrize("role", roles.ROLES, ids=lambda r: r.name)
def test_privileges_are_as_the_roles_table_says(bare: psycopg.Connection[Any], role: roles.RoleInfo) -> None:
    granted = bare.execute(
        "SELECT c.relname, a.privilege_type FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
        " aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE n.nspname = 'interlock' AND c.relkind = 'r' AND r.rolname = %s",
        (role.name,),
    ).fetchall()
    writes = {t for t, p in granted if p in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")}
    snapshot = {"snapshot_part", "snapshot_head", "snapshot_dirty"}
    if role.name == roles.NODE:
        seen = {"snapshot_part", "snapshot_head", "nodes", "live_watch"}
        assert {t for t, _ in granted} == seen and writes == {"nodes"}
    elif role.name == roles.COMPILER:
        assert writes == snapshot | {"compile_lock"} and "changes" not in {t for t, _ in granted}
    elif role.name == roles.LENDER:
        seen = {"budgets", "budget_periods", "budget_leases", "budget_charges", "idempotency_keys", *RESPONSE_TABLES}
        assert {t for t, _ in granted} == seen | {"canary_reports", "call_feedback"}
        writable = {"budget_periods", "budget_leases", "idempotency_keys", "canary_reports", "call_feedback"}
        assert writes == writable | set(RESPONSE_TABLES)
        assert {p for t, p in granted if t == "canary_reports"} == {"INSERT"}
        assert not {(t, w) for t, w in granted if t in RESPONSE_TABLES and w == "UPDATE"}
        assert ("stored_response_keys", "DELETE") not in granted
        assert ("budget_leases", "DELETE") not in granted
    elif role.name in (roles.APP, roles.PLATFORM):
        assert ("changes", "UPDATE") not in granted and ("changes", "DELETE") not in granted
        assert not writes & {"snapshot_part", "snapshot_head"}
        assert "TRUNCATE" not in {p for _, p in granted}
    if role.name == roles.APP:
        assert ("tenants", "INSERT") not in granted and ("tenants", "DELETE") not in granted


def test_of_a_call_a_node_may_know_only_what_its_caller_may(bare: psycopg.Connection[Any]) -> None:
    definers = bare.execute(
        "SELECT p.proname, pg_get_userbyid(p.proowner), p.proconfig, array_agg(pg_get_userbyid(a.grantee)::text)"
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a"
        " WHERE n.nspname = 'interlock' AND p.prosecdef AND a.grantee <> p.proowner"
        " GROUP BY p.proname, p.proowner, p.proconfig"
    ).fetchall()
    assert definers == [("feedback_call", roles.MIGRATOR, ["search_path=pg_catalog, pg_temp"], [roles.LENDER])], (
        "nothing else passes row-level security, and nobody else may use it"
    )


def test_the_page_names_every_role() -> None:
    text = DOC.read_text()
    for role in roles.ROLES:
        row = next((line for line in text.splitlines() if line.startswith(f"| `{role.name}` |")), None)
        assert row is not None, f"{DOC.name} does not list {role.name}"
        assert row.split("|")[2].strip() == ("yes" if role.crosses_tenants else "no")


@pytest.fixture(scope="module")
def two(store: Store) -> tuple[Tenant, Tenant]:
    """Two tenants with a row in every table."""
    made = []
    with store.platform() as conn:
        for name in ("victim", "attacker"):
            tenant = tenants.insert(conn, samples.tenant(name), BY).value
            team = teams.insert(conn, samples.team(tenant.id), BY).value
            owner = principals.insert(conn, samples.principal(tenant.id, teams=(team.id,)), BY).value
            row, digest = samples.key(owner)
            keys.insert(conn, row, digest, BY)
            policies.insert(conn, samples.policy(tenant.id), BY)
            sources.insert(conn, samples.source(tenant.id, f"gpu-{name}"), BY)
            aliases.insert(conn, samples.alias(tenant.id), BY)
            issuers.insert(conn, samples.issuer(tenant.id, f"https://{name}"), BY)
            made.append(tenant)
        sources.insert(conn, samples.source("", "platform-gpu"), BY)
        policies.insert(conn, samples.policy("", "platform-policy"), BY)
    return made[0], made[1]


TABLES = ("teams", "principals", "principal_teams", "api_keys", "policies", "sources", "aliases", "issuers", "changes")


@pytest.mark.parametrize("table", TABLES)
def test_a_tenant_sees_its_own_rows_only(store: Store, two: tuple[Tenant, Tenant], table: str) -> None:
    victim, attacker = two
    with store.tenant(attacker.id) as conn:
        seen = conn.execute(f"SELECT DISTINCT tenant_id FROM interlock.{table}").fetchall()
        assert seen == [(attacker.id,)]
    with store.platform() as conn:
        count = f"SELECT count(*) FROM interlock.{table} WHERE tenant_id = %s"
        assert conn.execute(count, (victim.id,)).fetchone() != (0,)


@pytest.mark.parametrize("table", [t for t in TABLES if t != "changes"])
def test_a_tenant_cannot_touch_anothers_rows(store: Store, two: tuple[Tenant, Tenant], table: str) -> None:
    victim, attacker = two
    with store.tenant(attacker.id) as conn:
        gone = conn.execute(f"DELETE FROM interlock.{table} WHERE tenant_id = %s", (victim.id,))
        assert gone.rowcount == 0
        taken = conn.execute(f"UPDATE interlock.{table} SET tenant_id = tenant_id WHERE tenant_id = %s", (victim.id,))
        assert taken.rowcount == 0
    with pytest.raises(StoreError) as caught, store.tenant(attacker.id) as conn:
        conn.execute(f"UPDATE interlock.{table} SET tenant_id = %s", (victim.id,))
    assert "row-level security" in caught.value.message


def test_a_tenant_cannot_write_into_another_or_into_the_platform(store: Store, two: tuple[Tenant, Tenant]) -> None:
    victim, attacker = two
    for tenant_id in (victim.id, ""):
        for module, value in (
            (teams, samples.team(victim.id, "planted")),
            (policies, samples.policy(tenant_id, "planted")),
            (sources, samples.source(tenant_id, "planted")),
            (aliases, samples.alias(tenant_id, "planted")),
        ):
            with pytest.raises(StoreError, match="row-level security"), store.tenant(attacker.id) as conn:
                module.insert(conn, value, BY)
        with pytest.raises(StoreError, match="row-level security"), store.tenant(attacker.id) as conn:
            changes.record(conn, changes.Change(tenant_id, "team.create", "team", "team_x"), BY)


def test_a_tenant_cannot_read_digests_or_snapshots_or_change_role(store: Store, two: tuple[Tenant, Tenant]) -> None:
    _, attacker = two
    for statement in (
        "SELECT digest FROM interlock.api_keys",
        "SELECT * FROM interlock.snapshot_part",
        "SELECT * FROM interlock.nodes",
        "DELETE FROM interlock.changes",
        "ALTER TABLE interlock.teams DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE interlock.mine (id int)",
    ):
        with pytest.raises(StoreError) as caught, store.tenant(attacker.id) as conn:
            conn.execute(statement)
        assert caught.value.code == "store_forbidden", statement


def test_nothing_of_one_transaction_is_left_for_the_next(postgres_url: str, two: tuple[Tenant, Tenant]) -> None:
    victim, _ = two
    settings = Settings(database_pool_max=2)
    with Store(postgres_url, settings) as store:
        for _ in range(4):
            with store.tenant(victim.id) as conn:
                assert len(teams.page(conn)) == 1
        with store._pool.connection() as conn:
            row = conn.execute("SELECT current_user = session_user, current_setting('interlock.tenant_id', true)")
            assert row.fetchone() in ((True, ""), (True, None))
        with pytest.raises(ValueError, match="tenant"), store.tenant(""):
            pass
        with store.tenant("ten_nobody") as conn:
            assert teams.page(conn) == []
