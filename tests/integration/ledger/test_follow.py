"""Following a ledger: through the admin API, and as a process that is killed, cut off and sent to a collector."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.cli.main import main
from interlock.control.web import Api
from interlock.ledger.proof.merkle import leaf_hash
from interlock.testing.clock import FakeClock
from tests.collector import collecting, plain
from tests.e2e.stack import until
from tests.integration.control_client import Admin
from tests.integration.ledger.site import Site
from tests.integration.ledger.test_ledger_api import Ledger, control_over_migrated, looks


@pytest.fixture
def ledger(postgres_migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with control_over_migrated(postgres_migrated_url) as running:
        secrets = Path(running.control.settings.home) / "secrets"
        monkeypatch.setattr(
            "tests.integration.ledger.harness.MASTER", bytes.fromhex((secrets / "ledger_key").read_text().strip())
        )
        yield Ledger(running, tmp_path)


@pytest.fixture
def clock(ledger: Ledger) -> FakeClock:
    """The clock of the admin API, from now on moved by the test."""
    made = FakeClock(time.time_ns())
    api: Api = ledger.running.http.app.state.api  # type: ignore[attr-defined]
    tools = dataclasses.replace(api.tools, clock=made)
    ledger.running.http.app.state.api = dataclasses.replace(api, tools=tools)  # type: ignore[attr-defined]
    return made


def follows(ledger: Ledger) -> list[tuple[str, dict[str, Any], str]]:
    """(actor, what it covers, reason) of each change that a follower left, oldest first."""
    items = ledger.owner.get("/tenants/acme/changes?limit=200")["items"]
    return [(i["actor"], i["after"], i["reason"]) for i in reversed(items) if i["action"] == "ledger.follow"]


def signed(ledger: Ledger) -> int:
    """Entries of acme's tree."""
    with ledger.running.control.store.tenant(ledger.tenants["acme"]) as conn:
        row = conn.execute("SELECT size FROM interlock.ledger_trees").fetchone()
    assert row is not None
    return int(row[0])


def test_entries_come_in_the_order_of_the_tree_and_say_when_it_ends(ledger: Ledger) -> None:
    otto = ledger.key("acme", "otto")
    path = "/tenants/acme/ledger/follow"
    everything = otto.get(path)
    size = signed(ledger)
    assert [item["position"] for item in everything["items"]] == list(range(size))
    assert (everything["next"], everything["size"], everything["tree"]) == (size - 1, size, ledger.tenants["acme"])
    kinds = [item["leaf"]["kind"] for item in everything["items"]]
    assert kinds.count("call") + kinds.count("refusal") == 4 and "change" in kinds
    for item in everything["items"]:
        assert leaf_hash(msgspec.json.encode(item["leaf"], order="sorted")).hex() == item["hash"]
    searched = otto.get("/tenants/acme/ledger/entries")["items"]
    assert [(i["position"], i["leaf"]) for i in searched[::-1]] == [
        (i["position"], i["leaf"]) for i in everything["items"]
    ]
    page = otto.get(f"{path}?after=0&limit=2")
    assert ([item["position"] for item in page["items"]], page["next"], page["size"]) == ([1, 2], 2, size)
    for after in (size - 1, size, 999):
        page = otto.get(f"{path}?after={after}")
        assert (page["items"], page["next"], page["size"]) == ([], after, size)
    assert "what was said" not in json.dumps(everything)


def test_only_what_is_in_the_tree_is_given(ledger: Ledger, postgres_server: Any) -> None:
    size = signed(ledger)
    with ledger.running.control.store.sequencing() as conn:
        conn.execute(
            "INSERT INTO interlock.ledger_entries SELECT tenant_id, %s, at_ns, kind, request, team_id, principal_id,"
            " subject, source, model, state, leaf, hash FROM interlock.ledger_entries"
            " WHERE tenant_id = %s AND position = 3",
            (size, ledger.tenants["acme"]),
        )
    page = ledger.owner.get("/tenants/acme/ledger/follow")
    assert ([item["position"] for item in page["items"]], page["size"]) == (list(range(size)), size)


def test_since_begins_at_a_checkpoint_from_before(ledger: Ledger) -> None:
    path = "/tenants/acme/ledger/follow?since_ns="
    with ledger.running.control.store.tenant(ledger.tenants["acme"]) as conn:
        row = conn.execute("SELECT at_ns, size FROM interlock.ledger_checkpoints ORDER BY at_ns").fetchall()[0]
    skew_ns = ledger.running.control.settings.ledger_clock_skew_ms * 1_000_000
    assert row[1] == signed(ledger), "everything so far is under the first checkpoint"
    before = ledger.owner.get(f"{path}{row[0] + skew_ns - 1}")
    assert [item["position"] for item in before["items"]] == list(range(row[1]))
    after = ledger.owner.get(f"{path}{row[0] + skew_ns}")
    assert (after["items"], after["next"], after["size"]) == ([], row[1] - 1, row[1])
    assert ledger.owner.get(f"{path}1&after=2")["items"][0]["position"] == 3


