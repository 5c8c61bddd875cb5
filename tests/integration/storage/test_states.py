"""Stored responses in a real database: whose they are, how far back they are followed, and when they are gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from interlock.settings import Settings
from interlock.storage import notify, states
from interlock.storage.pool import Store
from interlock.storage.roles import LENDER

from .test_leases import lending

KEY = states.Key(b"n" * 16, b"wrapped")
BOUNDS = states.Bounds(10, 1000)
OWNERS = (states.Owner(f"ten_{number}", "prn_1") for number in range(1000, 2000))


def test_a_rested_connection_is_tried_before_it_is_used(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was away meanwhile fails nobody's question."""
    monkeypatch.setattr(notify, "RESTED_S", 0.0)

    async def main() -> None:
        node = notify.NodeConnection(postgres_url, Settings(), LENDER)
        conn = await node.get()
        assert await node.get() is conn
        pid = conn.info.backend_pid
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        again = await node.get()
        row = await (await again.execute("SELECT current_user")).fetchone()
        assert row == (LENDER,) and again.info.backend_pid != pid
        await node.close()

    asyncio.run(main())


@pytest.fixture
def owner() -> states.Owner:
    return next(OWNERS)


def run(url: str, what: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with lending(url) as conn:
            await what(conn)

    asyncio.run(main())


async def chain_of(conn: AsyncConnection[Any], owner: states.Owner, count: int, size: int = 10) -> None:
    await states.key(conn, owner, KEY)
    for n in range(count):
        row = states.Row(f"r{n}", f"r{n - 1}" if n else "", bytes([n]) * size)
        assert await states.keep(conn, owner, row, KEY.name, 60)


def test_a_conversation_is_read_from_its_beginning_within_bounds(
    store: Store, postgres_url: str, owner: states.Owner
) -> None:
    async def main(conn: AsyncConnection[Any]) -> None:
        await chain_of(conn, owner, 10)
        whole = [f"r{n}" for n in range(10)]
        assert await states.chain(conn, owner, "r9", BOUNDS) == ("found", whole)
        assert await states.chain(conn, owner, "r4", BOUNDS) == ("found", whole[:5])
        assert await states.chain(conn, owner, "r9", states.Bounds(10, 100)) == ("found", whole)
        assert await states.chain(conn, owner, "r9", states.Bounds(9, 1000)) == ("too_long", [])
        assert await states.chain(conn, owner, "r9", states.Bounds(10, 99)) == ("too_long", [])
        assert await states.chain(conn, owner, "r8", states.Bounds(9, 99)) == ("found", whole[:9])
        rows = [row async for row in states.read(conn, owner, whole)]
        assert [row.id for row in rows] == whole and rows[3] == states.Row("r3", "r2", b"\x03" * 10)
        assert await states.drop(conn, owner, "r3") and not await states.drop(conn, owner, "r3")
        assert await states.chain(conn, owner, "r9", BOUNDS) == ("broken", [])
        assert await states.chain(conn, owner, "r2", BOUNDS) == ("found", whole[:3])
        assert await states.chain(conn, owner, "r3", BOUNDS) == ("missing", [])

    run(postgres_url, main)


def test_long_conversations_are_read_in_order(store: Store, postgres_url: str, owner: states.Owner) -> None:
    async def main(conn: AsyncConnection[Any]) -> None:
        count = 2 * states.FETCHED_AT_ONCE + 1
        await chain_of(conn, owner, count)
        state, names = await states.chain(conn, owner, f"r{count - 1}", states.Bounds(1000, 10**6))
        assert (state, names) == ("found", [f"r{n}" for n in range(count)])
        assert [row.id async for row in states.read(conn, owner, names)] == names

    run(postgres_url, main)


def test_it_belongs_to_one_subject_of_one_tenant(store: Store, postgres_url: str, owner: states.Owner) -> None:
    others = [owner._replace(subject="prn_2"), next(OWNERS)]

    async def main(conn: AsyncConnection[Any]) -> None:
        await chain_of(conn, owner, 2)
        for other in others:
            assert await states.key(conn, other, None) is None
            own = states.Key(b"o" * 16, b"other")
            assert await states.key(conn, other, own) == own and await states.key(conn, other, KEY) == own
            assert await states.chain(conn, other, "r1", BOUNDS) == ("missing", [])
            assert not [row async for row in states.read(conn, other, ["r0", "r1"])]
            assert not await states.drop(conn, other, "r1")
            # going on from what is somebody else's leads nowhere
            assert await states.keep(conn, other, states.Row("mine", "r1", b""), own.name, 60)
            assert await states.chain(conn, other, "mine", BOUNDS) == ("broken", [])
        assert await states.chain(conn, owner, "r1", BOUNDS) == ("found", ["r0", "r1"])

    run(postgres_url, main)


def test_what_has_expired_is_as_good_as_gone_and_is_removed(
    store: Store, postgres_url: str, owner: states.Owner
) -> None:
    async def main(conn: AsyncConnection[Any]) -> None:
        await chain_of(conn, owner, 1)
        assert await states.keep(conn, owner, states.Row("old", "", b"x"), KEY.name, -1)
        assert await states.keep(conn, owner, states.Row("new", "old", b"x"), KEY.name, 60)
        assert await states.chain(conn, owner, "old", BOUNDS) == ("missing", [])
        assert await states.chain(conn, owner, "new", BOUNDS) == ("broken", [])
        assert not [row async for row in states.read(conn, owner, ["old"])]
        assert not await states.drop(conn, owner, "old")
        assert await states.sweep(conn, 500) >= 1 and await states.sweep(conn, 500) == 0
        assert await states.chain(conn, owner, "r0", BOUNDS) == ("found", ["r0"])

    run(postgres_url, main)


def test_an_erasure_takes_the_key_and_all_that_is_under_it(
    store: Store, postgres_url: str, owner: states.Owner
) -> None:
    def erase(subject: str) -> int:
        with store.tenant(owner.tenant_id) as conn:
            return states.erase(conn, owner.tenant_id, subject)

    async def main(conn: AsyncConnection[Any]) -> None:
        other = owner._replace(subject="prn_2")
        await chain_of(conn, owner, 3)
        await chain_of(conn, other, 1)
        assert await asyncio.to_thread(erase, owner.subject) == 1
        assert await states.chain(conn, owner, "r2", BOUNDS) == ("missing", [])
        assert await states.chain(conn, other, "r0", BOUNDS) == ("found", ["r0"])
        assert not await states.keep(conn, owner, states.Row("late", "", b"x"), KEY.name, 60), "a call from before"
        assert await states.key(conn, owner, None) is None
        fresh = states.Key(b"f" * 16, b"fresh")
        assert await states.key(conn, owner, fresh) == fresh
        assert not await states.keep(conn, owner, states.Row("late", "", b"x"), KEY.name, 60)

    run(postgres_url, main)


def test_a_response_that_is_stored_during_an_erasure_is_erased_too(
    store: Store, postgres_url: str, owner: states.Owner
) -> None:
    async def main(conn: AsyncConnection[Any]) -> None:
        await chain_of(conn, owner, 1)
        erased = threading.Event()

        def erase() -> None:
            with store.tenant(owner.tenant_id) as own:
                states.erase(own, owner.tenant_id, owner.subject)
            erased.set()

        async with conn.transaction():
            assert await states.keep(conn, owner, states.Row("late", "", b"x"), KEY.name, 60)
            eraser = threading.Thread(target=erase)
            eraser.start()
            await asyncio.sleep(0.2)
            assert not erased.is_set(), "it waits for what is being added"
        await asyncio.to_thread(eraser.join, 60)
        assert await states.chain(conn, owner, "late", BOUNDS) == ("missing", [])

    run(postgres_url, main)


def test_tenants_cannot_look_into_it(store: Store, postgres_url: str, owner: states.Owner) -> None:
    async def main(conn: AsyncConnection[Any]) -> None:
        await chain_of(conn, owner, 1)

    run(postgres_url, main)
    for query in (
        "SELECT sealed FROM interlock.stored_responses",
        "SELECT wrapped FROM interlock.stored_response_keys",
        "DELETE FROM interlock.stored_responses",
        "UPDATE interlock.stored_response_keys SET subject = 'x'",
    ):
        with pytest.raises(Exception) as caught, store.tenant(owner.tenant_id) as own:
            own.execute(query)  # type: ignore[arg-type]
        cause = caught.value.__cause__ or caught.value
        assert isinstance(cause, psycopg.errors.InsufficientPrivilege) or "permission denied" in str(caught.value)
    with store.tenant("ten_other") as own:
        assert states.erase(own, owner.tenant_id, owner.subject) == 0, "of another tenant"
