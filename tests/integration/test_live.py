"""The live view over a real database and real streams: what is seen, by whom, how soon, and within which bounds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.cli.main import main
from interlock.control.console import live as page
from interlock.control.live import feed as feeds
from interlock.control.live.view import Scope
from interlock.control.main import listen, run_control
from interlock.errors import StoreError
from interlock.gateway.running import RunningCalls
from interlock.gateway.teller import Teller
from interlock.settings import Settings
from interlock.storage import nodes
from interlock.types.running import NodeTold, RunningCall, WorkerCalls
from interlock.types.source import SourceState
from tests.unit.control.live.leaves import leaf, refusal

from .control_client import Engines, Running, control_over
from .live_scene import Browser, add, beside, serving

CONFIGURATION = """
sources:
  - {name: shared, kind: vllm, url: "http://127.0.0.1:9", granted_to: ["acme", "globex"]}
tenants:
  - name: acme
    teams: [{name: research, cost_center: "4711"}]
    principals: [{name: olga, kind: user}, {name: vic, kind: user}, {name: rosa, kind: user, teams: [research]}]
    roles: [{principal: olga, role: auditor}, {principal: vic, role: viewer}]
  - name: globex
    principals: [{name: gina, kind: user}]
    roles: [{principal: gina, role: auditor}]
