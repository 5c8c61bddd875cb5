"""Idempotency keys in a real database: one claim a key, whoever asks at once, and what becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import AsyncConnection

from interlock.storage import claims, shipping
from interlock.storage.pool import Store

from .test_leases import lending

DIGESTS = (bytes([number]) * 32 for number in range(1, 250))


@pytest.fixture
def digest() -> bytes:
    return next(DIGESTS)


def wanted(digest: bytes, request: str = "req_1", **given: Any) -> claims.Claim:
    fields = {"tenant_id": "ten_1", "principal_id": "prn_1", "fingerprint": bytes(32), "subject": "prn_1"}
    return claims.Claim(**{**fields, "digest": digest, "epoch": "e" * 16, "request": request, "keep_s": 60, **given})


async def claim(conn: AsyncConnection[Any], asked: claims.Claim) -> claims.Found:
    async with conn.transaction():
        return await claims.claim(conn, asked)


def test_of_many_that_ask_at_once_one_gets_the_key(store: Store, postgres_url: str, digest: bytes) -> None:
    async def ask(number: int) -> claims.Found:
        async with lending(postgres_url) as conn:
            return await claim(conn, wanted(digest, f"req_{number}"))

    async def main() -> list[claims.Found]:
        return await asyncio.gather(*(ask(number) for number in range(8)))

    found = asyncio.run(main())
    fresh = [each.request for each in found if each.state == "fresh"]
    assert len(fresh) == 1
    assert {(each.state, each.request) for each in found} == {("fresh", fresh[0]), ("running", fresh[0])}


def test_what_becomes_of_a_claim(store: Store, postgres_url: str, digest: bytes) -> None:
    async def main() -> None:
        async with lending(postgres_url) as conn:
            assert (await claim(conn, wanted(digest))).state == "fresh"
            assert (await claim(conn, wanted(digest, "req_2"))) == claims.Found("running", "req_1")
            assert (await claim(conn, wanted(digest, "req_2", fingerprint=b"x" * 32))).state == "other"
            assert (await claim(conn, wanted(digest, "req_2", principal_id="prn_2"))).state == "fresh"
            await claims.end(conn, "ten_1", "prn_1", digest, "req_9", "done", b"not its own")
            assert (await claim(conn, wanted(digest, "req_2"))).state == "running"
            await claims.end(conn, "ten_1", "prn_1", digest, "req_1", "free", b"")
            assert (await claim(conn, wanted(digest, "req_3"))) == claims.Found("fresh", "req_3")
            await claims.end(conn, "ten_1", "prn_1", digest, "req_3", "done", b"sealed")
            assert (await claim(conn, wanted(digest, "req_4"))) == claims.Found("done", "req_3", b"sealed")

    asyncio.run(main())


def test_a_claim_of_a_dead_worker_is_lost_when_its_log_is_in_the_ledger(
    store: Store, postgres_url: str, digest: bytes
) -> None:
    epoch = digest.hex()[:16]

    async def state(request: str) -> str:
        async with lending(postgres_url) as conn:
            return (await claim(conn, wanted(digest, request, epoch=epoch))).state

    assert asyncio.run(state("req_1")) == "fresh"
    with store.shipping() as conn:
        shipping.register(conn, "node", {epoch: 1}, 1)
    assert asyncio.run(state("req_2")) == "running"
    with store.shipping() as conn:
        conn.execute("UPDATE interlock.ledger_epochs SET whole = true WHERE epoch = %s", (epoch,))
        shipping.settle(conn, [epoch])
    assert asyncio.run(state("req_2")) == "lost"


def test_a_claim_expires(store: Store, postgres_url: str, digest: bytes) -> None:
    async def main() -> list[str]:
        async with lending(postgres_url) as conn:
            return [(await claim(conn, wanted(digest, "req_1", keep_s=seconds))).state for seconds in (-1, -1, 60, 60)]

    assert asyncio.run(main()) == ["fresh", "fresh", "fresh", "running"]


def test_an_erasure_takes_the_answers_of_its_subject(store: Store, postgres_url: str, digest: bytes) -> None:
    async def put(tenant_id: str, subject: str) -> str:
        async with lending(postgres_url) as conn:
            asked = wanted(digest, "req_1", tenant_id=tenant_id, principal_id=f"of {subject}", subject=subject)
            found = await claim(conn, asked)
            await claims.end(conn, tenant_id, asked.principal_id, digest, "req_1", "done", b"sealed")
            return found.state

    for tenant_id in ("ten_1", "ten_2"):
        for subject in ("prn_x", "prn_y"):
            assert asyncio.run(put(tenant_id, subject)) == "fresh"
    with store.tenant("ten_1") as conn:
        assert claims.erase(conn, "ten_1", "prn_x") == 1
        assert claims.erase(conn, "ten_2", "prn_x") == 0, "row-level security: it is not this tenant's"
    assert asyncio.run(put("ten_1", "prn_y")) == "done"
    assert asyncio.run(put("ten_2", "prn_x")) == "done"
    assert asyncio.run(put("ten_1", "prn_x")) == "fresh"
