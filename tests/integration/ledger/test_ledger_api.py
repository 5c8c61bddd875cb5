"""Looking at the ledger through the admin API: who may, what is shown, and that each look is on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.ledger.proof import checkpoint as checkpoints
from interlock.ledger.proof.merkle import leaf_hash, verify_inclusion
from interlock.ledger.proof.note import VerifierKey, open_note
from interlock.storage.migrate import migrate
from interlock.types.record import Record, request_id
from tests.integration.control_client import Admin, Running, control_over
from tests.integration.ledger.harness import shipper_for
from tests.unit.ledger.support import attempt, intent, open_log, outcome, refusal

SAID = b'{"model":"m","messages":[{"role":"user","content":"what was said"}],"tools":[1,2]}'
STRANGE = ("req_nothing_1", "req_0000000000000000_1", "%00", "x" * 3000, "..%2f..", "'; DROP TABLE x; --")


class Ledger:
    """A control plane whose ledger holds three calls of acme's alice, one refusal, and a call of globex."""

    def __init__(self, running: Running, tmp_path: Path) -> None:
        self.running = running
        owner = self.owner = running.owner
        for tenant in ("acme", "globex"):
            owner.do("POST", "/tenants", {"name": tenant})
        self.people = {}
        for tenant, name, role in (
            ("acme", "alice", ""),
            ("acme", "otto", "auditor"),
            ("acme", "dora", "developer"),
            ("globex", "gina", "auditor"),
        ):
            made = owner.do("POST", f"/tenants/{tenant}/principals", {"name": name})["item"]
            self.people[name] = made["id"]
            if role:
                owner.do("POST", f"/tenants/{tenant}/roles", {"principal": name, "role": role})
        self.tenants = {name: owner.get(f"/tenants/{name}")["id"] for name in ("acme", "globex")}
        self.epoch = asyncio.run(self._record(tmp_path / "log"))
        settings = running.control.settings
        home = Path(settings.home)
        (tmp_path / "log").rename(home / "log")
        shipper = shipper_for(running.control.store, home)
        key = (home / "secrets" / "ledger_key").read_text()
        shipper.pass_once()
        running.control.sequencer.pass_once()
        assert (home / "secrets" / "ledger_key").read_text() == key

    async def _record(self, folder: Path) -> str:
        log = open_log(folder)

        def of(record: Record, tenant: str, name: str) -> Record:
            return msgspec.structs.replace(record, tenant_id=self.tenants[tenant], principal_id=self.people[name])  # type: ignore[type-var]

        for call in (1, 2, 3):
            log.append(of(intent(call, body=SAID), "acme", "alice"))
            log.append(attempt(call))
            log.append(outcome(call, body=b'{"answer":%d}' % call))
        log.append(of(refusal(4), "acme", "alice"))
        log.append(of(intent(5, body=SAID), "globex", "gina"))
        log.append(outcome(5))
        await log.close()
        return log.epoch

    def key(self, tenant: str, name: str) -> Admin:
        """A client as this administrator."""
        body = {"name": f"{name}-key", "principal": name, "scopes": ["admin"]}
        return Admin(self.running.http, self.owner.do("POST", f"/tenants/{tenant}/keys", body)["key"])


