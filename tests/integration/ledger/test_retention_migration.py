"""What was in the ledger before retention was known has the days of the calls that use it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import psycopg

from interlock.ledger.entry import Draft, call_entry, encode_leaf
from interlock.ledger.fold import records_of
from interlock.ledger.vault import SubjectKey
from interlock.settings import Settings
from interlock.storage import migrate as migration
from interlock.storage.retention import COLUMNS, NS_PER_DAY
from interlock.types.identity import DataClass
from tests.integration.older_schema import left_at
from tests.unit.ledger.support import attempt, intent, outcome

KEY = SubjectKey(bytes(range(32)))
SUBJECT = "prn_alice\x1f2"


def draft(call: int, messages: list[str], data_class: DataClass, day: int) -> Draft:
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": each} for each in messages]})
    record: Any = intent(call, body=body)
    features = msgspec.structs.replace(record.features, data_class=data_class)
    record = msgspec.structs.replace(record, tenant_id="ten_acme", features=features)
    ended: Any = msgspec.structs.replace(outcome(call), finish_reasons=("\0",))  # which no jsonb holds
    made = call_entry(records_of("e" * 16, call, [record, attempt(call), ended]), day * NS_PER_DAY + 5, KEY)
    made.leaf["who"]["key"] = SUBJECT
    return made


def test_contents_that_are_there_get_the_days_of_the_calls_that_use_them(postgres_empty_url: str) -> None:
    settings = Settings(database_connect_timeout_ms=2000)
    left_at(postgres_empty_url, "0007", settings)
    placed = draft(1, ["one"], DataClass.internal, 10)
    later = draft(2, ["one"], DataClass.internal, 12)
    waiting = draft(3, ["one", "two"], DataClass.restricted, 20)
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        for each in (placed, later, waiting):
            for content in each.contents:
                conn.execute(
                    "INSERT INTO interlock.ledger_contents VALUES ('ten_acme', %s, %s, %s) ON CONFLICT DO NOTHING",
                    (SUBJECT, content.id, content.data),
                )
            for node in each.lists:
                conn.execute(
                    "INSERT INTO interlock.ledger_lists VALUES ('ten_acme', %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (SUBJECT, node.id, node.previous, node.item),
                )
        conn.execute("INSERT INTO interlock.ledger_contents VALUES ('ten_acme', 'nobody', %s, 'x')", (bytes(32),))
        for position, each in enumerate((placed, later)):
            conn.execute(
                "INSERT INTO interlock.ledger_entries VALUES"
                " ('ten_acme', %s, %s, 'call', '', '', '', '', '', '', '', %s, %s)",
                (position, each.at_ns, encode_leaf(each.leaf), bytes(32)),
            )
        conn.execute(
            "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, n, leaf) VALUES ('ten_acme', 'e', 1, %s)",
            (encode_leaf(waiting.leaf),),
        )
    migration.migrate(postgres_empty_url, settings)
    with psycopg.connect(postgres_empty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        query = f"SELECT id, {', '.join(COLUMNS)} FROM interlock.ledger_{{}} WHERE subject = %s"
        contents, lists = ({row[0]: row[1:] for row in conn.execute(query.format(name), (SUBJECT,))}
                           for name in ("contents", "lists"))  # fmt: skip
        orphan = conn.execute(query.format("contents"), ("nobody",)).fetchone()
        left = conn.execute("SELECT to_regclass('interlock.retention_uses'), to_regclass('interlock.retention_nodes')")
        assert left.fetchone() == (None, None)
    one, two = waiting.lists
    assert lists == {one.id: (None, 12, None, 20), two.id: (None, None, None, 20)}
    assert (contents[one.item], contents[two.item]) == ((None, 12, None, 20), (None, None, None, 20))
    for each, days in ((placed, (None, 10, None, None)), (waiting, (None, None, None, 20))):
        (record,) = [bytes.fromhex(r["id"]) for r in each.leaf["contents"] if r["role"] == "record"]
        assert contents[record] == days
    assert orphan is not None and set(orphan[1:]) <= {time.time_ns() // NS_PER_DAY - n for n in (0, 1)}
