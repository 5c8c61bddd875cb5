"""From the log to the inbox: every call once, in the log's order, with its contents under its subject's key."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.errors import StoreError
from interlock.gateway.shipper import Shipper
from interlock.ledger.disk import DiskUse
from interlock.ledger.files import Files
from interlock.ledger.folder import epochs, segment_path, segments
from interlock.ledger.reader import find_call, tail
from interlock.ledger.recovery import recover
from interlock.storage import ledger_read, shipping
from interlock.storage.pool import Store
from interlock.types.clock import SystemClock
from interlock.types.record import Alive, EnergyMeasured, Held, Intent, request_id
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.harness import inbox, opened, serving, shipper_for
from tests.integration.ledger.history import History
from tests.unit.ledger.support import attempt, intent, open_log, outcome, refusal, written

CLOCK = SystemClock()


def test_calls_arrive_once_with_their_contents(store: Store, tmp_path: Path) -> None:
    with serving(tmp_path) as (gateway, _engine):
        shipper = shipper_for(store, tmp_path)
        answers = [ask(gateway, CHAT), ask(gateway, {**CHAT, "stream": True}), ask(gateway, {**CHAT, "model": "none"})]
        answers.append(ask(gateway, CHAT, key=gateway.key("carol")))
        for _ in range(3):
            shipper.pass_once()
        leaves = inbox(store)
    assert [leaf["request"] for leaf in leaves] == [answer.headers["x-interlock-request-id"] for answer in answers]
    assert [leaf["kind"] for leaf in leaves] == ["call", "call", "refusal", "call"]
    assert [(leaf["tree"], leaf["n"]) for leaf in leaves] == [
        ("ten_acme", 1),
        ("ten_acme", 2),
        ("ten_acme", 3),
        ("ten_globex", 1),
    ]
    whole, streamed, refused, other = (opened(store, leaf) for leaf in leaves)
    assert whole["messages"] == streamed["messages"] == other["messages"] == CHAT["messages"]
    assert (whole["request"], streamed["request"]) == ({"model": "m"}, {"model": "m", "stream": True})
    assert whole["answer"] == answers[0].json
    assert streamed["stream"][0] == answers[0].json["choices"][0]["message"]["content"]
    assert refused["record"][0][0] == 3 and set(refused) == {"record"}
    assert [leaf["result"]["state"] for leaf in leaves] == ["completed", "completed", "refused", "completed"]
    assert leaves[0]["tokens"]["prompt"] > 0 and leaves[0]["where"]["name"] == "s"


def test_keys_that_are_looked_up_again_seal_anew(store: Store, tmp_path: Path) -> None:
    """What is forgotten with a key is also what was sealed under it; until then a content is sealed once."""
    keys = shipper_for(store, tmp_path).keys
    with store.shipping() as conn:
        first = keys.of(conn, "ten_acme", "prn_1").key.seal(b"words")
        assert keys.of(conn, "ten_acme", "prn_1").key.seal(b"words") is first
        keys.forget()
        again = keys.of(conn, "ten_acme", "prn_1").key.seal(b"words")
    assert again == first and again is not first


def test_nothing_that_was_said_is_readable_or_can_be_guessed(store: Store, tmp_path: Path) -> None:
    """Neither the words nor any plain hash of them are in the database; equal words of two subjects look different."""
    import hashlib

    secret = "the patient of room 12 has a rare disease"
    body = {**CHAT, "messages": [{"role": "user", "content": secret}]}
    with serving(tmp_path) as (gateway, _engine):
        for name in ("alice", "bob", "alice"):
            ask(gateway, body, key=gateway.key(name))
        shipper_for(store, tmp_path).pass_once()
    message = json.dumps(body["messages"][0]).encode()  # as it was sent
    needles = [secret.encode(), *(hashlib.new(name, text).digest() for name in ("sha256", "sha1", "md5")
                                  for text in (secret.encode(), message))]  # fmt: skip
    with store.shipping() as conn:
        rows = conn.execute("SELECT tenant_id, subject, id, data FROM interlock.ledger_contents").fetchall()
    leaves = [msgspec.json.encode(leaf) for leaf in inbox(store)]
    for blob in [*leaves, *(b"".join((row[2], row[3])) for row in rows)]:
        for needle in needles:
            assert needle not in blob and needle.hex().encode() not in blob
    lists = [leaf["contents"][0]["list"] for leaf in inbox(store)]
    assert lists[0] == lists[2] != lists[1], "one subject's prompt is stored once, another's apart"


def test_a_conversation_of_n_turns_costs_n(store: Store, tmp_path: Path) -> None:
    def stored() -> tuple[int, int]:
        with store.shipping() as conn:
            row = conn.execute(
                "SELECT (SELECT count(*) FROM interlock.ledger_contents), (SELECT count(*) FROM interlock.ledger_lists)"
            ).fetchone()
        assert row is not None
        return row[0], row[1]

    with serving(tmp_path) as (gateway, _engine):
        shipper = shipper_for(store, tmp_path)
        messages: list[dict[str, Any]] = []
        sizes = []
        for turn in range(12):
            messages.append({"role": "user", "content": f"question {turn}"})
            assert ask(gateway, {**CHAT, "messages": messages}).status == 200
            messages.append({"role": "assistant", "content": f"answer {turn}"})
            shipper.pass_once()
            sizes.append(stored())
        growth = {(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(sizes)}
        # two messages, the record and perhaps the answer; and two nodes of the list
        assert len(growth) == 1 and max(growth) <= (4, 2)
        last = opened(store, inbox(store)[-1])
    assert last["messages"] == messages[:-1]


def test_a_measurement_of_energy_follows_its_call(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path / "log")
        for record in (
            intent(1),
            attempt(1),
            outcome(1),
            EnergyMeasured(1, 5, 77, "nvml"),
            EnergyMeasured(9, 5, 1, ""),
        ):
            log.append(record)
        await log.close()

    asyncio.run(main())
    shipper_for(store, tmp_path).pass_once()
    call, energy = inbox(store)
    assert (energy["kind"], energy["request"], energy["energy"]) == (
        "energy",
        call["request"],
        {"uj": 77, "method": "nvml"},
    )


def test_an_open_call_holds_the_watermark_and_time_moves_it(store: Store, tmp_path: Path) -> None:
    def watermark() -> int:
        with store.shipping() as conn:
            row = conn.execute("SELECT watermark_ns FROM interlock.ledger_epochs").fetchone()
        assert row is not None
        return int(row[0])

    async def main() -> None:
        log = open_log(tmp_path / "log")
        shipper = shipper_for(store, tmp_path, ledger_checkpoint_s=0)
        now_ns = CLOCK.wall_ns() + 10**9
        begun = msgspec.structs.replace(intent(1), wall_ns=now_ns)
        for record in (Alive(now_ns - 5), begun, attempt(1), Alive(now_ns + 10)):
            log.append(record)
        log.append(Held(3, now_ns - 5, "ten_acme", "pri_alice", "", "m"))  # and no more of it: it is no call
        await written(log)
        shipper.pass_once()
        assert watermark() == now_ns, "a call that runs may end at any time, and belongs to when it began"
        log.append(outcome(1))
        log.append(msgspec.structs.replace(intent(2), wall_ns=now_ns - 7))  # a clock that was set back
        log.append(outcome(2))
        await written(log)
        shipper.pass_once()
        assert watermark() == now_ns + 10
        assert [(leaf["at"] - now_ns, leaf["clock"] - now_ns) for leaf in inbox(store)] == [(0, 0), (10, -7)]
        await log.close()

    asyncio.run(main())


def test_what_is_shipped_is_durable_first(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr("interlock.gateway.epoch_shipper.make_durable", lambda *_: happened.append("durable"))
    real = shipping.ship
    monkeypatch.setattr(shipping, "ship", lambda *args: (happened.append("ship"), real(*args)))

    async def main() -> None:
        log = open_log(tmp_path / "log")
        log.append(refusal(1))
        await written(log)
        shipper_for(store, tmp_path).pass_once()
        await log.close()

    asyncio.run(main())
    assert happened == ["durable", "ship"]


def test_damage_is_passed_by_and_said(store: Store, tmp_path: Path) -> None:
    async def main() -> str:
        log = open_log(tmp_path / "log", segment_bytes=65536)
        for call in range(1, 40):
            log.append(intent(call, body=b'{"messages":[{"a":"%b"}]}' % (b"x" * 5000)))
            log.append(outcome(call))
            await written(log)
        await log.close()
        return log.epoch

    epoch = asyncio.run(main())
    path = segment_path(tmp_path / "log", epoch, 0)
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    shipper_for(store, tmp_path).pass_once()
    leaves = inbox(store)
    assert 0 < len(leaves) < 39
    assert [leaf["n"] for leaf in leaves] == list(range(1, len(leaves) + 1))
    with store.shipping() as conn:
        assert conn.execute("SELECT damaged, whole FROM interlock.ledger_epochs").fetchone() == (True, True)


def test_a_call_too_large_to_hold_is_read_again(store: Store, tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path / "log")
        log.append(intent(1, body=b'{"messages":[{"content":"%b"}]}' % (b"x" * 2_000_000)))
        log.append(intent(2, body=b'{"messages":[{"content":"small"}]}'))
        log.append_chunk(1, 0, "said", b"")
        for record in (outcome(2), outcome(1, chunks=1)):
            log.append(record)
        await log.close()

    asyncio.run(main())
    shipper_for(store, tmp_path, ledger_open_bytes_max=1_048_576).pass_once()
    second, first = inbox(store)
    assert opened(store, second)["messages"] == [{"content": "small"}]
    assert len(opened(store, first)["messages"][0]["content"]) == 2_000_000
    assert opened(store, first)["stream"] == ["said"]


# -- exactly once


class Lost(Exception):
    """Stands for the death of the shipper."""


@pytest.mark.parametrize("seed", range(6))
def test_whatever_dies_each_call_is_shipped_exactly_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Workers and shippers die, two shippers run at once, and what is shipped is removed as soon as it may be."""
    draw = random.Random(seed)
    real = shipping.ship

    def dying(conn: Any, *args: Any) -> None:
        real(conn, *args)
        if draw.random() < 0.15:
            raise draw.choice((Lost(), StoreError("the database is away", code="store_away")))

    monkeypatch.setattr(shipping, "ship", dying)

    async def main() -> dict[str, str]:
        history = History(tmp_path / "log", seed)
        shippers: list[Shipper | None] = [None, None]
        for _ in range(220):
            await history.step()
            if draw.random() < 0.3:
                at = draw.randrange(2) if draw.random() < 0.3 else 0
                _pass(shippers, at)
        await history.finish()
        return history.expected

    def _pass(shippers: list[Shipper | None], at: int) -> None:
        if shippers[at] is None or draw.random() < 0.2:
            shippers[at] = shipper_for(
                store,
                tmp_path,
                ledger_batch_entries=draw.choice((1, 2, 50)),
                ledger_open_bytes_max=1_048_576,
                log_keep_s=0,
            )
        shipper = shippers[at]
        assert shipper is not None
        try:
            shipper.pass_once()
            if draw.random() < 0.5:
                shipper.trim()
        except Lost:
            shippers[at] = None
        except StoreError:
            pass

    expected = asyncio.run(main())
    monkeypatch.setattr(shipping, "ship", real)
    shipper_for(store, tmp_path).pass_once()
    leaves = inbox(store)
    assert len(leaves) == len({leaf["request"] for leaf in leaves}), "nothing twice"
    assert {leaf["request"]: leaf["result"]["state"] for leaf in leaves} == expected
    numbers: dict[tuple[str, str], list[int]] = {}
    for leaf in leaves:
        numbers.setdefault((leaf["tree"], leaf["epoch"]), []).append(leaf["n"])
    for epoch, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), epoch
    with store.shipping() as conn:
        rows = conn.execute("SELECT epoch, whole, damaged, settled FROM interlock.ledger_epochs").fetchall()
    assert all(whole and not damaged and settled for _, whole, damaged, settled in rows)
    assert sorted(row[3] for row in rows) == list(range(1, len(rows) + 1))
    for leaf in leaves:
        if leaf["result"]["state"] == "interrupted":
            assert leaf["cost"]["nusd"] == (int(leaf["request"].rpartition("_")[2], 16) if leaf["where"]["name"] else 0)
        opened(store, leaf)