@pytest.fixture
def ledger(postgres_migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with control_over_migrated(postgres_migrated_url) as running:
        secrets = Path(running.control.settings.home) / "secrets"
        monkeypatch.setattr(
            "tests.integration.ledger.harness.MASTER", bytes.fromhex((secrets / "ledger_key").read_text().strip())
        )
        yield Ledger(running, tmp_path)


def control_over_migrated(url: str) -> Any:
    """A control plane over a database of its own."""
    from interlock.settings import Settings

    migrate(url, Settings())
    return control_over(url, ledger_checkpoint_s=0)


def looks(ledger: Ledger, tenant: str = "acme") -> list[tuple[str, str, str]]:
    """(action, object, reason) of each look on record, oldest first."""
    items = ledger.owner.get(f"/tenants/{tenant}/changes?limit=200")["items"]
    return [(i["action"], i["object_id"], i["reason"]) for i in reversed(items) if i["action"].startswith("ledger.")]


def test_an_auditor_searches_and_gets_proofs_that_hold(ledger: Ledger) -> None:
    otto = ledger.key("acme", "otto")
    page = otto.get("/tenants/acme/ledger/entries?principal=alice&limit=3")
    assert [item["leaf"]["request"] for item in page["items"]] == [request_id(ledger.epoch, n) for n in (4, 3, 2)]
    rest = otto.get(f"/tenants/acme/ledger/entries?principal=alice&limit=3&before={page['next']}")
    assert [item["leaf"]["request"] for item in rest["items"]] == [request_id(ledger.epoch, 1)] and rest["next"] is None
    for query, count in (
        ("state=refused", 1),
        ("model=m", 3),
        ("kind=energy", 0),
        (f"subject={ledger.people['alice']}", 4),
        ("source=local&state=completed", 3),
        ("since_ns=1&until_ns=2", 0),
        ("team=nobody", 0),
    ):
        assert len(otto.get(f"/tenants/acme/ledger/entries?{query}")["items"]) == count, query
    view = otto.get(f"/tenants/acme/ledger/calls/{request_id(ledger.epoch, 2)}")
    (entry,), (proof,) = view["entries"], view["proofs"]
    said = otto.get("/tenants/acme/ledger/checkpoint")
    signed = checkpoints.parse(open_note(proof["checkpoint"], [VerifierKey.parse(said["keys"][0])]))
    leaf = leaf_hash(msgspec.json.encode(entry["leaf"], order="sorted"))
    path = [bytes.fromhex(each) for each in proof["hashes"]]
    assert verify_inclusion(leaf, entry["position"], signed.size, path, signed.root)
    assert view["contents"] is None and "what was said" not in json.dumps(view)
    assert {action for action, _, _ in looks(ledger)} == {"ledger.search", "ledger.show"}


def test_nobody_else_may_look_and_no_tenant_sees_anothers(ledger: Ledger) -> None:
    request = request_id(ledger.epoch, 2)
    paths = ("entries", f"calls/{request}", f"calls/{request}/replay", "checkpoint", "export?from_ns=0&to_ns=5")
    dora, gina = ledger.key("acme", "dora"), ledger.key("globex", "gina")
    for path in paths:
        status, error = dora.call("GET", f"/tenants/acme/ledger/{path}")
        assert (status, error["error"]["code"]) == (403, "admin_denied"), path
        assert gina.call("GET", f"/tenants/acme/ledger/{path}")[0] == 404, path
    assert gina.call("GET", f"/tenants/globex/ledger/calls/{request}")[0] == 404, "an id of another tenant is no call"
    assert len(gina.get("/tenants/globex/ledger/entries?kind=call")["items"]) == 1
    assert looks(ledger) == []


def test_contents_take_two_grants_and_a_reason(ledger: Ledger) -> None:
    otto = ledger.key("acme", "otto")
    path = f"/tenants/acme/ledger/calls/{request_id(ledger.epoch, 2)}?content=true"
    status, error = otto.call("GET", path)
    assert status == 403 and "payload_reader" in error["error"]["message"]
    assert ledger.owner.call("GET", path)[0] == 403, "an owner neither"
    ledger.owner.do("POST", "/tenants/acme/roles", {"principal": "otto", "role": "payload_reader"})
    assert otto.call("GET", path, reason="")[0] == 400
    contents = otto.call("GET", path, reason="case 9")[1]["contents"]
    assert contents["messages"] == [{"role": "user", "content": "what was said"}]
    assert (contents["tools"], contents["request"], contents["answer"]) == ([1, 2], {"model": "m"}, {"answer": 2})
    assert looks(ledger)[-1] == ("ledger.content", request_id(ledger.epoch, 2), "case 9")
    dora = ledger.key("acme", "dora")
    ledger.owner.do("POST", "/tenants/acme/roles", {"principal": "dora", "role": "payload_reader"})
    assert dora.call("GET", path)[0] == 403, "the second grant alone shows nothing"


def test_strange_requests_are_refused_in_words(ledger: Ledger) -> None:
    for request in STRANGE:
        status, error = ledger.owner.call("GET", f"/tenants/acme/ledger/calls/{request}")
        assert status in (400, 404), (request, status, error)
    for query in ("limit=0", "limit=99999", "before=-1", "since_ns=x", "state=%00", "principal=%00", "model=%ff",
                  "since_ns=99999999999999999999999"):  # fmt: skip
        status, error = ledger.owner.call("GET", f"/tenants/acme/ledger/entries?{query}")
        assert status in ((200, 400) if query == "model=%ff" else (400,)), (query, status, error)
    for query in ("", "?from_ns=5&to_ns=5", "?from_ns=-5&to_ns=5", "?from_ns=0&to_ns=99999999999999999999999"):
        status, error = ledger.owner.call("GET", f"/tenants/acme/ledger/export{query}")
        assert status == 400, (query, status, error)
    status, error = ledger.owner.call("GET", "/tenants/acme/ledger/export?from_ns=0&to_ns=5", reason="")
    assert status == 400 and error["error"]["param"] == "reason"


def test_an_export_holds_the_tenants_entries_and_nothing_of_anothers(ledger: Ledger) -> None:
    answer = ledger.running.http.get(
        "/admin/v1/tenants/acme/ledger/export?from_ns=0&to_ns=9000000000000000000",
        headers={"authorization": f"Bearer {ledger.owner.key}", "x-interlock-reason": "an audit"},
    )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    kinds = [kind for kind, _ in lines]
    assert kinds[0] == "manifest" and kinds[1] == "start" and kinds[-1] == "end"
    held = [json.loads(value)["kind"] for kind, value in lines if kind == "entry"]
    assert (held.count("call"), held.count("refusal"), held.count("change")) == (3, 1, len(held) - 4)
    assert ledger.tenants["globex"] not in answer.text
    assert looks(ledger)[-1][::2] == ("ledger.export", "an audit")