"""
HOSTILE = '<img src=x onerror="x()">{{7*7}}'
PASSWORD = "correct horse battery"
NO_CALLS = RunningCalls(list, 1)
SETTINGS: dict[str, Any] = {"console_streams_max": 4, "console_streams_own_max": 2, "live_calls_max": 100}


class Scene:
    """A control plane with two tenants, on a port."""

    def __init__(self, running: Running, port: int) -> None:
        self.running, self.port, self.control = running, port, running.control
        self.count = 0

    def id(self, tenant: str) -> str:
        return str(self.running.owner.get(f"/tenants/{tenant}")["id"])

    def browser(self, name: str) -> Browser:
        return Browser(self.port, name, PASSWORD)

    def call(self, tenant: str, **changed: Any) -> str:
        """A call that has just ended; its request id."""
        self.count += 1
        request = f"{tenant}_{self.count}"
        add(self.control.store, self.id(tenant), leaf(self.count, time.time() - 0.1, request=request, **changed))
        return request

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def looks(self, tenant: str, action: str = "ledger.live") -> list[str]:
        items = self.running.owner.get(f"/tenants/{tenant}/changes?limit=200")["items"]
        return [item["actor"] for item in items if item["action"] == action]


@pytest.fixture(scope="module")
def scene(postgres_url: str) -> Iterator[Scene]:
    with control_over(postgres_url, **SETTINGS) as running:
        running.owner.apply(CONFIGURATION)
        for tenant, name in (("acme", "olga"), ("acme", "vic"), ("globex", "gina")):
            running.owner.do("POST", f"/tenants/{tenant}/principals/{name}/password", {"password": PASSWORD})
        running.owner.do("POST", "/tenants/platform/principals/admin/password", {"password": PASSWORD})
        with serving(running) as port:
            yield Scene(running, port)


def test_a_call_is_on_open_pages_by_itself_and_leads_to_its_evidence(scene: Scene) -> None:
    olga, admin = scene.browser("acme/olga"), scene.browser("admin")
    with olga.stream() as hers, admin.stream() as all_of_it:
        assert hers.event() is not None and all_of_it.event() is not None
        request = scene.call("acme", where__name=HOSTILE, where__model=HOSTILE, what__alias=HOSTILE, who__team=HOSTILE)
        hers.until(f"/console/calls/acme/{request}")
        all_of_it.until(f"/console/calls/acme/{request}")
        streamed = msgspec.json.encode({"": hers.text}).decode()
        for by in ("source", "model", "team"):
            status, _, text = olga.ask("GET", f"/?by={by}")
            assert status == 200 and f"/console/calls/acme/{request}" in text
            for said in (text, streamed):
                assert (
                    "&lt;img src=x" in said and "<img src=x" not in said and "49" not in said.split("onerror")[1][:40]
                )
    assert scene.looks("acme").count("olga") == 1, "a look is recorded once an hour, not once a second"


def test_one_tenant_sees_nothing_of_another(scene: Scene) -> None:
    scene.call("globex", where__name="globex-only", where__model="secret-model")
    olga = scene.browser("acme/olga")
    for query in ("tenant=globex", "tenant=*", "tenant=*&by=tenant"):
        assert olga.ask("GET", f"/?{query}")[0] in (403, 404)
        assert olga.ask("GET", f"/live/stream?{query}")[0] in (403, 404)
    with scene.browser("admin").stream() as everything, olga.stream() as hers:
        everything.until("globex-only")
        scene.call("globex", where__name="globex-only", where__model="secret-model")
        mine = scene.call("acme")
        hers.until(mine)
        assert hers.event() is not None
        for text in (hers.text, olga.ask("GET", "/")[2]):
            assert "globex" not in text and "secret-model" not in text
            assert "in flight" not in text, "what runs at the platform's sources is not for one tenant"
    for action, names in (("acme", {"olga", "admin"}), ("globex", {"admin"})):
        assert set(scene.looks(action)) == names


def test_calls_of_a_tenant_that_was_deleted_hide_no_page(scene: Scene) -> None:
    scene.running.owner.apply("tenants: [{name: passing}]")
    request, gone = scene.call("passing"), scene.id("passing")
    scene.running.owner.do("DELETE", "/tenants/passing")
    admin = scene.browser("admin")
    with admin.stream() as everything:
        assert everything.event() is not None
        everything.until(request)
    status, _, text = admin.ask("GET", "/?tenant=*")
    assert status == 200 and request in text
    looks = scene.running.owner.get("/tenants/platform/changes?limit=200")["items"]
    assert [each for each in looks if each["action"] == "ledger.live" and each["object_id"] == gone], "it is on record"


def test_whoever_sees_no_usage_lands_on_health(scene: Scene) -> None:
    vic = scene.browser("acme/vic")
    status, headers, _ = vic.ask("GET", "/")
    assert (status, headers["location"]) == (303, "/console/health")
    _, _, text = vic.ask("GET", "/health")
    assert ">Live<" not in text and ">Health<" in text
    with vic.stream() as refused:
        assert refused.status in (403, 404)
    assert scene.running.owner.call("GET", "/live?tenant=nobody")[0] == 404


def test_a_stream_ends_with_the_session_and_with_what_it_may_see(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "CHECK_S", 0.3)
    olga = scene.browser("acme/olga")
    with olga.stream() as hers:
        assert hers.event() is not None
        scene.running.owner.do("DELETE", "/tenants/acme/roles/olga:auditor")
        with contextlib.suppress(AssertionError):
            hers.until("event: over")
        scene.running.owner.do("POST", "/tenants/acme/roles", {"principal": "olga", "role": "auditor"})
        assert "event: over" in hers.text and hers.event() is None
    with olga.stream() as hers:
        assert hers.event() is not None
        with scene.control.store.platform() as conn:
            before = conn.execute("SELECT max(seen_at) FROM interlock.console_sessions").fetchone()
            conn.execute("UPDATE interlock.console_sessions SET seen_at = seen_at - interval '1 minute'")
            aged = conn.execute("SELECT max(seen_at) FROM interlock.console_sessions").fetchone()
        time.sleep(1)
        with scene.control.store.platform() as conn:
            assert conn.execute("SELECT max(seen_at) FROM interlock.console_sessions").fetchone() == aged != before
            conn.execute("DELETE FROM interlock.console_sessions")
        hers.until("event: over")
        assert hers.event() is None


def test_streams_are_bounded(scene: Scene) -> None:
    until_free(scene)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(scene.browser(name).stream()) for name in ("acme/olga", "acme/olga")]
        assert [stream.status for stream in opened] == [200, 200]
        third = stack.enter_context(scene.browser("acme/olga").stream())
        assert third.status == 429 and "console_streams_own_max" in third.text
        more = [stack.enter_context(scene.browser(n).stream()) for n in ("globex/gina", "globex/gina")]
        assert [stream.status for stream in more] == [200, 200]
        assert "interlock_control_live_streams 4.0" in scene.metrics()
        last = stack.enter_context(scene.browser("admin").stream())
        assert last.status == 503 and "console_streams_max" in last.text
    until_free(scene)
    with scene.browser("admin").stream() as again:
        assert again.status == 200, "whoever leaves makes room"


def test_a_control_process_ends_with_pages_open(postgres_empty_url: str, tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), control_port=0, stop_grace_ms=120_000)
    sock, stop, ready = listen(settings), threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run_control,
        args=(settings, postgres_empty_url),
        kwargs={"sock": sock, "stop": stop, "ready": lambda _: ready.set(), "discover": Engines()},
    )
    port = sock.getsockname()[1]
    thread.start()
    assert ready.wait(120)
    password = (tmp_path / "secrets" / "console_password").read_text().strip()
    with Browser(port, "admin", password).stream() as page_of_admin:
        assert page_of_admin.event() is not None
        stop.set()
        page_of_admin.until("event: over")
        thread.join(100)
        assert not thread.is_alive(), "it waits for its pages until the grace is over"


def until_free(scene: Scene) -> None:
    """Wait until no stream is open."""
    hub = scene.control.api.live
    assert hub is not None
    deadline = time.monotonic() + 60
    while hub.streams and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not hub.streams


def test_every_control_process_has_a_feed_of_its_own(scene: Scene) -> None:
    with beside(scene.running) as other, serving(other) as port:
        there = Browser(port, "acme/olga", PASSWORD)
        with scene.browser("acme/olga").stream() as here, there.stream() as elsewhere:
            assert here.event() is not None and elsewhere.event() is not None
            request = scene.call("acme")
            here.until(request)
            elsewhere.until(request)


def test_a_window_is_bounded_and_says_so(scene: Scene) -> None:
    acme, now = scene.id("acme"), time.time()
    add(scene.control.store, acme, *(leaf(n, now - 60 + n / 10, request=f"many_{n}") for n in range(250)))
    view = scene.running.owner.get("/live?tenant=acme")
    for _ in range(300):
        if view["total"]["calls"] == 100:
            break
        time.sleep(0.2)
        view = scene.running.owner.get("/live?tenant=acme")
    assert view["total"]["calls"] == 100 and view["since_s"] < view["window_s"]
    assert view["calls"][0]["request"] == "many_249"


def test_memory_is_bounded_over_all_tenants(scene: Scene) -> None:
    with beside(scene.running, live_bytes_max=1_048_576, live_calls_max=5000) as running:
        ids = {t: str(running.owner.get(f"/tenants/{t}")["id"]) for t in ("acme", "globex")}
        now = time.time()
        add(running.control.store, ids["acme"], *(leaf(n, now - 9, request=f"bulk_{n}") for n in range(3000)))
        add(running.control.store, ids["globex"], *(leaf(n, now - 9, request=f"few_{n}") for n in range(50)))
        view = running.owner.get("/live?by=tenant")
        calls = {row["name"]: row["figures"]["calls"] for row in view["rows"]}
        assert calls["globex"] >= 50, "a busy tenant does not push out the calls of a quiet one"
        windows = running.control.live._windows.values()
        assert sum(window.bytes for window in windows) <= 1_048_576
        assert 500 < calls["acme"] < 3000 and view["since_s"] < view["window_s"]


def test_figures_are_the_same_by_api_and_command_line(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.call("globex", where__name="shared", who__team="", result__state="failed")
    add(scene.control.store, scene.id("globex"), refusal(900, time.time()))
    view = until_view(scene, "globex", lambda v: v["total"]["failures"] == 1 and v["total"]["refusals"] == 1)
    assert view["tenant"] == "globex" and [s["name"] for s in view["sources"]] == ["shared"]
    capsys.readouterr()
    home = scene.control.settings.home
    at = ["--home", home, "--url", f"http://127.0.0.1:{scene.port}"]
    assert main(["live", "--tenant", "globex", "--by", "model", "--once", *at]) == 0
    said = capsys.readouterr().out
    assert "tenant globex" in said and "shared" in said and "failed" in said
    assert main(["live", "--by", "nothing", *at]) == 1
    assert scene.running.owner.call("GET", "/live?tenant=acme&by=tenant")[0] == 400


def test_shares_of_objectives_are_on_the_page_in_the_api_and_on_the_command_line(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"ttft_ms": 300, "latency_ms": 0, "cost_nusd": 900}
    for number in range(4):
        verdicts = {"ttft": "met", "cost": "missed" if number == 0 else "met", "outcome": "met" if number else "missed"}
        scene.call("globex", where__name="shared", where__model="prompt", slo={**asked, **verdicts})
    scene.call("globex", where__name="shared", where__model="careless")
    whole = {"calls": 4, "met": 3, "missed": 1}
    view = until_view(scene, "globex", lambda v: (v["total"]["objectives"] or {"outcome": {}})["outcome"] == whole)
    assert view["total"]["objectives"]["ttft"] == {"calls": 4, "met": 4, "missed": 0}
    assert view["total"]["objectives"]["latency"] is None
    by_model = {r["name"]: r for r in scene.running.owner.get("/live?tenant=globex&by=model")["rows"]}
    assert by_model["prompt"]["figures"]["objectives"]["outcome"] == whole
    assert by_model["careless"]["figures"]["objectives"] is None
    _, _, html = scene.browser("globex/gina").ask("GET", "/?tenant=globex&by=model")
    words = html.replace("\u00a0", " ")
    assert "75 % <small>met objectives</small>" in words and "first byte 100 % of 4, cost 75 % of 4" in words
    assert '<th class="num">Objectives</th>' in html
    other = scene.running.owner.get("/live?tenant=acme")["total"]["objectives"]
    assert other is None, "nothing of another tenant"
    capsys.readouterr()
    at = ["--home", scene.control.settings.home, "--url", f"http://127.0.0.1:{scene.port}"]
    assert main(["live", "--tenant", "globex", "--by", "model", "--once", *at]) == 0
    said = capsys.readouterr().out
    assert "objectives met" in said and said.count("75.0% of 4") == 2
    assert main(["live", "--tenant", "acme", "--once", *at]) == 0
    assert "objectives" not in capsys.readouterr().out


def until_view(scene: Scene, tenant: str, holds: Any) -> dict[str, Any]:
    """The view of a tenant, once something holds of it."""
    for _ in range(600):
        view: dict[str, Any] = scene.running.owner.get(f"/live?tenant={tenant}")
        if holds(view):
            return view
        time.sleep(0.1)
    raise AssertionError(view["total"])


def test_nodes_tell_often_only_while_somebody_watches(scene: Scene, postgres_url: str) -> None:
    quiet(scene)
    with beside(scene.running) as running:
        store, now = running.control.store, running.control.tools.now()
        with store.node() as conn:
            nodes.seen(conn, nodes.Node("node-1", 1, 1, now, now))
        with store.platform() as conn:
            conn.execute("UPDATE interlock.live_watch SET until_at = clock_timestamp()")
            (found,) = conn.execute("SELECT id FROM interlock.sources WHERE name = 'shared'").fetchall()
            conn.execute(
                "UPDATE interlock.sources SET models = %s WHERE name = 'shared'",
                ('[{"name": "m"}]',),
            )
        state = SourceState(found[0], 3, 2, 1, 250, True, False, "open", False)
        unknown = Teller("node-2", postgres_url, Settings(), lambda: [state], NO_CALLS)
        assert asyncio.run(told(unknown)) is None, "it has no row yet"
        teller = Teller("node-1", postgres_url, Settings(), lambda: [state], NO_CALLS)
        assert asyncio.run(told(teller)) is False
        (source,) = running.owner.get("/live")["sources"]
        assert (source["inflight"], source["waiting"], source["state"]) == (3, 2, "breaker open")
        assert asyncio.run(told(teller)) is True, "somebody watches now"
        with store.node() as conn:
            conn.execute("UPDATE interlock.nodes SET sources = %s", (b"of another version",))
        with store.platform() as conn:
            assert nodes.told(conn, 10) == []


def tell(scene: Scene, epoch: str, *calls: RunningCall) -> None:
    """What a node of one worker tells, as its teller writes it; it is never taken for silent."""
    store, now = scene.control.store, scene.control.tools.now()
    counts = {each.tenant_id: sum(c.tenant_id == each.tenant_id for c in calls) for each in calls}
    with store.node() as conn:
        nodes.seen(conn, nodes.Node("runner", 1, 1, now, now))
        data = msgspec.msgpack.encode(NodeTold([], [WorkerCalls(epoch, calls, counts)]))
        conn.execute(
            "UPDATE interlock.nodes SET sources = %s, sources_at = clock_timestamp() + interval '1 hour'"
            " WHERE name = 'runner'",
            (data,),
        )


def running(scene: Scene, tenant: str, request: str, **changed: Any) -> RunningCall:
    """A call that runs, of somebody of this tenant."""
    found = {"asked": HOSTILE, "age_ms": 1000, "state": "streaming", "source": f"{tenant}-source", **changed}
    who = "rosa" if tenant == "acme" else "gina"
    principal = str(scene.running.owner.get(f"/tenants/{tenant}/principals/{who}")["id"])
    return RunningCall(request, scene.id(tenant), "", principal, **found)


def test_running_calls_are_of_ones_own_tenant_until_their_entry_is_there(scene: Scene) -> None:
    until_free(scene)
    mine = running(scene, "acme", "req_mine", pieces=3, why="alias fast; 2 of 2", attempts=2)
    tell(scene, "e1", mine, running(scene, "globex", "req_other", age_ms=9000))
    view = until_view(scene, "acme", lambda v: v["running"])
    (line,) = view["running"]
    assert (line["request"], line["who"], line["tenant"], line["tokens"]) == ("req_mine", "rosa", "acme", 3)
    assert line["attempts"] == 2 and line["why"] == "alias fast; 2 of 2" and view["running_count"] == 1
    olga, admin = scene.browser("acme/olga"), scene.browser("admin")
    with olga.stream() as hers:
        assert hers.event() is not None
        text = olga.ask("GET", "/")[2]
        for said in (text, hers.text):
            assert "req_mine" in said and "req_other" not in said and "globex" not in said
        assert "<img src=x" not in text and "/console/calls/acme/req_mine" not in text, "there is no record yet"
        assert "req_other" in admin.ask("GET", "/")[2]
        assert scene.running.owner.get("/live?order=longest")["running"][0]["request"] == "req_other"
        assert scene.running.owner.get("/live?tenant=globex&source=acme-source")["running"] == []
        assert scene.running.owner.call("GET", "/live?order=loudest")[0] == 400
        add(scene.control.store, scene.id("acme"), leaf(1, time.time() - 1, request="req_mine"))
        tell(scene, "e1")
        hers.until("/console/calls/acme/req_mine")
    assert "admin" in scene.looks("globex"), "who sees a running call looks at it"


def test_a_killed_workers_call_is_marked_and_its_node_may_be_of_another_version(scene: Scene) -> None:
    tell(scene, "e1", running(scene, "acme", "req_killed"))
    until_view(scene, "acme", lambda v: [c["state"] for c in v["running"] if c["request"] == "req_killed"])
    tell(scene, "e2")
    view = until_view(
        scene, "acme", lambda v: [c for c in v["running"] if c["request"] == "req_killed" and c["state"] == "lost"]
    )
    assert view["running_count"] == 0
    with scene.control.store.node() as conn:
        old = msgspec.msgpack.encode([SourceState("src_1", 1, 0, 0, 0, True, False, "closed", False)])
        conn.execute("UPDATE interlock.nodes SET sources = %s WHERE name = 'runner'", (old,))
    with scene.control.store.platform() as conn:
        (told,) = [each for each in nodes.told(conn, 200) if each.node == "runner"]
    assert told.workers is None and told.states[0].id == "src_1", "an earlier version tells of its sources"


def quiet(scene: Scene) -> None:
    """Nobody watches the scene's own control process any more."""
    feed = scene.control.live
    feed._wanted.clear()
    deadline = time.monotonic() + 60
    while works(feed) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not works(feed)


