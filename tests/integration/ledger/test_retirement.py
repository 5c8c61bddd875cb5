"""Nodes that never come back, and those that do all the same: exports say what is missing, and nothing comes twice."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.errors import Conflict
from interlock.gateway.shipper import Shipper, run
from interlock.gateway.slots import RETIRED_EXIT
from interlock.ledger.folder import epochs
from interlock.ledger.log import RecordLog
from interlock.ledger.proof.coverage import Coverage
from interlock.ledger.recovery import recover
from interlock.storage import ledger_read, shipping
from interlock.types.clock import SystemClock
from interlock.types.record import Alive
from tests.integration.control_client import Admin, control_over
from tests.integration.ledger.harness import settings_for, verified
from tests.integration.ledger.test_changes import PLATFORM, Scene
from tests.integration.ledger.test_sequencing import entries
from tests.unit.ledger.support import open_log, refusal, written

CLOCK = SystemClock()
NODE = "cellar-7"


class Cellar(Scene):
    """A control plane that lets silent nodes be retired at once, and a node beside it."""

    folder: Path

    def shipper(self, name: str = NODE, **given: Any) -> Shipper:
        settings = settings_for(self.folder, **{"ledger_checkpoint_s": 0, "ledger_clock_skew_ms": 0, **given})
        return Shipper(self.store, self.folder / name, name, settings, CLOCK, os.urandom)

    def log(self, name: str = NODE) -> RecordLog:
        return open_log(self.folder / name)

    def call(self, log: RecordLog) -> None:
        """A refusal, which is an entry at once, and a sign that the worker lives."""
        record = msgspec.structs.replace(refusal(log.next_call()), wall_ns=CLOCK.wall_ns(), tenant_id=self.acme)
        log.append(record)
        log.append(Alive(CLOCK.wall_ns()))

    def retire(self, name: str = NODE) -> Any:
        return self.owner.do("POST", "/ledger/retire-node", {"node": name})

    def ask(self, folder: Path, from_ns: int = 0, to_ns: int = 0) -> Any:
        to_ns = to_ns or time.time_ns()
        self.sequence(3)
        return verified(self.control, self.acme, folder, to_ns, from_ns=from_ns)

    def calls(self) -> list[Any]:
        return [leaf for leaf in self.leaves(kind="refusal") if leaf["kind"] == "refusal"]

    def coverage(self) -> Coverage:
        with self.store.tenant(self.acme) as conn:
            found = ledger_read.latest_checkpoint(conn, self.acme)
        assert found is not None
        return Coverage.decode(found.coverage)


@pytest.fixture
def cellar(postgres_migrated_url: str, tmp_path: Path) -> Iterator[Cellar]:
    with control_over_migrated_quietly(postgres_migrated_url) as running:
        made = Cellar(running, postgres_migrated_url)
        made.folder = tmp_path / "nodes"
        yield made


def control_over_migrated_quietly(url: str) -> Any:
    from interlock.settings import Settings
    from interlock.storage.migrate import migrate

    migrate(url, Settings())
    return control_over(url, ledger_checkpoint_s=0, ledger_retire_silent_s=0)


def test_what_a_lost_disk_held_is_said_and_all_that_follows_is_complete_again(cellar: Cellar, tmp_path: Path) -> None:
    async def serve() -> None:
        log = cellar.log()
        for _ in range(2):
            cellar.call(log)
        await written(log)
        cellar.shipper().pass_once()
        cellar.call(log)
        await written(log)
        log.abandon()

    asyncio.run(serve())
    (epoch,) = epochs(cellar.folder / NODE)
    before_ns = time.time_ns()
    report = cellar.ask(tmp_path / "before", to_ns=before_ns)
    assert report.verdict == "open tail"
    done = cellar.retire()
    assert [(each["epoch"], each["entries"]) for each in done["epochs"]] == [(epoch, 2)]
    report = cellar.ask(tmp_path / "touched", to_ns=before_ns)
    assert report.verdict == "not complete"
    words = f"complete but for node {NODE}'s epoch {epoch}, lost after "
    assert report.problems[0].startswith(words) and words in report.words, report
    assert "retired by an administrator on 20" in report.problems[0]
    assert report.problems[0].endswith("calls may be missing")
    assert report.until == before_ns, "and nothing else keeps the tail open"
    retired_ns = max(each.retired for each in cellar.coverage().nodes if isinstance(each.retired, int))
    cellar.team("later")
    report = cellar.ask(tmp_path / "after", from_ns=retired_ns)
    assert report.verdict == "complete", report
    assert any(f"node {NODE} admitted nothing from" in each for each in report.problems)
    first_ns = cellar.calls()[0]["at"]
    report = cellar.ask(tmp_path / "earlier", to_ns=first_ns)
    assert report.verdict == "complete", report
    for tenant_id in (cellar.ids["globex"], PLATFORM):
        report = verified(cellar.control, tenant_id, tmp_path / tenant_id, before_ns)
        assert report.verdict == "not complete", "nobody knows whose calls they were"
    told = [leaf for leaf in cellar.leaves(PLATFORM) if leaf["what"]["operation"] == "ledger.retire_node"]
    assert len(told) == 1 and NODE not in str(told)


def test_a_node_that_comes_back_is_refused_what_was_given_up_and_goes_on(
    cellar: Cellar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shippers: list[Shipper] = []

    async def serve() -> None:
        log = cellar.log()
        for _ in range(2):
            cellar.call(log)
        await written(log)
        shippers.append(cellar.shipper())
        shippers[0].pass_once()
        cellar.call(log)
        await written(log)
        log.abandon()

    asyncio.run(serve())
    (old,) = epochs(cellar.folder / NODE)
    cellar.retire()
    time.sleep(0.01)
    retired_ns = time.time_ns()

    async def come_back() -> RecordLog:
        log = cellar.log()
        recover(cellar.folder / NODE, into=log, clock=CLOCK)
        cellar.call(log)
        await written(log)
        with caplog.at_level(logging.ERROR):
            shippers[0].pass_once()  # it knows nothing of all this
            cellar.shipper().pass_once()
        await log.close()
        cellar.shipper().pass_once()
        return log

    new = asyncio.run(come_back()).epoch
    assert f"what had not arrived of epoch {old} is not in the ledger" in caplog.text
    until_ns = time.time_ns()
    cellar.shipper().pass_once()
    report = cellar.ask(tmp_path / "after", from_ns=retired_ns, to_ns=until_ns)
    assert (report.verdict, report.in_range >= 1) == ("complete", True), report
    found = [(leaf["epoch"], leaf["n"]) for leaf in cellar.calls()]
    assert found == [(old, 1), (old, 2), (new, 1)], "nothing twice, and nothing of what was given up"
    (node,) = [each for each in cellar.coverage().nodes if each.node == NODE]
    assert node.retired is msgspec.UNSET and node.registered >= until_ns
    report = cellar.ask(tmp_path / "all")
    assert report.verdict == "not complete" and f"epoch {old}, lost after" in report.words


def test_a_node_that_never_stopped_does_not_let_the_tail_close(cellar: Cellar, tmp_path: Path) -> None:
    """It was cut off and took calls on. What it took since it was retired is lost, and no export hides that."""

    async def serve() -> None:
        log = cellar.log()
        cellar.call(log)
        await written(log)
        shipper = cellar.shipper()
        shipper.pass_once()
        cellar.retire()
        await asyncio.sleep(0.01)
        after_ns = time.time_ns()
        cellar.call(log)
        await written(log)
        until_ns = time.time_ns()
        with pytest.raises(Conflict, match="is not in the ledger until it is replaced") as met:
            shipper.pass_once()
        assert met.value.code == "retired"
        report = cellar.ask(tmp_path / "cut-off", from_ns=after_ns, to_ns=until_ns)
        assert report.verdict == "open tail", report
        with pytest.raises(Conflict):
            cellar.shipper().pass_once()
        assert cellar.ask(tmp_path / "still", from_ns=after_ns, to_ns=until_ns).verdict == "open tail"
        await log.close()
        shipper.pass_once()
        taken_ns = time.time_ns()
        shipper.pass_once()
        report = cellar.ask(tmp_path / "over", from_ns=after_ns, to_ns=taken_ns)
        assert report.verdict == "not complete" and f"node {NODE}'s epoch lost" in report.words, report
        later_ns = time.time_ns()
        shipper.pass_once()
        report = cellar.ask(tmp_path / "newer", from_ns=taken_ns, to_ns=later_ns)
        assert report.verdict == "complete", report

    asyncio.run(serve())
    assert [leaf["n"] for leaf in cellar.calls()] == [1]


def test_a_batch_on_its_way_is_refused(cellar: Cellar) -> None:
    with cellar.store.shipping() as conn:
        shipping.register(conn, NODE, {"01m8bvt0mtmxd3pe": 1}, 2)
    cellar.retire()
    progress = shipping.Progress("01m8bvt0mtmxd3pe", 0, 1, 0, 9, False, False, False)
    with pytest.raises(Conflict, match="given up when its node was retired"), cellar.store.shipping() as conn:
        shipping.ship(conn, progress, [shipping.InboxEntry(cellar.acme, 1, b"{}")], shipping.Uses(), shipping.Uses())
    cellar.sequence()
    assert entries(cellar.store, cellar.acme)[-1:] != [], "only what administrators did"
    assert cellar.calls() == []


def test_what_has_all_arrived_is_settled_as_it_is(cellar: Cellar, tmp_path: Path) -> None:
    """A node that ended in good order and died before it could say so: only what it may have begun since is open."""
    with cellar.store.shipping() as conn:
        shipping.register(conn, NODE, {"01m8bvt0mtmxd3pe": 1}, 2)
        shipping.ship(
            conn,
            shipping.Progress("01m8bvt0mtmxd3pe", 0, 1, 0, 9, False, True, True),
            [],
            shipping.Uses(),
            shipping.Uses(),
        )
    done = cellar.retire()
    assert done["epochs"] == []
    report = cellar.ask(tmp_path / "out", to_ns=3)
    assert report.verdict == "not complete" and "epoch lost" in report.words


def test_a_node_in_use_is_not_retired_and_only_an_owner_of_the_platform_may(cellar: Cellar) -> None:
    path = "/ledger/retire-node"
    for name in ("", "\x00", "x" * 256, "a\nb"):
        assert cellar.owner.call("POST", path, {"node": name})[0] == 400, name
    for name in ("nobody", "(control)"):
        assert cellar.owner.call("POST", path, {"node": name})[0] == 404, name
    with cellar.store.shipping() as conn:
        shipping.register(conn, NODE, {}, time.time_ns())
    assert cellar.owner.call("POST", path, {"node": NODE}, reason="")[0] == 400
    tools = cellar.control.api.tools
    strict = dataclasses.replace(tools.settings, ledger_retire_silent_s=600)
    object.__setattr__(tools, "settings", strict)
    status, error = cellar.owner.call("POST", path, {"node": NODE})
    assert (status, error["error"]["code"]) == (409, "node_alive")
    object.__setattr__(tools, "settings", dataclasses.replace(strict, ledger_retire_silent_s=0))
    for place, name, role in (("acme", "olga", "owner"), ("platform", "adam", "admin")):
        cellar.owner.do("POST", f"/tenants/{place}/principals", {"name": name})
        roles = "/roles" if place == "platform" else f"/tenants/{place}/roles"
        cellar.owner.do("POST", roles, {"principal": name, "role": role})
        body = {"name": name, "principal": name, "scopes": ["admin"]}
        made = cellar.owner.do("POST", f"/tenants/{place}/keys", body)
        assert Admin(cellar.owner.http, made["key"]).call("POST", path, {"node": NODE})[0] == 403
    cellar.retire()
    status, error = cellar.owner.call("POST", path, {"node": NODE})
    assert (status, error["error"]["code"]) == (409, "already_retired")


def test_a_shipper_whose_workers_write_on_asks_for_new_ones(
    cellar: Cellar, postgres_migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.gateway.shipper.REFUSED_S_MAX", 0.5)
    home = cellar.folder / "home"
    settings = settings_for(home, database_url=postgres_migrated_url, node=NODE, ledger_checkpoint_s=0)
    (home / "node" / "run").mkdir(parents=True)

    async def serve() -> None:
        log = open_log(home / "node" / "log")
        cellar.call(log)
        await written(log)
        Shipper(cellar.store, home / "node" / "log", NODE, settings, CLOCK, os.urandom).pass_once()
        cellar.retire()
        began_s, stop = time.monotonic(), threading.Event()
        giving_up = threading.Timer(120, stop.set)
        giving_up.start()
        code = await asyncio.to_thread(run, settings, stop, CLOCK)
        giving_up.cancel()
        assert (code, time.monotonic() - began_s > 0.5) == (RETIRED_EXIT, True)
        await log.close()
        stop.set()
        assert await asyncio.to_thread(run, settings, stop, CLOCK) == 0

    asyncio.run(serve())
