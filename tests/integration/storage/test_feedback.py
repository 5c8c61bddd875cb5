"""Feedback in a real database: whose call it is, one reservation of a kind, what counts, and whose rows are seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from interlock.ledger.sums import Key
from interlock.storage import feedback
from interlock.storage.pool import Store

from .test_leases import lending

DAY = date(2026, 3, 1)
EPOCH = "0123456789abcdef"
CALL = f"req_{EPOCH}_1"
LEAF = b'{"what":{"data_class":2,"recording":"full"}}'


@pytest.fixture
def empty(store: Store, postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The owner's connection, no feedback in the tables, and one call of ten_1 in the ledger."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        for table in ("call_feedback", "feedback_waiting", "ledger_entries", "ledger_epochs"):
            conn.execute(f"DELETE FROM interlock.{table}")
        conn.execute(
            "INSERT INTO interlock.ledger_entries (tenant_id, position, at_ns, kind, request, team_id, principal_id,"
            " subject, source, model, state, leaf, hash) VALUES ('ten_1', 0, 1, 'call', %s, '', 'prn_bot', 'prn_ann',"
            " '', '', '', %s, sha256(''))",
            (CALL, LEAF),
        )
        conn.execute(
            "INSERT INTO interlock.ledger_epochs (epoch, node, floor_ns, watermark_ns, calls_through)"
            " VALUES (%s, 'n', 0, 0, 5)",
            (EPOCH,),
        )
        yield conn


def wanted(number: int = 1, giver: str = "prn_ann", value: bytes = b"up", **given: Any) -> feedback.Claim:
    fields = {"tenant_id": "ten_1", "request": f"req_{EPOCH}_{number:x}", "epoch": EPOCH, "number": number}
    more = {"feedback_id": "req_fedcba9876543210_1", "digests": {"thumb": value}, "recent": False}
    return feedback.Claim(**{**fields, "giver": giver, **more, **given})


async def claim(conn: AsyncConnection[Any], asked: feedback.Claim) -> feedback.Found:
    async with conn.transaction():
        return await feedback.claim(conn, asked)


def claimed(url: str, *asked: feedback.Claim) -> list[feedback.Found]:
    async def main() -> list[feedback.Found]:
        async with lending(url) as conn:
            return [await claim(conn, each) for each in asked]

    return asyncio.run(main())


def test_whose_call_it_is(empty: Any, postgres_url: str) -> None:
    own = feedback.Found("own", "", "prn_ann", "full", 2)
    found = claimed(postgres_url, wanted(), wanted(giver="prn_bot"), wanted(giver="prn_bob"), wanted(2), wanted(6))
    assert [each.state for each in found] == ["own", "own", "missing", "missing", "arriving"]
    assert found[0] == own
    never = wanted(epoch="zzzzzzzzzzzzzzzz", request="req_zzzzzzzzzzzzzzzz_1")
    assert [each.state for each in claimed(postgres_url, never, never._replace(recent=True))] == ["missing", "arriving"]
    empty.execute("UPDATE interlock.ledger_epochs SET settled = 1, whole = true")
    assert claimed(postgres_url, wanted(6))[0].state == "missing", "its epoch is over, and has no such call"


def test_of_a_call_of_another_tenant_nothing_is_known(empty: Any, postgres_url: str) -> None:
    found = claimed(postgres_url, wanted(tenant_id="ten_2"), wanted(2, tenant_id="ten_2"))
    assert [each.state for each in found] == ["missing", "missing"]
    assert empty.execute("SELECT count(*) FROM interlock.call_feedback").fetchone() == (0,)


def test_while_entries_of_the_epoch_wait_a_call_may_be_among_them(empty: Any, postgres_url: str) -> None:
    empty.execute(
        "INSERT INTO interlock.ledger_inbox (tenant_id, epoch, n, leaf) VALUES ('ten_1', %s, 1, '')", (EPOCH,)
    )
    try:
        found = claimed(postgres_url, wanted(2), wanted(2, tenant_id="ten_2"), wanted(giver="prn_bob"))
        assert [each.state for each in found] == ["arriving", "missing", "arriving"]
    finally:
        empty.execute("DELETE FROM interlock.ledger_inbox WHERE epoch = %s", (EPOCH,))


def test_of_many_that_say_different_things_at_once_one_is_taken(empty: Any, postgres_url: str) -> None:
    async def one(number: int) -> feedback.Found:
        async with lending(postgres_url) as conn:
            return await claim(conn, wanted(value=bytes([number]), feedback_id=f"req_fedcba9876543210_{number}"))

    async def main() -> list[feedback.Found]:
        return await asyncio.gather(*(one(number) for number in range(1, 9)))

    states = sorted(each.state for each in asyncio.run(main()))
    assert states == ["given"] * 7 + ["own"]
    assert empty.execute("SELECT count(*) FROM interlock.call_feedback").fetchone() == (1,)


def test_the_same_is_reserved_for_each_that_says_it_up_to_a_bound(empty: Any, postgres_url: str) -> None:
    same = [wanted(feedback_id=f"req_fedcba9876543210_{n}") for n in range(1, feedback.IDS_MAX + 3)]
    assert {each.state for each in claimed(postgres_url, *same)} == {"own"}
    ((ids,),) = empty.execute("SELECT feedback_ids FROM interlock.call_feedback").fetchall()
    assert len(ids) == feedback.IDS_MAX


def counted(feedback_id: str, entry: int = 1, **given: Any) -> feedback.Counted:
    key = Key(DAY, "team_1", "prn_bot", "s", "m", "", "batch", "fast")
    fields = {"request": CALL, "kind": "thumb", "feedback_id": feedback_id, "call_subject": "prn_ann"}
    more = {"position": entry, "entry": entry, "at_ns": 9, "key": key, "version": "v1", "thumb": "up"}
    return feedback.Counted(**{**fields, **more, "score_micro": None, "reason": "", "reward_micro": 1_000_000, **given})


def test_what_counts_first_stays(store: Store, empty: Any, postgres_url: str) -> None:
    claimed(postgres_url, wanted(feedback_id="req_a_1"))
    with store.sequencing() as conn:
        feedback.count(conn, "ten_1", [counted("req_b_1", 1, thumb="down", reward_micro=0)])
    with store.tenant("ten_1") as conn:
        assert feedback.read_since(conn, "ten_1", -1, 10) == [], "the kind is reserved for another"
    with store.sequencing() as conn:
        feedback.count(conn, "ten_1", [counted("req_a_1", 2)])
        feedback.count(conn, "ten_1", [counted("req_a_1", 3, thumb="down", reward_micro=0)])
    with store.tenant("ten_1") as conn:
        (row,) = feedback.read_since(conn, "ten_1", -1, 10)
    assert (row.position, row.thumb, row.reward_micro, row.version) == (2, "up", 1_000_000, "v1")
    assert claimed(postgres_url, wanted(), wanted(value=b"down"))[0].state == "same"
    assert claimed(postgres_url, wanted(value=b"down"))[0] == feedback.Found("given", "thumb")


def test_pages_are_by_place_and_a_call_counts_once_in_a_mean(store: Store, empty: Any) -> None:
    score = {"kind": "score", "thumb": "", "score_micro": 250_000, "reward_micro": 250_000}
    with store.sequencing() as conn:
        feedback.count(conn, "ten_1", [counted("req_a_1", 4), counted("req_b_1", 7, **score)])
        more = {"request": f"req_{EPOCH}_2", "kind": "corrected", "thumb": "", "reward_micro": None}
        feedback.count(conn, "ten_1", [counted("req_c_1", 9, **more)])
        feedback.count(conn, "ten_2", [counted("req_d_1", 1)])
    with store.tenant("ten_1") as conn:
        first = feedback.read_since(conn, "ten_1", -1, 2)
        assert [row.position for row in first] == [4, 7]
        (last,) = feedback.read_since(conn, "ten_1", 7, 2)
        assert (last.position, last.corrected, last.reward_micro) == (9, True, None)
        ((values, quality),) = feedback.summary(
            conn, "ten_1", DAY, DAY + timedelta(days=1), by=("team_id", "model", "alias")
        )
        assert values == ("team_1", "m", "fast") and quality[:2] == (1, 250_000)
        assert feedback.summary(conn, "ten_1", DAY + timedelta(days=1), DAY + timedelta(days=2)) == []
        with pytest.raises(ValueError, match="not by"):
            feedback.summary(conn, "ten_1", DAY, DAY, by=("request; DROP TABLE x",))
        assert feedback.read_since(conn, "ten_2", -1, 2) == [], "another tenant's rows are not seen, whoever is named"
        feedback.prune(conn, "ten_1", 8)
        assert [row.position for row in feedback.read_since(conn, "ten_1", -1, 5)] == [9]
