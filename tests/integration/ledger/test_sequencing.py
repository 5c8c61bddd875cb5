"""From the inbox to trees: every entry in one place, and checkpoints that never claim more than there is."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from pathlib import Path

import msgspec
import pytest

from interlock.control.main import ledger_signer
from interlock.control.sequencer import LedgerBroken, Sequencer
from interlock.control.services.ledger import Export
from interlock.errors import Conflict
from interlock.ledger import control_entry
from interlock.ledger.entry import encode_leaf
from interlock.ledger.proof import checkpoint as checkpoints
from interlock.ledger.proof.coverage import Coverage, Settled, settled_digest
from interlock.ledger.proof.merkle import inclusion_proof as prove
from interlock.ledger.proof.merkle import leaf_hash, node_hash, root_of, verify_inclusion
from interlock.ledger.proof.note import open_note
from interlock.ledger.proof.verify import verify_export
from interlock.storage import ledger_read, shipping
from interlock.storage.pool import Store
from interlock.types.clock import SystemClock
from tests.integration.gateway.client import eventually
from tests.integration.ledger.harness import inbox, settings_for, shipper_for, write
from tests.integration.ledger.history import History
from tests.unit.ledger.support import open_log, refusal

EPOCH = "01m8bvt0mtmxd3pe"


def sequencer_for(store: Store, home: Path, **given: int) -> Sequencer:
    """A sequencer that signs with every batch."""
    settings = settings_for(home, **{"ledger_checkpoint_s": 0, **given})
    return Sequencer(store, settings, SystemClock(), [ledger_signer(settings)])


def entries(store: Store, tenant_id: str) -> list[tuple[int, int, bytes]]:
    """(position, at, leaf) of a tenant's entries, by position."""
    with store.sequencing() as conn:
        return conn.execute(
            "SELECT position, at_ns, leaf FROM interlock.ledger_entries WHERE tenant_id = %s ORDER BY position",
            (tenant_id,),
        ).fetchall()


def put(store: Store, count: int, *, first: int = 1, tenant_id: str = "ten_1", tree: str = "") -> None:
    """Entries in the inbox, as a shipper would bring them."""
    with store.shipping() as conn:
        shipping.register(conn, "node", {EPOCH: 1}, 1)
        made = [
            shipping.InboxEntry(
                tenant_id,
                n,
                encode_leaf({"tree": tree or tenant_id, "epoch": EPOCH, "at": n, "kind": "call", "n": n, "v": 1}),
            )
            for n in range(first, first + count)
        ]
        row = conn.execute("SELECT shipped_seq FROM interlock.ledger_epochs WHERE epoch = %s", (EPOCH,)).fetchone()
        assert row is not None
        progress = shipping.Progress(EPOCH, row[0], row[0] + count, 0, first + count, False, False, False)
        shipping.ship(conn, progress, made, shipping.Uses(), shipping.Uses())