def test_only_an_auditor_of_the_tenant_may_follow(ledger: Ledger) -> None:
    dora, gina = ledger.key("acme", "dora"), ledger.key("globex", "gina")
    status, error = dora.call("GET", "/tenants/acme/ledger/follow")
    assert (status, error["error"]["code"]) == (403, "admin_denied")
    assert gina.call("GET", "/tenants/acme/ledger/follow")[0] == 404
    theirs = gina.get("/tenants/globex/ledger/follow")["items"]
    assert {item["leaf"]["tree"] for item in theirs} == {ledger.tenants["globex"]}
    assert looks(ledger) == []
    for query in ("after=-2", "after=x", f"after={1 << 63}", "since_ns=-1", f"since_ns={1 << 63}", "limit=-1",
                  "limit=501"):  # fmt: skip
        assert ledger.owner.call("GET", f"/tenants/acme/ledger/follow?{query}")[0] == 400, query
    assert looks(ledger) == []


def test_a_tenant_without_a_ledger_has_nothing_to_follow(ledger: Ledger) -> None:
    ledger.owner.do("POST", "/tenants", {"name": "empty"})
    page = ledger.owner.get("/tenants/empty/ledger/follow")
    assert (page["items"], page["next"], page["size"]) == ([], -1, 0)


def test_a_follower_is_on_record_when_it_begins_and_once_an_hour(ledger: Ledger, clock: FakeClock) -> None:
    otto = ledger.key("acme", "otto")
    size = signed(ledger)

    def look(after: int, who: Admin = otto, reason: str = "soc") -> None:
        assert who.call("GET", f"/tenants/acme/ledger/follow?after={after}", reason=reason)[0] == 200

    for second in range(20):
        look(min(second, 3))
        clock.advance(s=1)
    assert follows(ledger) == [("otto", {"after": 0, "size": size}, "soc")]
    look(-1, reason="")
    look(2)
    assert follows(ledger)[1:] == [("otto", {"after": -1, "size": size}, "(no reason given)")], (
        "what came before is another look"
    )
    look(3, ledger.owner)
    assert follows(ledger)[2:] == [("admin", {"after": 3, "size": size}, "soc")], "somebody else's looks are theirs"
    clock.advance(s=3599)
    look(3)
    assert len(follows(ledger)) == 3
    clock.advance(s=1)
    look(3)
    assert follows(ledger)[3:] == [("otto", {"after": 3, "size": size}, "soc")]
    look(3)
    assert len(follows(ledger)) == 4