def test_a_commit_whose_answer_was_lost_is_not_repeated(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        log = open_log(tmp_path / "log")
        for call in range(1, 6):
            log.append(refusal(call))
        await log.close()

    asyncio.run(main())
    shipper = shipper_for(store, tmp_path, ledger_batch_entries=2)
    real = Store.shipping
    from contextlib import contextmanager

    @contextmanager
    def answer_lost(self: Store) -> Any:
        with real(self) as conn:
            yield conn
        if conn.info.transaction_status.name == "IDLE" and inbox(store) and not lost:
            lost.append(True)
            raise StoreError("the connection broke", code="store_away")

    lost: list[bool] = []
    monkeypatch.setattr(Store, "shipping", answer_lost)
    with pytest.raises(StoreError):
        shipper.pass_once()
    shipper.pass_once()
    assert [leaf["n"] for leaf in inbox(store)] == [1, 2, 3, 4, 5]


def test_an_interrupted_call_of_a_dead_worker_has_what_it_had_said(store: Store, tmp_path: Path) -> None:
    async def main() -> str:
        dead = open_log(tmp_path / "log")
        dead.append(intent(1, body=b'{"messages":[{"content":"hello"}]}'))
        dead.append(attempt(1))
        dead.append_chunk(1, 0, "half an ans", b"")
        await written(dead)
        shipper_for(store, tmp_path).pass_once()
        dead.abandon()
        log = open_log(tmp_path / "log")
        recover(tmp_path / "log", into=log, clock=CLOCK)
        await log.close()
        return dead.epoch

    dead = asyncio.run(main())
    shipper_for(store, tmp_path).pass_once()
    (leaf,) = inbox(store)
    assert (leaf["request"], leaf["result"]["state"]) == (request_id(dead, 1), "interrupted")
    assert leaf["epoch"] == dead, "it is an entry of the epoch that it began in"
    assert opened(store, leaf)["stream"] == ["half an ans"]
    assert leaf["tokens"]["origin"] == "reserved"


def test_a_master_key_that_is_not_the_one_stops_the_shipper_and_loses_nothing(store: Store, tmp_path: Path) -> None:
    from interlock.ledger.vault import VaultError

    async def main() -> None:
        log = open_log(tmp_path / "log")
        log.append(refusal(1))
        await log.close()

    asyncio.run(main())
    shipper_for(store, tmp_path).pass_once()

    async def more() -> None:
        log = open_log(tmp_path / "log")
        log.append(refusal(1))
        await log.close()

    asyncio.run(more())
    wrong = shipper_for(store, tmp_path)
    (tmp_path / "secrets" / "ledger_key").write_text(os.urandom(32).hex())
    from interlock.settings import Settings

    wrong = Shipper(store, tmp_path / "log", "test", Settings(home=str(tmp_path)), CLOCK, os.urandom)
    with pytest.raises(VaultError):
        wrong.pass_once()
    shipper_for(store, tmp_path).pass_once()
    assert len(inbox(store)) == 2
    assert ledger_read.latest_checkpoint  # nothing was sequenced here


def test_what_is_in_the_ledger_leaves_the_log_and_what_is_not_stays(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "log"

    async def main() -> None:
        ended = open_log(folder)
        ended.append(refusal(1))
        await ended.close()
        log = open_log(folder, segment_bytes=65536)
        log.append(intent(1, body=b'{"messages":[{"content":"%b"}]}' % (b"x" * 30_000)))
        log.append(outcome(1))
        begun = 0
        for call in range(2, 12):
            log.append(intent(call, body=b'{"messages":[{"content":"%b"}]}' % (b"x" * 30_000)))
            await written(log)
            if call == 6:
                begun = segments(folder, log.epoch)[-1]
            else:
                log.append(outcome(call))
                await written(log)
        keeping = shipper_for(store, tmp_path)
        keeping.pass_once()
        before = segments(folder, log.epoch)
        keeping.trim()
        assert segments(folder, log.epoch) == before and ended.epoch in epochs(folder), "kept for `log_keep_s`"
        use = DiskUse(folder, Files())
        used = use.used_bytes()
        removing = shipper_for(store, tmp_path, log_keep_s=0)
        removing.pass_once()
        removing.trim()
        assert ended.epoch not in epochs(folder)
        assert segments(folder, log.epoch)[0] == begun > 0, "a call that runs keeps what it began in"
        assert use.used_bytes() < used
        assert find_call(folder, request_id(log.epoch, 1)) is None
        found = find_call(folder, request_id(log.epoch, 6))
        assert found is not None and found.state == "open"
        assert [r.stored.record.call for r in tail(folder) if isinstance(r.stored.record, Intent)][-1] == 11
        log.append(outcome(6))
        await log.close()
        shipper_for(store, tmp_path).pass_once()
        leaves = inbox(store)
        assert [leaf["n"] for leaf in leaves if leaf["epoch"] == log.epoch] == list(range(1, 12))
        assert opened(store, leaves[-1])["messages"]

    asyncio.run(main())