def mth(leaves: list[bytes]) -> bytes:
    """The tree hash as RFC 9162, section 2.1.1, defines it."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(mth(leaves[:half]), mth(leaves[half:]))


def test_entries_get_their_places_and_the_tree_its_root_and_tiles(store: Store, tmp_path: Path) -> None:
    sequencer = sequencer_for(store, tmp_path, ledger_batch_entries=97)
    for first, count in ((1, 1), (2, 250), (252, 300), (552, 150)):
        put(store, count, first=first)
        sequencer.pass_once()
    found = entries(store, "ten_1")
    assert [position for position, _, _ in found] == list(range(701))
    leaves = [leaf for _, _, leaf in found]
    assert [msgspec.json.decode(leaf)["n"] for leaf in leaves] == list(range(1, 702))
    assert inbox(store) == []
    with store.tenant("ten_1") as conn:
        newest = ledger_read.latest_checkpoint(conn, "ten_1")
        assert newest is not None and newest.size == 701
        key = ledger_signer(settings_for(tmp_path)).verifier_key
        signed = checkpoints.parse(open_note(newest.note, [key]))
        assert (signed.origin, signed.size, signed.root) == ("interlock.local/ten_1", 701, mth(leaves))
        assert signed.coverage == hashlib.sha256(newest.coverage).digest()
        node = ledger_read.node_reader(conn, "ten_1", 701)
        for index in (0, 1, 255, 256, 511, 512, 600, 700):
            proof = prove(index, 701, node)
            assert verify_inclusion(leaf_hash(leaves[index]), index, 701, proof, signed.root)
    with store.tenant("ten_2") as conn:
        assert ledger_read.search(conn, "ten_1", ledger_read.Filter()) == [], "another tenant sees nothing of it"


def test_a_shipper_that_was_overtaken_brings_nothing(store: Store, tmp_path: Path) -> None:
    """Also when what it brings has left the inbox long ago, where it would be noticed."""
    put(store, 3)
    sequencer_for(store, tmp_path).pass_once()
    stale = shipping.Progress(EPOCH, 0, 3, 0, 4, False, False, False)
    leaf = encode_leaf({"tree": "ten_1", "epoch": EPOCH, "at": 1, "kind": "call", "n": 1})
    with pytest.raises(Conflict), store.shipping() as conn:
        shipping.ship(conn, stale, [shipping.InboxEntry("ten_1", 1, leaf)], shipping.Uses(), shipping.Uses())
    assert inbox(store) == []


@pytest.mark.parametrize("wrong", ["gap", "tree"])
def test_what_cannot_be_is_not_placed(store: Store, tmp_path: Path, wrong: str) -> None:
    sequencer = sequencer_for(store, tmp_path)
    put(store, 3)
    sequencer.pass_once()
    put(store, 2, first=5 if wrong == "gap" else 4, tree="ten_2" if wrong == "tree" else "")
    with pytest.raises(LedgerBroken):
        sequencer.pass_once()
    assert len(entries(store, "ten_1")) == 3


def test_several_sequencers_at_once_place_each_entry_once(store: Store, tmp_path: Path) -> None:
    put(store, 400)
    sequencers = [sequencer_for(store, tmp_path, ledger_batch_entries=7) for _ in range(3)]
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,), daemon=True) for each in sequencers]
    for thread in threads:
        thread.start()
    eventually(lambda: not inbox(store), 60)
    stop.set()
    for thread in threads:
        thread.join(60)
    found = entries(store, "ten_1")
    assert [msgspec.json.decode(leaf)["n"] for _, _, leaf in found] == list(range(1, 401))
    assert [position for position, _, _ in found] == list(range(400))
    assert sum(each.placed for each in sequencers) == 400


def test_an_export_holds_the_checkpoints_that_it_began_with_though_others_take_their_place(
    store: Store, tmp_path: Path
) -> None:
    sequencer = sequencer_for(store, tmp_path, ledger_quiet_checkpoint_s=0)
    put(store, 5)
    sequencer.sequence("ten_1")
    with store.shipping() as conn:
        shipping.ship(
            conn, shipping.Progress(EPOCH, 5, 6, 0, 6, False, True, True), [], shipping.Uses(), shipping.Uses()
        )
        assert shipping.settle(conn, [EPOCH]) == 1
    sequencer.sequence("ten_1")  # of the same size, and the last: the epoch is among the settled ones
    key = ledger_signer(settings_for(tmp_path)).verifier_key
    whole = Export(store, settings_for(tmp_path), "ten_1", 0, 6, [key.text])
    with store.tenant("ten_1") as conn:
        last = ledger_read.latest_checkpoint(conn, "ten_1")
    assert last is not None
    part = Export(store, settings_for(tmp_path), "ten_1", last.at_ns + 10**12, last.at_ns + 10**13, [key.text])
    sequencer.sequence("ten_1")
    with store.tenant("ten_1") as conn:
        kept = ledger_read.checkpoints(conn, "ten_1", 0, SystemClock().wall_ns(), 10)
    assert len(kept) == 2 and last not in kept
    for made, name, count in ((whole, "whole", 2), (part, "part", 1)):
        write(made, tmp_path / name, key.text)
        report = verify_export(tmp_path / name, [key])
        assert report.verdict != "altered" and not report.problems, report.words
        assert len(list((tmp_path / name / "checkpoints").glob("*.note"))) == count


def test_a_growing_tree_is_signed_now_and_then_and_a_quiet_one_too(store: Store, tmp_path: Path) -> None:
    sequencer = sequencer_for(store, tmp_path, ledger_checkpoint_s=3600, ledger_quiet_checkpoint_s=3600)

    def made() -> list[int]:
        with store.tenant("ten_1") as conn:
            return [each.size for each in ledger_read.checkpoints(conn, "ten_1", 0, 1 << 62, 100)]

    put(store, 2)
    sequencer.pass_once()
    put(store, 2, first=3)
    sequencer.pass_once()
    assert made() == [2]
    later = sequencer_for(store, tmp_path)
    for _ in range(4):
        later.sequence("ten_1")
    assert made() == [2, 4, 4], "of those of one size the first and the last"


@pytest.mark.parametrize("seed", range(4))
def test_no_checkpoint_claims_more_than_the_tree_holds(store: Store, tmp_path: Path, seed: int) -> None:
    """INVARIANT: whatever was admitted before the instant that a checkpoint claims lies below its size."""
    draw = random.Random(seed)
    sequencer = sequencer_for(store, tmp_path, ledger_batch_entries=draw.choice((1, 3, 500)))

    async def main() -> dict[str, str]:
        history = History(tmp_path / "log", seed)
        shipper = shipper_for(store, tmp_path, ledger_batch_entries=draw.choice((1, 5, 500)), ledger_checkpoint_s=0)
        for _ in range(160):
            await history.step()
            if draw.random() < 0.3:
                shipper.pass_once()
            if draw.random() < 0.3:
                for tenant_id in ("ten_1", "ten_2"):
                    sequencer.sequence(tenant_id)
        await history.finish()
        shipper.pass_once()
        shipper.pass_once()
        return history.expected

    expected = asyncio.run(main())
    for _ in range(2):
        sequencer.pass_once()
    for tenant_id in ("ten_1", "ten_2"):
        while sequencer.sequence(tenant_id):
            pass
        sequencer.sequence(tenant_id)
    states = {}
    for tenant_id in ("ten_1", "ten_2"):
        found = entries(store, tenant_id)
        for _, _, leaf in found:
            value = msgspec.json.decode(leaf)
            states[value["request"]] = value["result"]["state"]
        with store.tenant(tenant_id) as conn:
            all_of_them = ledger_read.checkpoints(conn, tenant_id, 0, 1 << 62, 10_000)
            lines = ledger_read.settled_lines(conn, tenant_id, 0, 1 << 40)
        claimed = 0
        for each in all_of_them:
            beyond = [position for position, at_ns, _ in found if position >= each.size and at_ns < each.complete_ns]
            assert not beyond, (each, beyond)
            assert each.complete_ns >= claimed, "what was claimed is not taken back"
            claimed = each.complete_ns
            signed = checkpoints.parse(each.note.rpartition("\n\n")[0] + "\n")
            assert signed.root == root_of(leaf_hash(leaf) for _, _, leaf in found[: each.size])
            coverage = Coverage.decode(each.coverage)
            digest = bytes(32)
            for line in lines[: coverage.settled.count]:
                digest = settled_digest(digest, line)
            assert digest.hex() == coverage.settled.digest
            counted = {one.epoch: one.n for one in coverage.epochs}
            counted.update({one.epoch: one.n for one in map(Settled.decode, lines[: coverage.settled.count])})
            held: dict[str, int] = {}
            for _, _, leaf in found[: each.size]:
                epoch = msgspec.json.decode(leaf)["epoch"]
                held[epoch] = held.get(epoch, 0) + 1
            assert {epoch: n for epoch, n in counted.items() if n} == held
        last = Coverage.decode(all_of_them[-1].coverage)
        assert [one.epoch for one in last.epochs] == [control_entry.EPOCH], "everyone has ended, everything is here"
    assert states == expected


def test_an_epoch_that_ended_before_a_tenant_had_a_tree_is_counted_where_it_has_entries(
    store: Store, tmp_path: Path
) -> None:
    async def main() -> None:
        for _ in range(2):
            log = open_log(tmp_path / "log")
            log.append(refusal(1))
            await log.close()
            shipper_for(store, tmp_path).pass_once()

    asyncio.run(main())
    sequencer_for(store, tmp_path).pass_once()
    with store.tenant("ten_1") as conn:
        lines = [Settled.decode(line) for line in ledger_read.settled_lines(conn, "ten_1", 0, 100)]
    assert [line.n for line in lines] == [1, 1]