def works(feed: feeds.LiveFeed) -> bool:
    """Whether the feed's thread runs."""
    return feed._thread is not None


async def told(teller: Teller) -> bool | None:
    """One telling."""
    try:
        return await teller._tell()
    finally:
        await teller._database.close()


def test_nobody_watching_costs_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TICK_S", 0.2)
    with beside(scene.running) as running:
        feed = running.control.live
        assert not works(feed)
        running.owner.get("/live?tenant=acme")
        assert works(feed) and feed._windows
        monkeypatch.setattr(feeds, "LINGER_S", 0.5)
        deadline = time.monotonic() + 60
        while works(feed) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not works(feed) and not feed._windows
        assert running.owner.get("/live?tenant=acme")["tenant"] == "acme", "and it begins anew"


def test_a_database_that_is_away_is_told_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with beside(scene.running) as running:
        feed, scope = running.control.live, Scope("", "source")
        before = feed.view(scope)

        def away() -> Any:
            raise StoreError("the database is away")

        monkeypatch.setattr(feed._store, "platform", away)
        deadline = time.monotonic() + 60
        while not feed.view(scope).failing and time.monotonic() < deadline:
            time.sleep(0.1)
        now = feed.view(scope)
        assert "away" in now.failing and now.total.calls == before.total.calls