def test_what_another_control_process_recorded_counts(ledger: Ledger, clock: FakeClock) -> None:
    from interlock.control.services.ledger_follow import Follows
    from interlock.storage.changes import Author

    store, tools = ledger.running.control.store, ledger.running.control.tools
    by = Author("prn_x", "x", "soc", tools.now())
    tenant_id = ledger.tenants["acme"]

    def at_once(process: Follows) -> None:
        process.note(store, tenant_id, 2, 4, by)

    threads = [threading.Thread(target=at_once, args=(Follows(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Follows().note(store, tenant_id, 3, 4, by)
    assert follows(ledger) == [("x", {"after": 2, "size": 4}, "soc")]


# From here on: a control process over HTTP with a sequencer of its own, and calls that come in meanwhile.


def end(process: subprocess.Popen[bytes]) -> str:
    """Kill it; what it said on stderr."""
    process.send_signal(signal.SIGKILL)
    return process.communicate(timeout=120)[1].decode()


def lines_of(output: Path) -> list[bytes]:
    """The leaves in a file, each in its place, with its hash."""
    leaves = []
    for number, line in enumerate(output.read_bytes().splitlines()):
        said = json.loads(line)
        assert said["position"] == number
        leaves.append(line.partition(b',"leaf":')[2][:-1])
        assert leaf_hash(leaves[-1]).hex() == said["hash"]
    return leaves


def test_a_follower_that_is_killed_again_and_again_writes_each_entry_once(site: Site, tmp_path: Path) -> None:
    chance = random.Random(7)
    output, state = tmp_path / "out", tmp_path / "state"
    done = threading.Event()

    def arrive() -> None:
        while not done.is_set():
            site.add(chance.randrange(1, 120))

    feeding = threading.Thread(target=arrive)
    feeding.start()
    try:
        kills = 0
        while kills < 8:
            before = output.stat().st_size if output.exists() else 0
            process = site.follower("--output", str(output), "--state", str(state))
            until(lambda b=before: output.exists() and output.stat().st_size > b, 120, "lines", every_s=0.002)  # type: ignore[misc]
            time.sleep(chance.random() * 0.3)
            assert process.poll() is None
            assert end(process) == ""
            kills += 1
            if chance.random() < 0.5:  # the last write as a machine that lost its power may have left it
                os.truncate(output, output.stat().st_size - chance.randrange(1, 60))
            if chance.random() < 0.3:
                state.unlink()
    finally:
        done.set()
        feeding.join()
    until(lambda: site.size() > 0 and not _waiting(site), 120, "the sequencer")
    assert main(site.arguments("--once", "--output", str(output), "--state", str(state))) == 0
    assert lines_of(output) == site.leaves()
    assert json.loads(state.read_bytes())["position"] == site.size() - 1


def _waiting(site: Site) -> bool:
    with site.store.sequencing() as conn:
        return conn.execute("SELECT 1 FROM interlock.ledger_inbox LIMIT 1").fetchone() is not None


def _calls(lines: Iterable[bytes]) -> int:
    """How many of these are calls: what administrators do, and looks at the ledger, are in the tree as well."""
    return sum(b'"kind":"call"' in line for line in lines)


def test_an_outage_of_the_admin_api_is_waited_for(site: Site, tmp_path: Path) -> None:
    output = tmp_path / "out"
    site.add(3)
    process = site.follower("--output", str(output))
    until(lambda: output.exists() and _calls(output.read_bytes().splitlines()) == 3, 120, "three calls")
    site.stop()
    site.add(2)
    assert process.stderr is not None
    first = process.stderr.readline().decode()
    assert "cannot be reached" in first and process.poll() is None
    site.start()
    until(lambda: _calls(output.read_bytes().splitlines()) == 5, 60, "what came meanwhile")
    said = first + end(process)
    troubles = [line for line in said.splitlines() if "cannot be reached" in line]  # refused; at first perhaps reset
    assert len(set(troubles)) == len(troubles) in (1, 2) and said.count("going on") == 1
    found = lines_of(output)
    assert found == site.leaves()[: len(found)]


def test_once_is_for_what_is_there_and_fails_when_nobody_answers(
    site: Site, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    site.add(2)
    until(lambda: _calls(site.leaves()) == 2 and not _waiting(site), 120, "the sequencer")
    assert main(site.arguments("--once")) == 0
    places = [json.loads(line)["position"] for line in capfdbinary.readouterr().out.splitlines()]
    assert places == list(range(len(places))) and len(places) > 2
    assert main(site.arguments("--once", "--from", "1", "--json", "--output", str(tmp_path / "out"))) == 0
    said = json.loads(capfdbinary.readouterr().out)
    assert said["entries"] == said["position"] >= places[-1]
    assert main(site.arguments("--once", "--since", "1h", "--output", str(tmp_path / "all"))) == 0
    found = lines_of(tmp_path / "all")
    assert found == site.leaves()[: len(found)] and _calls(found) == 2
    site.stop()
    capfdbinary.readouterr()
    assert main(site.arguments("--once")) == 1
    assert b"cannot be reached" in capfdbinary.readouterr().err
    site.start()


def test_entries_reach_a_collector_and_none_is_lost_while_it_is_away(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with collecting() as got:
        got.answers = [(400, b"", {})] * 2
        site.add(130)
        until(lambda: _calls(site.leaves()) == 130 and not _waiting(site), 120, "the sequencer")
        process = site.follower("--otlp", got.url, "--state", str(state))
        until(lambda: state.exists(), 120, "everything to be taken")
        assert "answered 400; trying again" in end(process)
        assert got.asked > len(got.requests) and len(got.requests) >= 2
        leaves = [json.loads(leaf) for leaf in site.leaves()][: len(got.records)]
        records = [(each.event_name, plain(each.body)) for each in got.records]
        assert records == [(f"interlock.ledger.{leaf['kind']}", leaf) for leaf in leaves]
        done = json.loads(state.read_bytes())["position"]
        assert done == len(records) - 1 >= 130
        site.add(1)
        until(lambda: _calls(site.leaves()) == 131 and not _waiting(site), 120, "the sequencer")
        got.answers = [(503, b"", {"retry-after": "99"})]
        once = site.arguments("--once", "--otlp", got.url, "--state", str(state))
        assert main(once) == 1
        assert json.loads(state.read_bytes())["position"] == done, "what was not taken is not done with"
        assert main(once) == 0
        assert json.loads(state.read_bytes())["position"] == len(got.records) - 1 > done
        last = [each for each in got.records if each.event_name == "interlock.ledger.call"][-1]
        attributes = {each.key: plain(each.value) for each in last.attributes}
        assert attributes["interlock.position"] > done and attributes["gen_ai.usage.input_tokens"] == 10
