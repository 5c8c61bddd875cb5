"""The node's side of budgets when the database is away: nobody who waits for a share is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from interlock.errors import StoreError
from interlock.gateway.lender import Lender, _Wish
from interlock.gateway.link import LeaseGranted, LeaseRecalled, LeaseRefused, LeaseWanted
from interlock.settings import Settings
from interlock.testing.clock import FakeClock


class Worker:
    number = 0
    ready = True

    def __init__(self) -> None:
        self.told: list[LeaseGranted | LeaseRefused | LeaseRecalled] = []

    def send(self, message: LeaseGranted | LeaseRefused | LeaseRecalled, /) -> bool:
        self.told.append(message)
        return True


def test_every_wish_is_answered_when_the_database_goes_away() -> None:
    worker = Worker()
    wanted = [LeaseWanted("e" * 16, "ten_1", "bdg_1", start_s, 1, 8) for start_s in (0, 0, 60)]

    async def main() -> None:
        lender = Lender("node", "", Settings(), FakeClock(), lambda: [worker])
        for each in wanted[:2]:  # they wait for others to give something back, and their time is over
            lender._waiting.setdefault((each.budget, each.start_s), []).append(_Wish(0, each, 0))
        lender.wanted(0, wanted[2])
        with pytest.raises(StoreError) as raised:
            await lender._pass()
        await lender._fail(raised.value)

    asyncio.run(main())
    refused = LeaseRefused("e" * 16, "bdg_1", 0, "unavailable")
    assert sorted(worker.told, key=str) == sorted(
        [refused, refused, LeaseRefused("e" * 16, "bdg_1", 60, "unavailable")], key=str
    )
