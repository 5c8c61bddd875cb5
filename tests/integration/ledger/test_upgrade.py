"""A database from before administrative changes were entries: what was on its way arrives, and numbers go on."""

from __future__ import annotations

from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config

from interlock.ledger.control_entry import EPOCH, NODE
from interlock.ledger.entry import encode_leaf
from interlock.settings import Settings
from interlock.storage import changes, roles
from interlock.storage.migrate import SCRIPTS, migrate
from interlock.storage.pool import Store
from tests.integration.control_client import control_over
from tests.integration.ledger.harness import verified
from tests.integration.ledger.test_changes import by, change
from tests.integration.ledger.test_sequencing import entries

TENANT = "ten_1"


def _at_0004(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        roles.ensure(conn)
        conn.execute("CREATE SCHEMA interlock AUTHORIZATION interlock_migrator")
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(f"SET LOCAL ROLE {roles.MIGRATOR}")
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
    engine.dispose()


def test_what_was_on_its_way_arrives_and_numbers_go_on(postgres_empty_url: str, tmp_path: Path) -> None:
    _at_0004(postgres_empty_url)
    leaves = [
        encode_leaf({"v": 1, "tree": TENANT, "epoch": EPOCH, "n": n, "kind": "erasure", "at": 1_000 + n, "request": "",
                     "contents": [], "subject": "prn_1", "keys": ["prn_1"], "by": "prn_2"})
        for n in (1, 2)
    ]  # fmt: skip
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute(
            "INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at)"
            " VALUES (%s, 'one', 'UTC', true, now(), now())",
            (TENANT,),
        )
        conn.execute(
            "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns) VALUES (%s, %s, 1001, 1001)",
            (EPOCH, NODE),
        )
        conn.execute("INSERT INTO interlock.ledger_shipped (tenant_id, epoch, n) VALUES (%s, %s, 2)", (TENANT, EPOCH))
        for n, leaf in enumerate(leaves, 1):
            conn.execute(
                "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, n, leaf) VALUES (%s, %s, %s, %s)",
                (TENANT, EPOCH, n, leaf),
            )
        conn.execute(
            "INSERT INTO interlock.changes (at, tenant_id, actor_id, actor, reason, request_id, action, object_kind,"
            " object_id) VALUES (now(), %s, 'prn_2', 'olga', 'before', '', 'ledger.erase', 'ledger', 'prn_1')",
            (TENANT,),
        )
    assert migrate(postgres_empty_url, Settings())
    with control_over(postgres_empty_url, ledger_checkpoint_s=0) as running:
        store: Store = running.control.store
        with store.tenant(TENANT) as conn:
            changes.record(conn, change(TENANT), by())
        for _ in range(2):
            running.control.sequencer.sequence(TENANT)
        found = [leaf for _, _, leaf in entries(store, TENANT)]
        assert found[:2] == leaves and len(found) == 3
        assert b'"kind":"change","n":3' in found[2]
        report = verified(running.control, TENANT, tmp_path / "out", 2_000)
        assert (report.verdict, report.problems, report.in_range) == ("complete", [], 2)
        audit = running.owner.get("/tenants/one/ledger/changes-audit")
        assert (audit["older"], audit["rows"], audit["problems"]) == (1, 1, [])
